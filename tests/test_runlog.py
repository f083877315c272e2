"""The run's log: what lies in the file, what a reader gets back, and what the console shows."""

import io
import json
import math
import re
import resource
import shlex
import shutil
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from alexnet_jax import history
from alexnet_jax.errors import UserError
from alexnet_jax.runlog import RunLog, command, describe, replacing
from tests.stand_in import results_of

START = {"members": 2, "member_names": ["seed=0", "seed=1"], "steps": 100, "steps_per_epoch": 10.0, "devices": "1 cpu", "images": 640}


def train(loss=(2.0, 1.0), learning_rate=(0.01, 0.01)):
    fields = {"loss": loss, "error": [0.5] * len(loss), "learning_rate": learning_rate}
    return {"epoch": 0.5, **fields, "images_per_second": 1234.0, "member_images_per_second": 1234.0 * len(loss)}


def evaluation(top1_error=(0.25, 0.5), ensemble=0.2):
    errors = {"top1_error": top1_error, "top5_error": [0.0] * len(top1_error), "ensemble_top1_error": ensemble}
    return {"split": "validation", "epoch": 1.0, "count": 100, "loss": [0.5] * len(top1_error), **errors}


def tensorboard_events(workdir):
    """The events of all TensorBoard files of a run, from the frames: length, its CRC, the event, its CRC."""
    events = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("alexnet_jax.progress.sys", SimpleNamespace(stderr=stream))  # pytest sets the real one between fixture and test
    return stream


# The file


def test_a_line_is_written_and_flushed_at_once(tmp_path):
    with RunLog(tmp_path, 100) as log:
        log.event("checkpoint", np.int32(3), path="checkpoints/3")
        line = (tmp_path / "events.jsonl").read_text()  # before the log is closed
    event = json.loads(line)
    assert line.endswith("\n")
    assert list(event) == ["event", "step", "time", "path"]
    assert (event["event"], event["step"], event["path"]) == ("checkpoint", 3, "checkpoints/3")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", event["time"])


def test_arrays_become_lists_and_float32_keeps_its_shortest_digits(tmp_path):
    test = {"mean_top1_error": np.float64(0.1), "top1_error": np.array([0.1, 0.2])}
    with RunLog(tmp_path, 100) as log:
        log.event("note", 1, rate=jnp.array([0.01, 0.001]), scalar=np.float32(0.3), count=np.int64(7), test=test, name="x", none=None)
    (event,) = history.load(tmp_path).events
    fields = {name: value for name, value in event.items() if name not in ("event", "step", "time")}
    expected_test = {"mean_top1_error": 0.1, "top1_error": [0.1, 0.2]}
    assert fields == {"rate": [0.01, 0.001], "scalar": 0.3, "count": 7, "test": expected_test, "name": "x"}
    third = np.float32(1 / 3)
    assert np.float32(float(str(third))) == third


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_a_number_is_null_in_the_file_and_nan_for_the_reader(tmp_path, value):
    with RunLog(tmp_path, 100) as log:
        log.event("start", 0, **START)
        log.event("train", 5, **train(loss=np.array([value, 1.0], np.float32)))
        log.event("end", 5, reason="stopped", seconds=1.0, test=results_of([0.1, 0.2], [value, 0.5]))
    raw = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert raw[1]["loss"] == [None, 1.0]
    _, event, end = history.load(tmp_path).events
    assert math.isnan(event["loss"][0])
    assert event["loss"][1] == 1.0
    assert math.isnan(end["test"]["nll"][0])


WHOLE = '{"event": "checkpoint", "step": 7, "time": "2026-01-01T00:00:00+00:00", "path": "x"}'


@pytest.mark.parametrize("torn", ['{"event": "train", "ste', "\0" * 40, WHOLE])
def test_a_torn_last_line_is_skipped_and_the_next_event_starts_afresh(tmp_path, torn):
    with RunLog(tmp_path, 100) as log:
        log.event("checkpoint", 1, path="a")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(torn)
    whole = [7] if torn.endswith("}") else []  # only its newline is missing
    assert [event["step"] for event in history.load(tmp_path).events] == [1, *whole]
    with RunLog(tmp_path, 100) as log:
        log.event("checkpoint", 2, path="b")
    assert [event["step"] for event in history.load(tmp_path).events] == [1, *whole, 2]
    assert b"\n\n" not in (tmp_path / "events.jsonl").read_bytes()


