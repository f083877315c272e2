"""Writes the log of a run: events.jsonl, TensorBoard files, and lines on the console. history.py reads events.jsonl.

The training loop owns one:

    log.event("checkpoint", 400, path="checkpoints/400")

Each line of events.jsonl is a JSON object with `event`, `step` (optimiser steps done), `time` (UTC), and the fields of its kind of event.
Values for each of M members are lists of length M.

    start       members, member_names, steps, steps_per_epoch, devices (in words), images (of the training split)
    split       message: what several devices share, and why
    memory      message, needed and free (bytes)
    profile     message: which steps are traced, and where
    train       epoch, loss, error, learning_rate, images_per_second, member_images_per_second, waiting (fraction of the time: for data)
    eval        split, epoch, count, loss, top1_error, top5_error, ensemble_top1_error (errors are fractions)
    drop        member, learning_rate (the new one, times the schedule's factor at this step), factor, reason: plateau | control | replay
    rate        member, learning_rate (as above), value (the hyperparameter that was set), reason: control | replay
    checkpoint  path, relative to the run directory
    resume      `step` is the step that the run went back to; evaluated (the step of its last evaluation)
    control     the command's fields, and outcome
    warning     message, and member if it concerns one member; sentinel (one of train/sentinels.py) if one found it
    end         reason: epochs | done | stopped | stalled | diverged; seconds of this process; test (of a finished run): its results

`images_per_second` counts the images that the run reads in a second; texts call it images/s. `member_images_per_second` is this number
times the number of members, since each member trains on every image; texts call it images x members a second. For example, a run of seven
members that reads 312 images/s trains on 2,184 images x members a second. Both leave out the pauses for evaluation and saving.

JSON has no NaN: NaN and the infinities are written as null, and null is read as NaN. A field that is None is not written.
"""

import contextlib
import json
import math
import os
import shlex
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError, cannot_write
from alexnet_jax.history import EVENTS, load, nan_for_null, plain
from alexnet_jax.progress import Bar

TENSORBOARD = "tensorboard"
SHOWN_WAITING = 0.01  # a smaller share of the time is not worth a place on the console
MEMBERS_SHOWN = 4  # the console lists the values of up to this many members, and summarises those of more
_NO_CURVE = ("event", "step", "time", "split", "epoch", "count")


