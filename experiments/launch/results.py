"""Reads what the runs of an experiment have written: how far each run is, and the errors of each point's networks.

launch/ asks for the status of runs; `sweep` and `ablate` collect the results:

    status(program.directory).state    # "finished"
    for result in collect(programs):
        print(result.point.name, result.test_error.mean())
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax import history
from alexnet_jax.errors import UserError
from alexnet_jax.record import read_config
from alexnet_jax.train.inbox import is_running
from experiments.launch.points import Point, Program

FAILURE = "failure.txt"  # in the directory of a failed run: its error in one line
NEARLY_ALL = 0.99  # of the images: networks that never learnt may answer another class for a few
LOG = "train.log"  # in a run's directory: what its process printed


class Result(NamedTuple):
    """The errors of one point's N networks, one after another for each order of the images; errors are fractions.

    A diverged network has an error of 1. A network's seed names it, since no two orders share a seed.
    """

    point: Point
    seeds: list[int]
    validation_error: np.ndarray  # float64 (N,), top-1, of the last evaluation
    test_error: np.ndarray  # float64 (N,), top-1
    runs: tuple[tuple[Path, list[int]], ...]  # for each order its run, and the numbers of the point's members in it
    diverged: tuple[int, ...] = ()  # those of `seeds` whose network diverged to NaN

    @property
    def orders(self) -> list[int]:
        """For each network the number of its run in `runs`, hence of its order of the images."""
        return [order for order, (_, members) in enumerate(self.runs) for _ in members]


class Status(NamedTuple):
    """How far a run is."""

    state: str  # waiting | running | interrupted | failed | finished
    step: int = 0  # the last one; of an interrupted run the step where it continues
    steps: int = 0  # of the whole run; 0 before it has begun
    error: str = ""  # of a failed run


def collect(programs: Iterable[Program]) -> list[Result]:
    """The results of every point whose runs, one for each order of the images, have all finished; in the order of the programs."""
    found: dict[str, list[Result | None]] = {}
    for program in programs:
        finished = status(program.directory).state == "finished"
        for point, result in zip(program.points, _results(program) if finished else [None] * len(program.points), strict=True):
            found.setdefault(point.name, []).append(result)
    return [_joined([result for result in each if result]) for each in found.values() if None not in each]


def _joined(results: list[Result]) -> Result:
    """The networks of a point in all its orders."""
    return Result(
        results[0].point,
        [seed for result in results for seed in result.seeds],
        np.concatenate([result.validation_error for result in results]),
        np.concatenate([result.test_error for result in results]),
        tuple(run for result in results for run in result.runs),
        tuple(seed for result in results for seed in result.diverged),
    )


class Answers(NamedTuple):
    """What a point's N networks answer for the K test images."""

    classes: np.ndarray  # int (N, K)
    labels: np.ndarray  # int (K,)


def answers(result: Result) -> Answers:
    """The classes that the point's networks answer for the test images.

    Raises:
      UserError: a run's predictions are missing or damaged.
    """
    from alexnet_jax import run

    found = [run.load_predictions(directory) for directory, _ in result.runs]
    classes = [each["answer"][members] for each, (_, members) in zip(found, result.runs, strict=True)]
    return Answers(np.concatenate(classes), found[0]["label"])


def never_learnt(result: Result, answers: Answers) -> np.ndarray:
    """Which of the point's N networks answer the same class for all images or nearly all, though they didn't diverge; bool (N,).

    Where nearly all images are of one class, that is no sign.
    """
    most = np.array([np.bincount(row).max() for row in [*answers.classes, answers.labels]]) / len(answers.labels)
    return (most[:-1] >= NEARLY_ALL) & (most[-1] < NEARLY_ALL) & ~np.isin(result.seeds, result.diverged)


def status(directory: Path) -> Status:
    """How far the run in a directory is; the directory need not exist."""
    past = history.load(directory, missing_ok=True)
    steps = past.start.get("steps", 0)
    if is_running(directory):
        return Status("running", past.step, steps)
    if past.test:  # also if the process failed after its test, for instance because its report could not be written
        return Status("finished", past.step, steps)
    if (directory / FAILURE).exists():
        return Status("failed", past.step, steps, (directory / FAILURE).read_text(encoding="utf-8").strip())
    saved = max((event["step"] for event in past.checkpoints), default=0)
    return Status("interrupted", saved, steps) if past.start else Status("waiting")


def same_split(programs: Iterable[Program]) -> str:
    """The split that finished runs were both validated and tested on; empty if they used two splits, as they should."""
    for program in programs:
        past = history.load(program.directory, missing_ok=True)
        if past.test and past.evals and past.test["split"] == past.evals[-1]["split"]:
            return past.test["split"]
    return ""


def _results(program: Program) -> list[Result]:
    """The results of the points of a finished run.

    Raises:
      UserError: the run has another number of members than the program, or was never evaluated.
    """
    directory, seeds = program.directory, program.seeds
    past = history.load(directory)
    test, evaluated = past.test, past.evals
    if not evaluated or len(test["top1_error"]) != program.members:
        raise UserError(
            f"{directory} holds a run of {len(test['top1_error'])} members, expected {program.members}; delete it to train it again"
        )
    validation = np.array(evaluated[-1]["top1_error"], float)
    tested = np.array(test["top1_error"], float)
    lost = ~np.isfinite(np.array(test["nll"], float)) | ~np.isfinite(np.array(evaluated[-1]["loss"], float))
    first = read_config(directory)["config"]["ensemble"]["seed"]
    results = []
    for i, point in enumerate(program.points):
        members = list(range(i * seeds, (i + 1) * seeds))
        diverged = tuple(first + s for s, member in enumerate(members) if lost[member])
        own = list(range(first, first + seeds))
        results.append(Result(point, own, validation[members], tested[members], ((directory, members),), diverged))
    return results
