"""Shows the progress of several runs together, and the time left.

processes.py and slurm.py, which wait for runs, report each run's progress to it:

    with Progress({program.directory: flops}) as shown:
        shown.update(program.directory, 0.5)
        shown.finished(program.directory, error=None)
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from alexnet_jax.progress import Bar

EVERY = 60.0  # seconds between two lines of progress where stderr isn't a terminal


class Progress:
    """A context manager that shows the work done by several programs; `weights` is the work of each, such as its FLOPs.

    The time left assumes that the remaining work has the same pace as the work since this object was created, including compilation and
    evaluation.
    """

    def __init__(self, weights: Mapping[Path, float], finished: Iterable[Path] = ()) -> None:
        self._total = sum(weights.values())
        self._share = {directory: weight / self._total for directory, weight in weights.items()}
        self._done = dict.fromkeys(weights, 0.0)
        self._ended = set(finished)
        self._done |= dict.fromkeys(self._ended, 1.0)
        self._first: dict[Path, float] = dict.fromkeys(self._ended, 1.0)  # each program's first reported share
        self._started = time.monotonic()
        self._bar = Bar(1.0, every=EVERY)

    def __enter__(self) -> "Progress":
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, directory: Path, done: float) -> None:
        """Report the share of its steps that a program has done."""
        # For a finished run that is trained further, the first report is 1.0, from its old log; later ones are smaller.
        self._first[directory] = min(self._first.get(directory, done), done)
        self._done[directory] = done
        self._show()

    def finished(self, directory: Path, error: str | None) -> None:
        """Report that a program's process has ended; `error` is None if its run is finished."""
        self._ended.add(directory)
        if error is None:
            self._done[directory] = 1.0
        self.say(f"{directory.name}: {'finished' if error is None else error}")
        if self._bar.terminal:
            self._show()
        else:
            self.say(self.line())

    def say(self, text: str) -> None:
        """Print a line: above the bar on a terminal, elsewhere after the last line."""
        self._bar.say(text)

    def line(self) -> str:
        """The progress of all programs together, in words."""
        passed = time.monotonic() - self._started
        counted = f"{len(self._ended)} of {len(self._share)} programs ended, {self._work:.0%} of the work, {duration(passed)} passed"
        left = self._left(passed)
        return counted if left is None else f"{counted}, about {duration(left)} left"

    @property
    def _work(self) -> float:
        """The share of all work that is done."""
        return sum(share * self._done[directory] for directory, share in self._share.items())

    def _left(self, passed: float) -> float | None:
        """Seconds left at the pace so far; None while no work was done yet. Programs that failed do no more work."""
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