@pytest.mark.parametrize(("kind", "fields"), [("resume", {}), ("start", START)])
def test_going_back_drops_the_curves_of_later_steps_and_nothing_else(tmp_path, kind, fields):
    with RunLog(tmp_path, 100) as log:
        log.event("start", 0, **START)
        for step in (10, 11):
            log.event("train", step, **train())
            log.event("eval", step, **evaluation())
            log.event("drop", step, member=0, learning_rate=0.001, reason="plateau")
            log.event("checkpoint", step, path="x")
            log.event("warning", step, message="x")
        log.event(kind, 10, **fields)
        log.event("train", 11, **train(loss=(7.0, 7.0)))
    events = [(event["event"], event["step"]) for event in history.load(tmp_path).events]
    of_10 = [(kind, 10) for kind in ("train", "eval", "drop", "checkpoint", "warning")]
    assert events == [("start", 0), *of_10, ("warning", 11), (kind, 10), ("train", 11)]
    assert history.load(tmp_path).events[-1]["loss"] == [7.0, 7.0]


def test_an_evaluation_that_comes_again_is_there_once(tmp_path):
    """A run was stopped within its evaluation at 10, finished it when it went on, and died before it saved."""
    with RunLog(tmp_path, 100) as log:
        log.event("start", 0, **START)
        for _ in range(2):
            log.event("resume", 10, evaluated=5)
            log.event("eval", 10, **evaluation())
            log.event("drop", 10, member=0, learning_rate=0.001, reason="plateau")
    assert [event["event"] for event in history.load(tmp_path).events] == ["start", "resume", "resume", "eval", "drop"]


def test_two_resumes_leave_one_history(tmp_path):
    with RunLog(tmp_path, 100) as log:
        log.event("start", 0, **START)
        for steps, back in (((2, 4, 6, 8), 6), ((7, 9), 2), ((3,), None)):
            for step in steps:
                log.event("train", step, **train())
            if back is not None:
                log.event("resume", back)
    assert [event["step"] for event in history.load(tmp_path).trains] == [2, 3]


