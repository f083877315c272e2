"""The signals that ask a run to stop, and those that it ignores."""

import signal

import pytest

from alexnet_jax.train.inbox import SIGNALS, Inbox, StopSignal


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_asks_for_a_stop_and_is_given_back(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert signal.getsignal(number) == before


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_line_with_a_value_that_no_command_has_is_left_out(tmp_path):
    deep = b'{"command": "drop", "by": ' + b"[" * 400 + b"]" * 400 + b"}\n"
    (tmp_path / "control.jsonl").write_bytes(deep + b'{"command": "save", "id": "a"}\n')
    assert [command["id"] for command in Inbox(tmp_path).poll(now=True)] == ["a"]
