"""Reads the log of a run. No other module reads events.jsonl, which runlog.py writes.

Reports, control, replayed runs, sweeps and ablations call it:

    past = history.load("runs/digits")
    past.test["mean_top1_error"]           # 0.0103, once the run has finished
    past.learning_rates                    # [0.001, 0.01]: the learning rate of each member now
    [event["step"] for event in past.drops]

An event is a dict with the fields that runlog.py lists. `Follower` follows a run that is training, and reads every line once.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.events import Known

EVENTS = "events.jsonl"
# Kinds of events that a run repeats after it went back to an earlier step. It repeats its sentinels' warnings too.
_REPEATED = ("train", "eval", "drop", "rate", "checkpoint", "control")


@dataclass(frozen=True)
class History:
    """The events of a run, and values derived from them. `load` makes one from a whole log, `Follower.read` from a part of one."""

    events: list[dict]  # in the order of the log
    damaged: int = 0  # lines of the log that could not be read and were left out

    def of_kind(self, *kinds: str) -> list[dict]:
        """The events of some kinds, in the order of the log: `past.of_kind("memory")`."""
        return [event for event in self.events if event["event"] in kinds]

    # Events by kind

    @cached_property
    def start(self) -> dict:
        """The newest start event; empty if there is none."""
        starts = self.of_kind("start")
        return starts[-1] if starts else {}

    @cached_property
    def end(self) -> dict:
        """The event that ended the run; empty while the run is training, also if it had ended before."""
        last = self.of_kind("start", "resume", "end")[-1:]
        return last[0] if last and last[0]["event"] == "end" else {}

    @cached_property
    def test(self) -> dict:
        """The results of the finished run on its test split; empty if there are none."""
        return self.end.get("test", {})

    @cached_property
    def trains(self) -> list[dict]:
        return self.of_kind("train")

    @cached_property
    def evals(self) -> list[dict]:
        return self.of_kind("eval")

    @cached_property
    def checkpoints(self) -> list[dict]:
        return self.of_kind("checkpoint")

    @cached_property
    def drops(self) -> list[dict]:
        return self.of_kind("drop")

    @cached_property
    def rates(self) -> list[dict]:
        """All changes of a learning rate: drops, which have a `factor`, and rates that were set, which have a `value`."""
        return self.of_kind("drop", "rate")

    @cached_property
    def controls(self) -> list[dict]:
        """The answers to commands (control.py)."""
        return self.of_kind("control")

    @cached_property
    def warnings(self) -> list[dict]:
        return self.of_kind("warning")

    @property
    def told(self) -> set[tuple[str, int | None]]:
        """(sentinel, member) of the sentinels' warnings (train/sentinels.py)."""
        return {(event["sentinel"], event.get("member")) for event in self.warnings if "sentinel" in event}

    @cached_property
    def happenings(self) -> list[dict]:
        """All events that are neither a point of a curve nor a checkpoint."""
        return [event for event in self.events if event["event"] not in ("train", "eval", "checkpoint")]

    # Values derived from them

    @property
    def step(self) -> int:
        """The step of the last event, which is the number of steps done."""
        return self.events[-1]["step"] if self.events else 0

    def epoch_of(self, event: dict) -> float:
        return event["step"] / self.start["steps_per_epoch"] if self.start else math.nan

    @cached_property
    def speeds(self) -> list[float]:
        """`images_per_second` of each training event: images that the run read in a second, for any number of members."""
        return [event["images_per_second"] for event in self.trains]

    @property
    def waiting(self) -> float:
        """The fraction of the training time for which the devices waited for data."""
        seconds = [1 / event["images_per_second"] for event in self.trains]  # of an image
        return (
            sum(event.get("waiting", 0.0) * each for event, each in zip(self.trains, seconds, strict=True)) / sum(seconds)
            if seconds
            else 0.0
        )

    @cached_property
    def rate_curve(self) -> list[tuple[float, list[float]]]:
        """(epoch, the learning rate of each member) at each training event and at each change of a learning rate."""
        curve: list[tuple[float, list[float]]] = []
        for event in self.of_kind("train", "drop", "rate"):
            if event["event"] == "train":
                curve.append((event["epoch"], event["learning_rate"]))
            elif curve:
                rates = list(curve[-1][1])
                rates[event["member"]] = event["learning_rate"]
                curve.append((self.epoch_of(event), rates))
        return curve

    @property
    def learning_rates(self) -> list[float]:
        """The current learning rate of each member; empty before the first training event."""
        return self.rate_curve[-1][1] if self.rate_curve else []

    @cached_property
    def drop_counts(self) -> list[int]:
        """How often the learning rate of each member was dropped."""
        members = [event["member"] for event in self.drops]
        return [members.count(member) for member in range(self.start["members"])]

    @cached_property
    def seconds(self) -> float:
        """How long processes worked on the run, by the times of the events. Pauses before a start or a resume do not count, nor does a
        clock that was set back.
        """
        pairs = pairwise(self.events)
        return sum(max(0.0, (time_of(b) - time_of(a)).total_seconds()) for a, b in pairs if b["event"] not in ("start", "resume"))

    @property
    def pace(self) -> tuple[int, float]:
        """The steps and the seconds of the run's last process; zeros while it is training."""
        return (self.end["step"] - self.start["step"], self.end["seconds"]) if self.start and self.end else (0, 0.0)


