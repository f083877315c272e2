"""Shows the progress of a command on stderr: a bar on a terminal, and plain lines elsewhere, as in the log of a Slurm job.

The run log, `prepare`, `predict` and the launchers use it:

    with Bar(total=100) as bar:
        bar.to(10, "10 of 100 steps")
        bar.say("step 10  saved checkpoints/10")    # a line above the bar
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TextIO


class Bar:
    """A progress bar; a context manager. It appears at the first `to`, so time before that does not count in the estimate of the time left.

    Args:
      total: the amount of work, in the unit of `to`.
      form: the bar's format, as tqdm's `bar_format`; `{desc}` is the text that `to` gets.
      every: seconds between two plain lines where stderr is not a terminal.
    """

    def __init__(self, total: float, form: str = "|{bar}| {desc}", every: float = math.inf) -> None:
        self.terminal = sys.stderr.isatty()
        self._total, self._form, self._every = total, form, every
        self._bar: Any = None
        self._gone = False  # the console: nobody reads it any more
        self._said = time.monotonic()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the bar and leave it on the screen. May be called twice."""
        bar, self._bar = self._bar, None
        if bar is not None and not self._gone:
            with self._console():
                bar.close()

    def to(self, done: float, text: str) -> None:
        """Set how much of the total is done; it may go back. `text` is shown beside the bar, or as a plain line if the last one is old."""
        if self._gone:
            return
        if self.terminal:
            with self._console():
                if self._bar is None:
                    self._bar = self._new_bar(done, text)
                self._bar.set_description_str(text, refresh=False)
                self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._said >= self._every:
            self.say(text)

    def say(self, text: str, file: TextIO | None = None) -> None:
        """Print a line above the bar, on stderr or to `file`.

        Raises:
          OSError: `file` doesn't take it.
        """
        if self._gone and file is None:
            return
        with self._console() if file is None else nullcontext():
            if self._bar is not None:
                self._bar.write(text, file=file or sys.stderr)
            else:
                print(text, file=file or sys.stderr, flush=True)
                self._said = time.monotonic()

    @contextmanager
    def _console(self) -> Iterator[None]:
        """When the console goes away (a closed terminal, a pipe without a reader, a full disk), nothing is shown from then on."""
        try:
            yield
        except (OSError, ValueError):  # ValueError: a closed file
            self._gone = True

    def _new_bar(self, done: float, text: str) -> Any:
        from tqdm import tqdm

        # smoothing 0: the time left comes from the mean speed of this process, which includes pauses such as evaluations.
        # miniters 0: a new text is shown even if the bar has not moved, at most every tenth of a second.
        return tqdm(
            desc=text, total=self._total, initial=done, file=sys.stderr, bar_format=self._form, smoothing=0, miniters=0, dynamic_ncols=True
        )


class ImageBar(Bar):
    """A bar that counts images and shows their speed:

    train: 200 of 400 images (50%), 18 images/s

    Args:
      total: how many images there are.
      name: what they are; the line begins with it.
      every: as in `Bar`.
      done: of them, before.
    """

    def __init__(self, total: int, name: str = "", every: float = math.inf, done: int = 0) -> None:
        super().__init__(total, "|{bar}| {desc} [{elapsed}<{remaining}]", every)
        self._name, self._images, self._done, self._before, self._started = f"{name}: " if name else "", total, done, done, self._said

    def __enter__(self) -> "ImageBar":
        return self

    def add(self, images: int) -> None:
        """Count that many more images as done."""
        self._done += images
        share, seconds = self._done / max(self._images, 1), time.monotonic() - self._started
        speed = f", {(self._done - self._before) / seconds:,.0f} images/s" if self._done > self._before and seconds > 0 else ""
        self.to(self._done, f"{self._name}{self._done:,} of {self._images:,} images ({share:.0%}){speed}")
