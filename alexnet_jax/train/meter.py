"""Means of the metrics, and speed, between two training events of the log. The loop (loop.py) owns one:

    meter.add(metrics, waited=0.0)    # after every step
    values = meter.read()             # at every training event

A training event tells the mean over all steps since the event before it, also where a run was stopped in between: the sums lie in every
checkpoint, and with them the step at which each member was frozen.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

MEANS = ("loss", "error")
NEVER = -1  # in place of the step that froze a member


class Meter:
    """Collects each step's metrics without waiting for them. Pauses, for evaluation and saving, don't count as training time."""

    def __init__(self, batch_size: int, members: int) -> None:
        self._batch_size, self._members = batch_size, members
        self._counted = 0  # the step up to which metrics are in the sums
        self._frozen = np.full(members, NEVER)
        self._reset()

    def _reset(self) -> None:
        self._sums = {name: np.zeros(self._members) for name in MEANS}  # float64, of the steps that have been counted
        self._steps = 0
        self._waiting: list[dict[str, Any]] = []  # metrics of later steps, which may still be on their way
        self._learning_rate = np.zeros(self._members, np.float32)
        self._timed, self._started, self._paused, self._waited = 0, time.perf_counter(), 0.0, 0.0

    def add(self, metrics: dict[str, Any], waited: float) -> None:
        """Take a step's metrics, arrays (M,) that may still be on their way, and how many seconds the devices waited for its batch."""
        self._waiting.append(metrics)
        self._timed += 1
        self._waited += waited

    @property
    def busy(self) -> bool:
        """Whether the devices still compute the newest step."""
        return bool(self._waiting) and not self._waiting[-1]["loss"].is_ready()

    @property
    def frozen(self) -> np.ndarray:
        """The step that froze each member, int64 (M,), as far as steps have been counted (`settle`); `NEVER` for the others."""
        return self._frozen.copy()

    @contextmanager
    def pause(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - started

    def read(self, go_on: bool = False) -> dict[str, Any]:
        """Since the last reading: the means of `loss` and `error` (M,), the newest `learning_rate` (M,), `images_per_second`, and the
        fraction of the time for which the devices were `waiting` for data.

        With `go_on` the next reading counts from where this one did.
        """
        self.settle()
        seconds = max(time.perf_counter() - self._started - self._paused, 1e-9)
        speed = self._timed * self._batch_size / seconds
        means = {name: (total / self._steps).astype(np.float32) for name, total in self._sums.items()}
        values = {**means, "learning_rate": self._learning_rate, "images_per_second": speed, "waiting": self._waited / seconds}
        if not go_on:
            self._reset()
        return values

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the sums since the last reading, over how many steps they are, and who was frozen at which step."""
        self.settle()
        return {"sums": dict(self._sums), "steps": np.int64(self._steps), "frozen": self.frozen}

    def resume(self, step: int, state: dict[str, Any]) -> None:
        """Go on at a step from what `state` gave."""
        self._reset()
        self._sums, self._steps = {name: np.array(total) for name, total in state["sums"].items()}, int(state["steps"])
        self._counted, self._frozen = step, np.array(state["frozen"])

    def settle(self) -> None:
        """Wait for the steps so far and count them, one after the other, so that a stop in between changes no bit of a sum."""
        for metrics in self._waiting:
            for name, total in self._sums.items():
                total += np.asarray(metrics[name], np.float64)
            self._learning_rate = np.asarray(metrics["learning_rate"])
            self._counted += 1
            self._frozen[np.isnan(metrics["loss"]) & (self._frozen == NEVER)] = self._counted
        self._steps += len(self._waiting)
        self._waiting = []