class Follower:
    """Follows the log of a run that is training. It reads each line once, so a long log costs no time.

        log = Follower("runs/digits")
        while log.progress() < 1:
            time.sleep(1)

    The log need not exist yet. `skip` leaves out the lines that it has now.
    """

    def __init__(self, workdir: str | Path, skip: bool = False) -> None:
        self._path = Path(workdir) / EVENTS
        self._offset = self._path.stat().st_size if skip and self._path.exists() else 0
        self._known = Known()
        self.step = self.steps = 0  # done, and in all, as the log says

    def read(self) -> History:
        """The events that were appended since the last call. A line that is still being written comes with a later call."""
        content = _content(self._path, self._offset)
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = _history(whole.splitlines(), self._known)
        self.step = new.step if new.events else self.step
        self.steps = new.start.get("steps", self.steps)
        return new

    def progress(self) -> float:
        """The fraction of its steps that the run has done."""
        self.read()
        return min(1.0, self.step / self.steps) if self.steps else 0.0


def load(workdir: str | Path, missing_ok: bool = False) -> History:
    """The history of a run directory. A null in the log becomes NaN.

    A run that goes back to step s, at a resume or a new start, repeats the later steps. Their earlier train, eval, drop, rate and
    checkpoint events are left out, so that each step appears once in a curve. An earlier evaluation at s is left out too if the run
    repeats it.

    Args:
      missing_ok: whether a directory without a log has an empty history.

    Raises:
      UserError: there is no events.jsonl, or it cannot be read.
    """
    path = Path(workdir) / EVENTS
    if not missing_ok and not path.exists():
        raise UserError(f"{workdir} is not a run directory: it has no {EVENTS}; pass a directory that alexnet_jax.train made")
    return _history(_content(path, 0).splitlines(), Known())


def missing(workdir: str | Path, step: int, events: list[dict]) -> list[dict]:
    """Those of some events of a step that the log doesn't have: what a kill kept a run from logging."""

    def name(event: dict) -> tuple:
        return event["event"], event.get("member"), event.get("id")

    logged = {name(event) for event in load(workdir, missing_ok=True).events if event["step"] == step}
    return [event for event in events if name(event) not in logged]


def is_imported(workdir: str | Path) -> bool:
    """Whether alexnet_jax.weights made the run directory and nobody trained in it: it has a checkpoint and no log."""
    return has_checkpoint(workdir) and not (Path(workdir) / EVENTS).exists()


def has_checkpoint(workdir: str | Path) -> bool:
    """Whether a run has saved a checkpoint."""
    return saved_step(workdir) >= 0


def saved_step(workdir: str | Path) -> int:
    """The step of a run's newest checkpoint; -1 if there is none."""
    names = (path.name for path in (Path(workdir) / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdecimal()), default=-1)  # other names are saves that a kill interrupted


def time_of(event: dict) -> datetime:
    return datetime.fromisoformat(event["time"])


def plain(value: Any) -> Any:
    """Convert a value for JSON: arrays to lists, a float32 to its shortest digits (0.01, not 0.00999999978), NaN and infinities to None."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.ndim:
            return [plain(item) for item in array]
        value = float(str(array)) if array.dtype == np.float32 else array.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def nan_for_null(value: Any) -> Any:
    """Replace each None by NaN: the inverse of `plain`."""
    if isinstance(value, dict):
        return {name: nan_for_null(item) for name, item in value.items()}
    if isinstance(value, list):
        return [nan_for_null(item) for item in value]
    return math.nan if value is None else value


def _content(path: Path, offset: int) -> bytes:
    """The bytes of a log from an offset on; empty if there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _history(lines: Iterable[bytes], known: Known) -> History:
    events: list[dict] = []
    damaged = closed = 0  # `closed`: the step at which the run ended, where that was no regular one
    for event in _parsed(lines, known):
        if event is None:
            damaged += 1
            continue
        if event["event"] in ("start", "resume"):
            events = [e for e in events if not _is_repeated(e) or _still_holds(e, event)]
        if closed and event["event"] == "train" and event["step"] > closed:
            # The run went on after its former end. What it logged only because it ended there is not part of the longer run.
            events, closed = [e for e in events if not e.get("closing")], 0
        if event.get("closing"):
            closed = event["step"]
        events.append(event)
    return History(events, damaged)


def _parsed(lines: Iterable[bytes], known: Known) -> Iterator[dict | None]:
    """Each line as an event; None for a damaged line, such as half a line after a kill."""
    for line in lines:
        try:
            event = nan_for_null(json.loads(line))
        except (ValueError, RecursionError):
            yield None
            continue
        yield event if known.whole(event) else None


def _is_repeated(event: dict) -> bool:
    """Whether a run that went back to an earlier step says it again."""
    return event["event"] in _REPEATED or "sentinel" in event


def _still_holds(event: dict, back: dict) -> bool:
    """Whether an event still holds after the run went back with the start or resume event `back`."""
    evaluation = event["event"] == "eval" or event.get("reason") == "plateau"
    return event["step"] <= (back.get("evaluated", back["step"]) if evaluation else back["step"])
