"""Means of the metrics, and speed, between two training events of the log. The loop (loop.py) owns one:

    meter.add(metrics)       # after every step
    values = meter.read()    # at every training event

A training event tells the mean over all steps since the event before it, also where a run was stopped in between: the sums lie in every
checkpoint.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

MEANS = ("loss", "error")


class Meter:
    """Collects each step's metrics without waiting for them. Pauses, for evaluation and saving, don't count as training time."""

    def __init__(self, batch_size: int, members: int) -> None:
        self._batch_size, self._members = batch_size, members
        self._reset()

    def _reset(self) -> None:
        self._sums = {name: np.zeros(self._members) for name in MEANS}  # float64, of the steps that have been counted
        self._steps = 0
        self._waiting: list[dict[str, Any]] = []  # metrics of later steps, which may still be on their way
        self._learning_rate = np.zeros(self._members, np.float32)
        self._timed, self._started, self._paused = 0, time.perf_counter(), 0.0

    def add(self, metrics: dict[str, Any]) -> None:
        """Take a step's metrics, arrays (M,) that may still be on their way."""
        self._waiting.append(metrics)
        self._timed += 1

    @contextmanager
    def pause(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - started

    def read(self, go_on: bool = False) -> dict[str, Any]:
        """Since the last reading: the means of `loss` and `error` (M,), the newest `learning_rate` (M,), `images_per_second`.

        With `go_on` the next reading counts from where this one did.
        """
        self._count()  # waits for the steps
        seconds = time.perf_counter() - self._started - self._paused
        speed = self._timed * self._batch_size / max(seconds, 1e-9)
        means = {name: (total / self._steps).astype(np.float32) for name, total in self._sums.items()}
        values = {**means, "learning_rate": self._learning_rate, "images_per_second": speed}
        if not go_on:
            self._reset()
        return values

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the sums since the last reading, and over how many steps they are."""
        self._count()
        return {"sums": dict(self._sums), "steps": np.int64(self._steps)}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._reset()
        self._sums, self._steps = {name: np.array(total) for name, total in state["sums"].items()}, int(state["steps"])

    def _count(self) -> None:
        """Add up what was waiting, step after step, so that a stop in between changes no bit of a sum."""
        for metrics in self._waiting:
            for name, total in self._sums.items():
                total += np.asarray(metrics[name], np.float64)
            self._learning_rate = np.asarray(metrics["learning_rate"])
        self._steps += len(self._waiting)
        self._waiting = []
