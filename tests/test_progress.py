"""How far a command is: a bar on a terminal, plain lines elsewhere."""

import io
import re
import sys
import time

import pytest

from alexnet_jax.progress import Bar, ImageBar


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def new_terminal():
    """A stream that takes itself for a terminal and keeps what it was told."""
    stream = io.StringIO()
    stream.isatty = lambda: True
    return stream


def test_plain_lines_come_now_and_then(clock, capsys):
    with ImageBar(400, "train", every=10) as bar:
        for clock[0] in (4, 11, 12, 25):
            bar.add(100)
    assert capsys.readouterr().err.splitlines() == [
        "train: 200 of 400 images (50%), 18 images/s",
        "train: 400 of 400 images (100%), 16 images/s",
    ]


def test_a_line_that_was_said_counts_as_one(clock, capsys):
    with Bar(10, every=60) as bar:
        clock[0] = 59
        bar.to(1, "one")
        bar.say("finished")
        clock[0] = 118
        bar.to(2, "two")
        clock[0] = 119
        bar.to(3, "three")
    assert capsys.readouterr().err.splitlines() == ["finished", "three"]


def test_on_a_terminal_lines_stand_above_the_bar(monkeypatch):
    stream = new_terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Bar(10, "{n_fmt}/{total_fmt} {desc}", every=0) as bar:
        bar.say("before")
        assert stream.getvalue() == "before\n"  # no bar yet
        bar.to(4, "four")
        bar.say("a line")
        bar.to(2, "gone back")
    lines = [line.strip() for line in re.split(r"[\r\n]+", stream.getvalue()) if line.strip()]
    assert lines[:3] == ["before", "4/10 four", "a line"]
    assert lines[-1] == "2/10 gone back"


def test_other_streams(capsys):
    with Bar(1) as bar:
        bar.say("answer", sys.stdout)
    assert capsys.readouterr() == ("answer\n", "")


def test_images_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ImageBar(400, "train") as bar:
        bar.add(0)
        bar.add(400)
    assert "| train: 400 of 400 images (100%), " in capsys.readouterr().err


def test_what_a_file_does_not_take_is_no_console_that_went_away():
    with open("/dev/full", "w") as full, pytest.raises(OSError, match="No space left"), Bar(10) as bar:
        bar.say("an answer" * 2000, full)
