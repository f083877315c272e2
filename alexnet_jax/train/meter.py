"""Means of the metrics, and speed, between two training events of the log. The loop (loop.py) owns one:

meter.add(metrics)       # after every step
values = meter.read()    # at every training event
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class Meter:
    """Collects each step's metrics without waiting for them; pauses, for evaluation and saving, don't count as training time."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._reset()

    def _reset(self) -> None:
        self._metrics: list[dict[str, Any]] = []
        self._started, self._paused = time.perf_counter(), 0.0

    def add(self, metrics: dict[str, Any]) -> None:
        """Take a step's metrics, arrays (M,) that may still be on their way."""
        self._metrics.append(metrics)

    @contextmanager
    def pause(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - started

    def read(self) -> dict[str, Any]:
        """Since the last reading: the means of `loss` and `error` (M,), the newest `learning_rate` (M,), `images_per_second`."""
        values = {name: np.stack([np.asarray(step[name]) for step in self._metrics]) for name in self._metrics[0]}  # waits for the steps
        seconds = time.perf_counter() - self._started - self._paused
        speed = len(self._metrics) * self._batch_size / max(seconds, 1e-9)
        self._reset()
        rate = values.pop("learning_rate")[-1]
        return {**{name: value.mean(0) for name, value in values.items()}, "learning_rate": rate, "images_per_second": speed}
