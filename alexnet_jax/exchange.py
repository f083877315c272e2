"""What processes say to each other. All run the same program; process 0 alone has the run directory, shows and writes.

What it alone can know, it says to all:

    newest = exchange.first_says(lambda: checkpoint.steps(workdir))
    if exchange.any_says(stop.requested): ...

Both are exchanges: all processes call them, in the same order. Where there is one process, they are what they are given, and cost nothing.
Between steps, `parallel.Calls` tells when one is due. The loop, run.py, evaluate.py and parallel.py call this; cluster.py is about how
processes meet.
"""

import pickle
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")

LARGE = 1 << 16  # bytes of an array that goes to the other processes by their devices, not by the coordinator's store
AT_ONCE = 1 << 26  # so many bytes of it at a time


def process() -> tuple[int, int]:
    """(index of this process, number of processes)."""
    return jax.process_index(), jax.process_count()


def several() -> bool:
    """Whether there are other processes."""
    return jax.distributed.is_initialized()


def is_first() -> bool:
    """Whether this process has the run directory, shows and writes."""
    return not several() or jax.process_index() == 0


class _Words:
    """What processes say to each other: small values through the store of JAX's coordinator, large arrays through the devices."""

    def __init__(self) -> None:
        self._rounds = count()
        self._said: list[str] = []  # what this process has put into the store
        self.alone = False  # process 0 makes what it will say: the others wait, and take no part in exchanges

    def of_first(self, make: Callable[[], T]) -> T:
        key = f"alexnet_jax/first/{next(self._rounds)}"
        if not is_first():
            small, sizes = pickle.loads(self._store.blocking_key_value_get_bytes(key, _NEVER))
            return pickle.loads(small, buffers=[_to_all(np.zeros(size, np.uint8)) for size in sizes])
        self.alone = True
        try:
            value = make()
        finally:
            self.alone = False
        large: list[pickle.PickleBuffer] = []

        def is_small(buffer: pickle.PickleBuffer) -> bool:
            if buffer.raw().nbytes >= LARGE:
                large.append(buffer)
            return buffer.raw().nbytes < LARGE

        small = pickle.dumps(value, 5, buffer_callback=is_small)
        self._say(key, (small, [buffer.raw().nbytes for buffer in large]))
        for buffer in large:
            _to_all(np.frombuffer(buffer.raw(), np.uint8))
        return value

    def of_all(self, value: Any) -> list[Any]:
        key, (own, processes) = f"alexnet_jax/all/{next(self._rounds)}", process()
        self._say(f"{key}/{own}", value)
        self._store.wait_at_barrier(key, _NEVER)
        found = {name.rpartition("/")[2]: said for name, said in self._store.key_value_dir_get_bytes(f"{key}/")}
        while len(self._said) > 1:  # all have come here, so all have read what was said before
            self._store.key_value_delete(self._said.pop(0))
        return [pickle.loads(found[str(each)]) for each in range(processes)]

    def _say(self, key: str, value: Any) -> None:
        self._store.key_value_set_bytes(key, pickle.dumps(value))
        self._said.append(key)

    @property
    def _store(self) -> Any:
        from jax._src.distributed import global_state  # the store has no public name

        return global_state.client


_words = _Words()
_NEVER = 1000 * 3600 * 24 * 365  # milliseconds: a process that is lost ends the others (cluster.py)


def first_says(make: Callable[[], T]) -> T:
    """What `make` returns at process 0, at all processes; called at the others, it is not. An exchange, of anything that can be pickled."""
    return make() if not several() or _words.alone else _words.of_first(make)


def everyone_says(value: T) -> list[T]:
    """The values that all processes give, in their order. An exchange."""
    return [value] if not several() or _words.alone else _words.of_all(value)


def any_says(value: bool) -> bool:
    """Whether the value is true at any process. An exchange."""
    return any(everyone_says(value))


def differences(fields: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The values in which this process differs from process 0: `{name: (process 0's, own)}`. An exchange."""
    first = first_says(lambda: fields)
    return {name: (first.get(name), value) for name, value in fields.items() if first.get(name) != value}


def _to_all(data: np.ndarray) -> np.ndarray:
    """Process 0's bytes, uint8 (n,), at all processes."""
    parts = [multihost_utils.broadcast_one_to_all(data[at : at + AT_ONCE]) for at in range(0, len(data), AT_ONCE)]
    return np.concatenate(parts)
