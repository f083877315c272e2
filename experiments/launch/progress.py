"""How far several runs are together, and how long the rest will take: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
        self._started = self._said = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=1.0, file=sys.stderr, bar_format="|{bar}| {desc}", dynamic_ncols=True)
            self._show()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, directory: Path, done: float) -> None:
        """A program has done this share of its steps."""
        # A finished run that trains longer shows the end of its old log until it has begun.
        self._first[directory] = min(self._first.get(directory, done), done)
        self._done[directory] = done
        if self._bar is not None:
            self._show()
        elif time.monotonic() - self._said > EVERY:
            self.say(self.line())

    def finished(self, directory: Path, error: str | None) -> None:
        """A program's process has ended."""
        self._ended.add(directory)
        if error is None:
            self._done[directory] = 1.0
        self.say(f"{directory.name}: {'finished' if error is None else error}")
        if self._bar is None:
            self.say(self.line())

    def say(self, text: str) -> None:
        """A line above the bar, or after the last one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
            self._show()
        else:
            print(text, file=sys.stderr, flush=True)
            self._said = time.monotonic()

    def line(self) -> str:
        """How far all are together."""
        work = sum(share * self._done[directory] for directory, share in self._share.items())
        passed = time.monotonic() - self._started
        counted = f"{len(self._ended)} of {len(self._share)} programs ended, {work:.0%} of the work, {duration(passed)} passed"
        left = self._left(passed)
        return counted if left is None else f"{counted}, about {duration(left)} left"

    def _left(self, passed: float) -> float | None:
        """Seconds left at the pace so far; None while there is none. Programs that failed will do no more."""
        gained = sum(share * (self._done[d] - self._first.get(d, 0.0)) for d, share in self._share.items())
        rest = sum(share * (1 - self._done[d]) for d, share in self._share.items() if d not in self._ended)
        return passed * rest / gained if gained > 0 and rest > 0 else None

    def _show(self) -> None:
        work = sum(share * self._done[directory] for directory, share in self._share.items())
        self._bar.set_description_str(self.line(), refresh=False)
        self._bar.update(work - self._bar.n)
        self._bar.refresh()


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min` or `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
