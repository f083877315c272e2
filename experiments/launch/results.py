"""What the runs of an experiment have left on disk: how far each is, and each point's errors over its seeds."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.runlog import EVENTS, read_events
from alexnet_jax.train.inbox import is_running
from experiments.launch.points import Point, Program

FAILURE = "failure.txt"  # in the directory of a run that failed: its error in one line
LOG = "train.log"  # what the run's process printed


class Result(NamedTuple):
    """The errors of one point, a number for each seed; errors are fractions. A diverged member errs on every image."""

    point: Point
    seeds: list[int]
    validation_error: np.ndarray  # float64 (seeds,), top-1, of the last evaluation
    test_error: np.ndarray  # float64 (seeds,), top-1
    workdir: Path
    members: list[int]  # their numbers in the run
    diverged: tuple[int, ...] = ()  # those of `seeds` whose network says NaN


class Status(NamedTuple):
    """How far a run is."""

    state: str  # waiting | running | interrupted | failed | finished
    step: int = 0  # of an interrupted one: where it goes on
    steps: int = 0  # 0 before it has begun
    error: str = ""  # of a failed one


def collect(programs: Iterable[Program]) -> list[Result]:
    """The results of every point whose run has finished, in the order of the programs."""
    return [result for program in programs if status(program.directory).state == "finished" for result in _results(program)]


def status(directory: Path) -> Status:
    """How far the run in a directory is; it need not exist."""
    events = _events(directory)
    start: dict = next((event for event in reversed(events) if event["event"] == "start"), {})
    step, steps = (events[-1]["step"] if events else 0), start.get("steps", 0)
    if is_running(directory):
        return Status("running", step, steps)
    if _test(events):  # also where the process failed after it, as when its report could not be written
        return Status("finished", step, steps)
    if (directory / FAILURE).exists():
        return Status("failed", step, steps, (directory / FAILURE).read_text(encoding="utf-8").strip())
    saved = max((event["step"] for event in events if event["event"] == "checkpoint"), default=0)
    return Status("interrupted", saved, steps) if start else Status("waiting")


def progress(directory: Path) -> float:
    """The share of its steps that a run has done, from its log."""
    try:
        lines = (directory / EVENTS).read_bytes().split(b"\n")[:-1]
    except OSError:
        return 0.0
    starts = [line for line in lines if line.startswith(b'{"event": "start"')]
    try:
        return min(1.0, json.loads(lines[-1])["step"] / json.loads(starts[-1])["steps"])
    except (IndexError, ValueError, KeyError):  # nothing yet, or a line that a kill tore
        return 0.0


def same_split(programs: Iterable[Program]) -> str:
    """The split that finished runs were both validated and tested on; empty where these differ, as they should."""
    for program in programs:
        events = _events(program.directory)
        test, evaluated = _test(events), [event for event in events if event["event"] == "eval"]
        if test and evaluated and test["split"] == evaluated[-1]["split"]:
            return test["split"]
    return ""


def _results(program: Program) -> list[Result]:
    """The points of a run that has finished.

    Raises:
      UserError: the run has other members than the program, or was never evaluated.
    """
    directory, seeds = program.directory, program.seeds
    events = read_events(directory)
    test, evaluated = _test(events), [event for event in events if event["event"] == "eval"]
    if not evaluated or len(test["top1_error"]) != program.members:
        raise UserError(
            f"{directory} holds a run of {len(test['top1_error'])} members, expected {program.members}; delete it to run it anew"
        )
    validation = np.array(evaluated[-1]["top1_error"], float)
    tested = np.array(test["top1_error"], float)
    lost = ~np.isfinite(np.array(test["nll"], float)) | ~np.isfinite(np.array(evaluated[-1]["loss"], float))
    first = json.loads((directory / "config.json").read_text())["config"]["ensemble"]["seed"]
    results = []
    for i, point in enumerate(program.points):
        members = list(range(i * seeds, (i + 1) * seeds))
        diverged = tuple(first + s for s, member in enumerate(members) if lost[member])
        results.append(Result(point, list(range(first, first + seeds)), validation[members], tested[members], directory, members, diverged))
    return results


def _test(events: list[dict]) -> dict:
    """The test results of a finished run; empty while it is going, also after an earlier end."""
    last = [event for event in events if event["event"] in ("start", "resume", "end")][-1:]
    return last[0].get("test", {}) if last else {}


def _events(directory: Path) -> list[dict]:
    return read_events(directory) if (directory / EVENTS).exists() else []
