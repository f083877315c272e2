"""Times several sides in turn within one process, with medians and quartiles, and describes the machine. Every part uses it:

timings = alternately({"ours": step, "PyTorch": peer}, rounds=5, turn=0.5)
timings["ours"].rate(128)    # items a second, if a call handles 128 items
"""

import functools
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, NamedTuple

VERSIONS = ("alexnet_jax", "jax", "jaxlib", "flax", "optax", "grain", "numpy", "torch", "torchvision")
THREAD_SETTINGS = ("XLA_FLAGS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Side = Callable[[], Any]


class Timing(NamedTuple):
    """Seconds of one call, one number for each turn."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper quartile in seconds; the minimum and the maximum if there are fewer than four turns."""
        if len(self.seconds) < 4:
            return min(self.seconds), max(self.seconds)
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return lower, upper

    def each(self, count: int) -> "Timing":
        """The time of one of the `count` equal parts of a call."""
        return Timing(tuple(seconds / count for seconds in self.seconds))

    def rate(self, items: float) -> float:
        """Items a second, from the median time; `items` is the number of items of one call."""
        return items / self.median

    def rate_quartiles(self, items: float) -> str:
        """The quartiles of the items a second, as text."""
        lower, upper = self.quartiles
        return span(items / upper, items / lower)


def span(low: float, high: float) -> str:
    """Two numbers as text, with at most three decimals."""
    digits = 0 if high >= 1000 else 1 if high >= 10 else 3
    return f"{low:,.{digits}f} - {high:,.{digits}f}"


def alternately(sides: Mapping[str, Side], rounds: int, turn: float) -> dict[str, Timing]:
    """Time the sides in turn, A B A B ...: when something slows the machine down for a while, it slows all sides.

    A call of a side must return only when its work is done. Each side is called twice before the measurement. So compilation and first
    allocations aren't counted, and the second call shows how many calls make a turn of at least `turn` seconds.
    """
    calls = {}
    for name, side in sides.items():
        progress(f"{name}: warming up")
        side()
        calls[name] = max(1, math.ceil(turn / max(seconds_of(side), 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            progress(f"{name}: round {number} of {rounds}")
            seconds[name].append(seconds_of(side, calls[name]))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def seconds_of(side: Side, calls: int = 1) -> float:
    """Seconds of one call: the mean over `calls` calls."""
    started = time.perf_counter()
    for _ in range(calls):
        side()
    return (time.perf_counter() - started) / calls


class _Progress:
    """Shows the current activity: on a terminal in one line that is replaced, elsewhere in at most one line every ten seconds."""

    said = 0.0

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}\r", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.said > 10:
            self.said = time.monotonic()
            print(f"... {text}", file=sys.stderr, flush=True)


progress = _Progress()


@functools.cache  # so the load is that of the minute before the first part, not of the measurements themselves
def machine() -> dict[str, Any]:
    """A description of the machine and the software, for the JSON record."""
    import jax

    from alexnet_jax import host, parallel

    record: dict[str, Any] = {
        "cpu": host.cpu_model(),
        "cores": host.cores(),
        "system": platform.platform(),
        "devices": parallel.describe(),
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",  # type: ignore[attr-defined]
        "versions": {"python": platform.python_version(), **_versions()},
        "threads": {name: os.environ[name] for name in THREAD_SETTINGS if name in os.environ},
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    if has_torch():
        import torch

        from experiments.peers import torch_train

        record["threads"]["torch"] = torch.get_num_threads()
        record["torch_device"] = torch_train.describe()
    return record


def has_torch() -> bool:
    """Whether PyTorch, the peer, is installed (pip install -e ".[peers]")."""
    return "torch" in _versions()


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def in_child(function: Callable, *args: Any, limit: float | None = None) -> Any:
    """The result of `function(*args)` in a new process; None if it takes longer than `limit` seconds.

    Raises:
      RuntimeError: the function failed; the process has printed its traceback.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of JAX's threads
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, function, args))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(limit) else None
    except EOFError:
        raise RuntimeError(f"{function.__name__}{args} failed in its process; its traceback is printed above") from None
    finally:
        process.kill()
        process.join()


def _send_result(sender: Any, function: Callable, args: tuple) -> None:
    sender.send(function(*args))