@pytest.mark.parametrize("name", ["nowhere", "file", "file/below"])
def test_what_is_no_run_directory_is_the_users_error(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a run directory") as error:
        history.load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_disk_that_fills_is_the_users_error_and_costs_one_line(tmp_path):
    tried = []

    def fill():
        with RunLog(tmp_path, 100) as log:
            for step in range(100):
                tried.append(step)
                log.event("checkpoint", step, path=f"checkpoints/{step}")

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*events\.jsonl") as error:
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    data = (tmp_path / "events.jsonl").read_bytes()
    assert len(data) == 1000
    written = data.count(b"\n")
    assert tried == list(range(written + 1))  # the torn line was reported, not the one after it
    with RunLog(tmp_path, 100) as log:
        log.event("checkpoint", 50, path="x")
    assert [event["step"] for event in history.load(tmp_path).events] == [*range(written), 50]


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path):
    kept, link = tmp_path / "answers.json", tmp_path / "link.json"
    kept.write_text("before")
    link.symlink_to(kept)

    def write(path, text, error=None):
        with replacing(path) as file:
            file.write_text(text)
            if error:
                raise error

    with pytest.raises(UserError, match=r"cannot write .*answers\.json: No space left"):
        write(kept, "half", OSError(28, "No space left on device"))
    assert kept.read_text() == "before"
    write(link, "after")
    assert link.is_symlink()
    assert kept.read_text() == "after"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.json", "link.json"]
    write(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(UserError, match="Is a directory"):
        write(tmp_path, "no")


def test_only_the_first_process_writes(tmp_path, terminal):
    with RunLog(tmp_path / "run", 100, write=False) as log:
        log.event("start", 0, **START)
        log.event("train", 5, **train())
        log.progress(6)
    assert not (tmp_path / "run").exists()
    assert terminal.getvalue() == ""


# TensorBoard


def test_tensorboard_has_a_curve_for_each_member(tmp_path):
    with RunLog(tmp_path, 100) as log:
        log.event("start", 0, **START)
        log.event("train", 5, **train(loss=(math.nan, 1.0)))
        log.event("eval", 10, **evaluation())
    version, _, of_train, of_eval = tensorboard_events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (of_train.step, of_eval.step) == (5, 10)
    values = {value.tag: value.simple_value for value in of_train.summary.value}
    assert math.isnan(values.pop("train/loss/seed=0"))
    assert values.pop("train/learning_rate/seed=1") == pytest.approx(0.01)
    assert values == {
        "train/loss/seed=1": 1.0,
        "train/error/seed=0": 0.5,
        "train/error/seed=1": 0.5,
        "train/learning_rate/seed=0": pytest.approx(0.01),
        "train/images_per_second": 1234.0,
        "train/member_images_per_second": 2468.0,
    }
    tags = {value.tag: value.simple_value for value in of_eval.summary.value}
    assert tags["validation/top1_error/seed=0"] == 0.25
    assert tags["validation/top1_error/seed=1"] == 0.5
    assert tags["validation/ensemble_top1_error"] == pytest.approx(0.2)
    assert not {"validation/count", "validation/epoch"} & set(tags)


def test_tensorboard_forgets_what_came_after_a_resume(tmp_path):
    with RunLog(tmp_path, 100) as log:
        log.event("start", 0, **START)
        log.event("train", 12, **train())
    with RunLog(tmp_path, 100) as log:  # another process, which knows the members' names from the file
        log.event("resume", 10)
        log.event("train", 12, **train())
    events = tensorboard_events(tmp_path)
    resumed = [event.step for event in events if event.session_log.status == SessionLog.START]
    assert resumed == [1, 11]  # TensorBoard drops what it has from that step on; the first is the start's
    assert events[-1].summary.value[0].tag == "train/loss/seed=0"
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_a_tensorboard_that_cannot_be_written_is_the_users_error(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    with RunLog(tmp_path, 100) as log, pytest.raises(UserError, match=r"cannot write .*tensorboard"):
        log.event("start", 0, **START)


# The console


def test_without_a_terminal_each_event_is_one_plain_line(tmp_path, capsys):
    with RunLog(tmp_path, 100) as log:
        log.event("start", 0, **START)
        log.progress(5)
        log.event("train", 5, **train())
        log.event("eval", 10, **evaluation())
        log.event("drop", 10, member=1, learning_rate=np.float32(0.001), reason="plateau")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "start  2 members, 100 steps (10.0 epochs of 640 images) on 1 cpu",
        "step 5  epoch 0.50  train  loss 2.0000 1.0000  error 50.00%  lr 0.01  1,234 images/s",
        "step 10  epoch 1.00  validation  loss 0.5000  top-1 error 25.00% 50.00%  top-5 0.00%  ensemble 20.00%",
        "step 10  learning rate of member 1 drops to 0.001 (plateau)",
    ]
    assert "\r" not in err


def test_on_a_terminal_training_moves_the_bar_and_the_rest_are_lines_above_it(tmp_path, terminal):
    with RunLog(tmp_path, 100) as log:
        log.event("start", 0, **START)
        for step in range(1, 6):
            log.progress(step)
        log.event("train", 5, **train())
        log.event("eval", 10, **evaluation())
        log.event("warning", 10, message="slow", member=1)
    lines = [line for line in re.split(r"[\r\n]+", terminal.getvalue()) if line.strip()]
    assert lines[0].startswith("start  2 members")
    assert not any("epoch 0.50  train" in line for line in lines)
    assert any(line.startswith("step 10  epoch 1.00  validation  loss 0.5000") for line in lines)
    assert "step 10  warning (member 1): slow" in lines
    bar = lines[-1]
    assert bar.startswith("  5%|")
    assert "5/100" in bar
    assert "1,234 images/s, loss 2.000 1.000, lr 0.01" in bar
    assert terminal.getvalue()[-1] == "\n"


def test_the_time_left_is_the_mean_of_this_process_also_after_a_resume(tmp_path, terminal, monkeypatch):
    now = 0.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    with RunLog(tmp_path, 1_000_100) as log:
        for step in range(1_000_001, 1_000_011):
            log.progress(step)
            now += 1.0
        now += 90.0  # an evaluation
        log.progress(1_000_011)
        bar = re.split(r"[\r\n]+", terminal.getvalue())[-1]
    # 10 steps took 100 s, so that 89 take 890 s
    assert "1000011/1000100 [01:40<14:50]" in bar


def test_a_bar_goes_back_with_its_run(tmp_path, terminal):
    with RunLog(tmp_path, 100) as log:
        log.progress(1)
        log.progress(50)
        log.event("resume", 20)
        log.progress(21)
    assert "21/100" in terminal.getvalue().splitlines()[-1]


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        ([1.5], "loss 1.5000  "),
        ([1, 2, 3, 4], "loss 1.0000 2.0000 3.0000 4.0000  "),
        ([1, 2, 3, 4, 5], "loss 3.0000 (1.0000..5.0000)  "),
        ([1, 2, 3, 4, math.nan], "loss 2.5000 (1.0000..4.0000, 1 nan)  "),
        ([math.nan] * 5, "loss nan  "),
        ([2] * 5, "loss 2.0000  "),
    ],
)
def test_more_than_four_members_are_a_mean_and_a_range(losses, text):
    assert text in describe({"event": "train", "step": 1} | train(loss=losses, learning_rate=[0.1] * len(losses)))


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"event": "checkpoint", "step": 1000, "path": "checkpoints/1000"}, "step 1,000  saved checkpoints/1000"),
        ({"event": "resume", "step": 1000}, "resume  from step 1,000"),
        ({"event": "warning", "step": 5, "message": "slow"}, "step 5  warning: slow"),
        ({"event": "warning", "step": 5, "message": "nan", "member": 0}, "step 5  warning (member 0): nan"),
        ({"event": "control", "step": 5, "time": "now", "command": "save", "n": 2}, "step 5  control  command=save  n=2"),
        ({"event": "end", "step": 5, "reason": "stopped", "seconds": 3600.4}, "step 5  end (stopped) after 3,600 s"),
        (
            {"event": "end", "step": 5, "reason": "epochs", "seconds": 2, "test": evaluation((0.25,), 0.25) | {"split": "test"}},
            "step 5  end (epochs) after 2 s  test  top-1 error 25.00%  top-5 0.00%",
        ),
    ],
)
def test_describe(event, text):
    assert describe(event) == text