class RunLog:
    """Writes a run's events; a context manager. With `write=False`, as in every process except the first, it writes and shows nothing.

    If the disk refuses a line, the line waits in memory and is tried again, for `patience` seconds.

    On a terminal, a progress bar with the newest training numbers stays on the last line of stderr. Elsewhere, as in the log of a Slurm
    job, each event is one plain line.
    """

    def __init__(self, workdir: str | Path, total_steps: int, patience: float = 0.0, write: bool = True) -> None:
        self._workdir, self._write = Path(workdir), write
        self._waiting = b""  # lines that the disk has not taken yet
        self._patience = patience
        self._refused_since: float | None = None
        self._bar = Bar(total_steps, "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{desc}]")
        self._tensorboard: Any = None
        self._speed = self._metrics = ""
        if not write:
            return
        with writing(self._workdir / EVENTS):
            self._workdir.mkdir(parents=True, exist_ok=True)
            self._names = _member_names(self._workdir)
            # Unbuffered: after a failed write, a buffer would make `close` fail again.
            self._file = open(self._workdir / EVENTS, "ab", buffering=0)  # noqa: SIM115
            _end_torn_line(self._workdir / EVENTS, self._file)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and leave the bar on the screen. May be called twice."""
        self._bar.close()
        if not self._write:
            return
        try:
            if self._waiting:
                with writing(self._workdir / EVENTS):
                    self._write_waiting()
        finally:
            self._file.close()
            self._close_tensorboard()

    def event(self, kind: str, step: int, **fields: Any) -> None:
        """Append one event; see the top of this file for each kind's fields. Arrays may be numpy's or JAX's.

        Raises:
          UserError: the disk has refused it for longer than `patience`, or somebody moved or deleted the run directory.
        """
        if not self._write:
            return
        record = {"event": kind, "step": int(step), "time": datetime.now(UTC).isoformat(timespec="seconds")}
        line = json.dumps(record | {name: plain(value) for name, value in fields.items() if value is not None}, allow_nan=False)
        self._waiting += line.encode() + b"\n"
        try:
            self._write_waiting()
            self._refused_since = None
        except OSError as error:
            self._refused(self._workdir / EVENTS, error)
        event = nan_for_null(json.loads(line))  # so that the console and TensorBoard show what a reader of the file will see
        if kind == "start":
            self._names = event["member_names"]
        self._mirror(event)
        self._show(event)

    def progress(self, step: int) -> None:
        """Move the bar to `step` steps done; does nothing where stderr is not a terminal."""
        if not self._write:
            return
        self._bar.to(step, "".join(f", {part}" for part in (self._speed, self._metrics) if part))

    def _show(self, event: dict) -> None:
        """Show the event on the console: as a line, or, for training on a terminal, at the end of the bar."""
        if event["event"] == "train" and self._bar.terminal:
            self._metrics = f"loss {_members(event['loss'], '.3f')}, lr {_members(event['learning_rate'], '.3g')}"
            self._speed = _speed(event)
            self.progress(event["step"])
        else:
            self._bar.say(describe(event))

    def _mirror(self, event: dict) -> None:
        """Copy the numbers of train and eval events to TensorBoard. At a start or resume, make it forget the later steps."""
        kind, step = event["event"], event["step"]
        if kind not in ("start", "resume", "train", "eval"):
            return
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        if kind in ("start", "resume"):
            content = {"session_log": SessionLog(status=SessionLog.START)}
            step += 1  # TensorBoard forgets from this step on
        else:
            content = {
                "summary": Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(event, self._names)])
            }
        try:
            if self._tensorboard is None:
                self._tensorboard = _new_tensorboard(self._workdir / TENSORBOARD)
            self._tensorboard.write(Event(wall_time=time.time(), step=step, **content).SerializeToString())
            self._tensorboard.flush()  # so that a kill costs no point
        except OSError as error:
            self._close_tensorboard()
            self._refused(self._workdir / TENSORBOARD, error)

    def _write_waiting(self) -> None:
        """Write the lines that wait; on a disk that is nearly full a write takes a part, and only the next one fails."""
        path = self._workdir / EVENTS
        mine = os.fstat(self._file.fileno())
        try:
            there = path.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (mine.st_ino, mine.st_dev):
            raise UserError(f"{path} was moved or deleted while this run was training; put the directory back, then run the same command")
        while self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]

    def _refused(self, path: Path, error: OSError) -> None:
        """Say once that a disk refuses; give up when it has for too long."""
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
            if self._patience:
                goes_on = f"the run goes on and tries again for {self._patience / 60:g} minutes"
                self._bar.say(f"warning: {cannot_write(path, error, goes_on)}")
        if now - self._refused_since >= self._patience:
            raise cannot_write(path, error, "make room, then run the same command again")

    def _close_tensorboard(self) -> None:
        if self._tensorboard is not None:
            writer, self._tensorboard = self._tensorboard, None
            with contextlib.suppress(OSError):  # of its last bytes, which the events have too
                writer.close()


def read_events(workdir: str | Path) -> list[dict]:
    """The events of a run as plain dicts, for scripts of one's own; `history.load` also knows what follows from them.

    Raises:
      UserError: there is no log, or it can't be read.
    """
    return load(workdir).events


def describe(event: dict) -> str:
    """An event as one line for the console. Errors are in percent; more than four members are shown as their mean and range."""
    step, e = f"step {event['step']:,}", event
    match event["event"]:
        case "start":
            members = "1 member" if e["members"] == 1 else f"{e['members']} members"
            epochs = f"{e['steps'] / e['steps_per_epoch']:.1f} epochs of {e['images']:,} images"
            return f"start  {members}, {e['steps']:,} steps ({epochs}) on {e['devices']}"
        case "memory" | "split" | "profile":
            return f"{e['event']}  {e['message']}"
        case "train":
            return (
                f"{step}  epoch {e['epoch']:.2f}  train  loss {_members(e['loss'], '.4f')}  error {_members(e['error'], '.2%')}"
                f"  lr {_members(e['learning_rate'], '.3g')}  {_speed(e)}"
            )
        case "eval":
            return f"{step}  epoch {e['epoch']:.2f}  {e['split']}  loss {_members(e['loss'], '.4f')}  {_errors(e)}"
        case "drop":
            return f"{step}  learning rate of member {e['member']} drops to {e['learning_rate']:.3g} ({e['reason']})"
        case "rate":
            return f"{step}  learning rate of member {e['member']} is set to {e['learning_rate']:.3g} ({e['reason']})"
        case "checkpoint":
            return f"{step}  saved {e['path']}"
        case "resume":
            return f"resume  from {step}"
        case "warning":
            member = f" (member {e['member']})" if "member" in e else ""
            return f"{step}  warning{member}: {e['message']}"
        case "end":
            results = f"  {e['test']['split']}  {_errors(e['test'])}" if "test" in e else ""
            return f"{step}  end ({e['reason']}) after {e['seconds']:,.0f} s{results}"
        case kind:
            return "  ".join([step, kind, *(f"{name}={value}" for name, value in event.items() if name not in ("event", "step", "time"))])


def _speed(train: dict) -> str:
    """Images in a second, and for how much of the time the devices waited for data, where that is worth saying."""
    waiting = train.get("waiting", 0.0)
    return f"{train['images_per_second']:,.0f} images/s" + (f", waiting for data {waiting:.0%}" if waiting >= SHOWN_WAITING else "")


def _errors(result: dict) -> str:
    text = f"top-1 error {_members(result['top1_error'], '.2%')}  top-5 {_members(result['top5_error'], '.2%')}"
    return text if len(result["top1_error"]) == 1 else f"{text}  ensemble {result['ensemble_top1_error']:.2%}"


def _members(values: Sequence[float], form: str) -> str:
    """The values of all members: '0.1 0.2', or '0.15 (0.1..0.2)' for many members, or one value if all look the same."""
    texts = [format(value, form) for value in values]
    if len(set(texts)) == 1:
        return texts[0]
    if len(values) <= MEMBERS_SHOWN:
        return " ".join(texts)
    finite = [value for value in values if math.isfinite(value)]
    lost = f", {len(values) - len(finite)} nan" if len(finite) < len(values) else ""
    return f"{statistics.fmean(finite):{form}} ({min(finite):{form}}..{max(finite):{form}}{lost})"


def command() -> str:
    """The command line of this process, ready to be typed again."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def _scalars(event: dict, names: list[str]) -> Iterator[tuple[str, float]]:
    """The (tag, value) pairs of a train or eval event for TensorBoard, such as ("validation/top1_error/seed=0", 0.4)."""
    group = event.get("split", "train")
    for field, value in event.items():
        if field in _NO_CURVE:
            continue
        if isinstance(value, list):
            yield from ((f"{group}/{field}/{name}", number) for name, number in zip(names, value, strict=True))
        else:
            yield f"{group}/{field}", value


