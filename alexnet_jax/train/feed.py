"""Puts the batches of a run on the devices, each while the step before it computes, and measures how long the devices wait for one.

The loop (loop.py) owns one:

    with Feed(batches) as feed:
        batch = feed.take(busy)    # on the devices already, if the data keep up
        feed.waited()              # seconds that the devices stood still for want of data, since the last call
"""

import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import numpy as np

from alexnet_jax import parallel

POLL = 1e-3  # seconds between two looks at whether the devices still compute: the error of one wait


class Feed:
    """Takes batches from an iterator in a thread of its own, one ahead; a context manager. What the iterator raises, `take` raises.

    Args:
      calls: whether this process wants to call the others to an exchange; see `parallel.shard`.
    """

    def __init__(self, batches: Iterator[dict[str, np.ndarray]], calls: Callable[[], bool] = lambda: False) -> None:
        self._batches, self._calls = batches, calls
        self._worker = futures.ThreadPoolExecutor(1, "feed")
        self._next = self._worker.submit(self._fetch)
        self._waited = 0.0

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)

    def take(self, busy: Callable[[], bool]) -> dict[str, Any]:
        """The next batch, sharded over the devices. `busy` says whether they still compute: only while they don't, they wait."""
        idle_since = None
        while not self._next.done():
            if idle_since is None and not busy():
                idle_since = time.perf_counter()
            futures.wait([self._next], timeout=POLL)
        if idle_since is not None:
            self._waited += time.perf_counter() - idle_since
        batch = self._next.result()
        self._next = self._worker.submit(self._fetch)
        return batch

    def waited(self) -> float:
        waited, self._waited = self._waited, 0.0
        return waited

    def _fetch(self) -> dict[str, Any]:
        return parallel.shard(next(self._batches), self._calls)
