"""How far a command is, on stderr: a bar on a terminal; elsewhere, as in the log of a Slurm job, a plain line now and then.

The run log, `prepare`, `predict` and the launchers show it:

    with Bar(total=100) as bar:
        bar.to(10, "10 of 100 steps")
        bar.say("step 10  saved checkpoints/10")    # a line above the bar
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Bar:
    """A bar, which appears at the first `to`, so that nothing before it spoils the time left; a context manager.

    Args:
      total: how far it goes.
      form: of the bar, in tqdm's words; `{desc}` is the text that `to` was given.
      every: seconds between two plain lines where stderr is no terminal.
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
        """Leave the bar as it stands. May be called twice."""
        bar, self._bar = self._bar, None
        if bar is not None and not self._gone:
            with self._console():
                bar.close()

    def to(self, done: float, text: str) -> None:
        """So much of the total is done; may go back. `text` stands beside the bar, or is a plain line if it is time for one."""
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
        """A line above the bar, on stderr unless a file says otherwise."""
        if self._gone:
            return
        with self._console():
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

        # smoothing 0: the mean speed of this process, since pauses, as for an evaluation, belong to the time left
        # miniters 0: a new text is shown also where nothing has moved, every tenth of a second at most
        return tqdm(
            desc=text, total=self._total, initial=done, file=sys.stderr, bar_format=self._form, smoothing=0, miniters=0, dynamic_ncols=True
        )


class ImageBar(Bar):
    """A bar that counts images and tells how many there are in a second:

    train: 200 of 400 images (50%), 18 images/s

    Args:
      total: images.
      name: what they are, for the beginning of the line.
      every: as in `Bar`.
    """

    def __init__(self, total: int, name: str = "", every: float = math.inf) -> None:
        super().__init__(total, "|{bar}| {desc} [{elapsed}<{remaining}]", every)
        self._name, self._images, self._done, self._started = f"{name}: " if name else "", total, 0, self._said

    def __enter__(self) -> "ImageBar":
        return self

    def add(self, images: int) -> None:
        """So many more are done."""
        self._done += images
        share, seconds = self._done / max(self._images, 1), time.monotonic() - self._started
        speed = f", {self._done / seconds:,.0f} images/s" if seconds > 0 else ""
        self.to(self._done, f"{self._name}{self._done:,} of {self._images:,} images ({share:.0%}){speed}")
