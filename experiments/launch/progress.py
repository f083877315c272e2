"""How far several runs are together, and how long the rest will take.

What waits for runs (processes.py, slurm.py) tells it how far each is:

    with Progress({program.directory: flops}) as shown:
        shown.update(program.directory, 0.5)
        shown.finished(program.directory, error=None)
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from alexnet_jax.progress import Bar

EVERY = 60.0  # seconds between two plain lines


class Progress:
    """Shows the work done by programs of given weights; a context manager.

    The time left assumes that the rest goes as fast as the work done since this object was made: compilation and evaluation included.
    """

    def __init__(self, weights: Mapping[Path, float], finished: Iterable[Path] = ()) -> None:
        self._total = sum(weights.values())
        self._share = {directory: weight / self._total for directory, weight in weights.items()}
        self._done = dict.fromkeys(weights, 0.0)
        self._ended = set(finished)
        self._done |= dict.fromkeys(self._ended, 1.0)
        self._first: dict[Path, float] = dict.fromkeys(self._ended, 1.0)  # where each stood when it was first seen
        self._started = time.monotonic()
        self._bar = Bar(1.0, every=EVERY)

    def __enter__(self) -> "Progress":
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, directory: Path, done: float) -> None:
        """A program has done this share of its steps."""
        # A finished run that trains longer shows the end of its old log until it has begun.
        self._first[directory] = min(self._first.get(directory, done), done)
        self._done[directory] = done
        self._show()

    def finished(self, directory: Path, error: str | None) -> None:
        """A program's process has ended."""
        self._ended.add(directory)
        if error is None:
            self._done[directory] = 1.0
        self.say(f"{directory.name}: {'finished' if error is None else error}")
        if self._bar.terminal:
            self._show()
        else:
            self.say(self.line())

    def say(self, text: str) -> None:
        """A line above the bar, or after the last one."""
        self._bar.say(text)

    def line(self) -> str:
        """How far all are together."""
        passed = time.monotonic() - self._started
        counted = f"{len(self._ended)} of {len(self._share)} programs ended, {self._work:.0%} of the work, {duration(passed)} passed"
        left = self._left(passed)
        return counted if left is None else f"{counted}, about {duration(left)} left"

    @property
    def _work(self) -> float:
        """The share of all the work that is done."""
        return sum(share * self._done[directory] for directory, share in self._share.items())

    def _left(self, passed: float) -> float | None:
        """Seconds left at the pace so far; None while there is none. Programs that failed will do no more."""
        gained = sum(share * (self._done[d] - self._first.get(d, 0.0)) for d, share in self._share.items())
        rest = sum(share * (1 - self._done[d]) for d, share in self._share.items() if d not in self._ended)
        return passed * rest / gained if gained > 0 and rest > 0 else None

    def _show(self) -> None:
        self._bar.to(self._work, self.line())


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min` or `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