def _new_tensorboard(directory: Path) -> Any:
    """A new TensorBoard file. Not a SummaryWriter: on a full disk its thread dies, and the next calls wait for it for ever."""
    from tensorboardX import RecordWriter
    from tensorboardX.proto.event_pb2 import Event

    directory.mkdir(exist_ok=True)
    writer = RecordWriter(str(directory / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"))
    writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
    return writer


def _member_names(workdir: Path) -> list[str]:
    """The member names that an earlier process of this run logged; empty for a new run."""
    return load(workdir, missing_ok=True).start.get("member_names", [])


def _end_torn_line(path: Path, file: Any) -> None:
    """End the half line that a kill in the middle of a write leaves, so that the next event starts on a new line."""
    if file.seek(0, os.SEEK_END) > 0:
        with path.open("rb") as existing:
            existing.seek(-1, os.SEEK_END)
            if existing.read() != b"\n":
                file.write(b"\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write to `path` into a `UserError` of one line."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from None


def check_place(path: Path) -> None:
    """Refuse a file that can't be written there, before the work whose result it is to hold."""
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        raise UserError(f"cannot write {path}: it is a folder, or its folder doesn't exist")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when it is whole: a full disk or a kill loses nothing that was there before.

    What is no file, such as /dev/stdout, is written itself.

    Raises:
      UserError: it can't be written.
    """
    with writing(path):
        if path.exists() and not path.is_file():
            yield path
            return
        target = path.resolve()  # of a link
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            yield part
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
