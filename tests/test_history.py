"""The one reader of runs: events by kind, what follows from them, damaged lines, and a log that is followed while it grows."""

import json

import pytest

from alexnet_jax import history
from alexnet_jax.history import Follower
from alexnet_jax.runlog import RunLog
from tests.stand_in import results_of

START = {"members": 2, "member_names": ["a", "b"], "steps": 20, "steps_per_epoch": 10.0, "devices": "1 cpu", "images": 640}


def train(log, step, rates=(0.02, 0.02)):
    speed = {"images_per_second": 100.0, "member_images_per_second": 200.0}
    log.event("train", step, epoch=step / 10, loss=[1.0, 2.0], error=[0.5, 0.5], learning_rate=list(rates), **speed)


def test_a_run_without_a_log_has_an_empty_history(tmp_path):
    past = history.load(tmp_path, missing_ok=True)
    assert (past.events, past.start, past.end, past.test, past.learning_rates, past.step, past.damaged) == ([], {}, {}, {}, [], 0, 0)
    assert past.pace == (0, 0.0)


@pytest.mark.parametrize(
    "line",
    [b'{"event": "train", "ste', b"\0" * 40, b"[1, 2]", b"7", b'{"step": 3}', b'{"event": "train"}', b'{"event": 1, "step": 3}', b"\xff{}"],
)
def test_damaged_lines_are_counted_and_the_others_read(tmp_path, line):
    with RunLog(tmp_path, 20) as log:
        log.event("start", 0, **START)
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with RunLog(tmp_path, 20) as log:
        train(log, 5)
    past = history.load(tmp_path)
    assert past.damaged == 1
    assert [event["step"] for event in past.events] == [0, 5]
    assert past.speeds == [100]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("train", {"loss": [1.0]}),
        ("train", {"loss": [1.0, "x"]}),
        ("train", {"epoch": True}),
        ("train", {"images_per_second": 1e300}),
        ("train", {"learning_rate": None}),
        ("train", {"step": -1}),
        ("train", {"time": "yesterday"}),
        ("train", {"time": "2026-01-01T00:00:00"}),
        ("drop", {"member": 2}),
        ("drop", {"member": "0"}),
        ("start", {"steps_per_epoch": 0}),
        ("start", {"member_names": ["a"]}),
        ("end", {"test": {"split": "test"}}),
    ],
)
def test_a_line_without_what_its_readers_use_is_damaged(tmp_path, kind, change):
    with RunLog(tmp_path, 20) as log:
        log.event("start", 0, **START)
        train(log, 5)
        log.event("drop", 6, member=1, learning_rate=0.002, factor=0.1, reason="plateau")
        log.event("end", 7, reason="epochs", seconds=1.0, test=results_of([0.1, 0.2], [0.5, 0.5]))
    assert history.load(tmp_path).damaged == 0
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    changed = [event | change if event["event"] == kind else event for event in lines]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in changed))
    past = history.load(tmp_path)
    assert past.damaged == 1
    assert [event["event"] for event in past.events] == [event["event"] for event in lines if event["event"] != kind]


def test_the_rates_in_force_follow_drops_and_rates_that_were_set(tmp_path):
    with RunLog(tmp_path, 20) as log:
        log.event("start", 0, **START)
        train(log, 5)
        log.event("drop", 6, member=1, learning_rate=0.002, factor=0.1, reason="plateau")
        log.event("rate", 7, member=0, learning_rate=0.005, value=0.005, reason="control")
    past = history.load(tmp_path)
    assert past.rate_curve == [(0.5, [0.02, 0.02]), (0.6, [0.02, 0.002]), (0.7, [0.005, 0.002])]
    assert past.learning_rates == [0.005, 0.002]
    assert past.drop_counts == [0, 1]
    assert [event["step"] for event in past.rates] == [6, 7]


def test_an_end_is_the_end_until_the_run_goes_on(tmp_path):
    with RunLog(tmp_path, 20) as log:
        log.event("start", 4, **START)
        log.event(
            "end",
            20,
            reason="epochs",
            seconds=8.0,
            test=results_of([0.1, 0.2], [0.5, 0.5]),
        )
        past = history.load(tmp_path)
        assert (past.end["reason"], past.test["split"], past.pace) == ("epochs", "test", (16, 8.0))
        log.event("resume", 20)
    past = history.load(tmp_path)
    assert (past.end, past.test, past.pace) == ({}, {}, (0, 0.0))


def test_a_log_is_followed_line_by_line(tmp_path):
    follower, path = Follower(tmp_path), tmp_path / "events.jsonl"
    assert follower.progress() == 0  # there is no log yet
    with RunLog(tmp_path, 20) as log:
        log.event("start", 0, **START)
        train(log, 5)
    assert [event["step"] for event in follower.read().trains] == [5]
    assert follower.read().events == []
    assert follower.progress() == 0.25
    line = json.dumps({"event": "checkpoint", "step": 10, "time": "2026-01-01T00:00:00+00:00", "path": "checkpoints/10"}).encode() + b"\n"
    with path.open("ab", buffering=0) as file:
        file.write(line[:20])
        assert follower.progress() == 0.25  # the line is still being written
        file.write(line[20:])
        assert follower.progress() == 0.5
    skipping = Follower(tmp_path, skip=True)
    with RunLog(tmp_path, 20) as log:
        log.event("end", 10, reason="stopped", seconds=1.0)
    assert [event["event"] for event in skipping.read().events] == ["end"]