def test_a_command_can_be_typed_again(monkeypatch):
    typed = [
        "/usr/bin/python3",
        "-m",
        "alexnet_jax.train",
        "--config.ensemble.members=lrn=[on,off], seeds=2",
        "--config.data.train_split=train[:9]",
    ]
    monkeypatch.setattr(sys, "orig_argv", typed)
    assert shlex.split(command()) == ["python", *typed[1:]]


def test_a_disk_that_is_full_for_a_while_costs_no_event(tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunLog(tmp_path, 100, patience=60) as log:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
            for step in range(30):
                log.event("checkpoint", step, path=f"checkpoints/{step}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.event("checkpoint", 30, path="checkpoints/30")
    assert [event["step"] for event in history.load(tmp_path).events] == list(range(31))
    assert capsys.readouterr().err.count("the run goes on and tries again for 1 minutes") == 1


@pytest.mark.parametrize("move", ["rename", "delete"])
def test_a_directory_that_is_moved_or_deleted_is_noticed_at_the_next_event(tmp_path, move):
    def log_on():
        with RunLog(tmp_path / "run", 100) as log:
            log.event("checkpoint", 1, path="x")
            if move == "rename":
                (tmp_path / "run").rename(tmp_path / "elsewhere")
            else:
                shutil.rmtree(tmp_path / "run")
            log.event("checkpoint", 2, path="x")

    with pytest.raises(UserError, match=r"events\.jsonl was moved or deleted while this run was training"):
        log_on()


def test_a_console_that_goes_away_ends_nothing(tmp_path, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(5, "Input/output error")

    with RunLog(tmp_path, 100) as log:
        monkeypatch.setattr("sys.stderr", Gone())
        log.event("start", 0, **START)
        log.event("train", 5, **train())
    assert [event["step"] for event in history.load(tmp_path).events] == [0, 5]
