"""A run's checkpoints as the loop sees them: which to go on from, what is under way, and for how long a disk may refuse.

The loop (loop.py) owns one:

    found, warnings = saves.newest(templates)    # at the start
    saves.save(step, trees, record)              # returns why the disk refused, or None
    saves.look(step)                             # after every step: logs a save that has come to its end

"saved" is logged when a checkpoint is on disk, not before.
"""

import time
from collections.abc import Callable
from typing import Any

from alexnet_jax import checkpoint
from alexnet_jax.checkpoint import Checkpoints, Damaged, DiskError, Found, Saved
from alexnet_jax.errors import UserError
from alexnet_jax.runlog import RunLog

RETRY = 5.0  # seconds between two tries of the last save


class Saves:
    """Saves in the background, and again where the disk refuses.

    Args:
      patience: seconds for which the disk may refuse before the run stops.
    """

    def __init__(self, checkpoints: Checkpoints, log: RunLog, patience: float) -> None:
        self._checkpoints, self._log, self._patience = checkpoints, log, patience
        self._last: dict[str, Any] = {}  # the record of the newest save, with its step
        self._refused_since: float | None = None

    def newest(self, templates: dict[str, Any]) -> tuple[Found | None, list[str]]:
        """The newest checkpoint that is whole, and what is to be said of those that aren't: they are set aside.

        Raises:
          UserError: there are checkpoints, and none is whole.
        """
        workdir, warnings = self._checkpoints.directory.parent, list[str]()
        for step in reversed(have := checkpoint.steps(workdir)):
            try:
                return checkpoint.restore(workdir, step, templates), warnings
            except Damaged as error:
                if step == have[0]:
                    raise UserError(f"none of {workdir}'s checkpoints can be read; {error.fault}") from None
                warnings.append(f"{error.fault}; it is now {self._checkpoints.set_aside(step).name}, and the run goes on from an older one")
        return None, warnings

    def resume(self, step: int, record: dict[str, Any]) -> None:
        """The run goes on from a checkpoint: this need not be saved again."""
        self._last = {"step": step, **record}

    def save(self, step: int, record: dict[str, Any], trees: Callable[[], dict[str, Any]], wait: bool = False, **extra: Any) -> str | None:
        """Save under a step, unless a save of the same record is the newest; returns why the disk refused, None where it didn't.

        Args:
          record: what the checkpoint says of its place in the run (JSON).
          trees: makes the arrays, when they are needed.
          wait: return when it is on disk.
          extra: more for the record; a save that has some is never left out.

        Raises:
          DiskError: the disk has refused for longer than `patience`.
        """
        try:
            self._save(step, record, trees, wait, **extra)
        except DiskError as error:
            return self._refused(step, error, "The run goes on and tries again at its next checkpoint")
        return None

    def save_at_last(self, step: int, record: dict[str, Any], trees: Callable[[], dict[str, Any]]) -> None:
        """Save and wait; where the disk refuses, try again until `patience` is over.

        Raises:
          DiskError: it is over.
        """
        while True:
            try:
                return self._save(step, record, trees, wait=True)
            except DiskError as error:
                told = self._refused_since is not None
                self._refused(step, error, "" if told else f"Tried again every {RETRY:g} s, for {self._patience / 60:g} minutes")
            time.sleep(min(RETRY, self._patience))

    def _save(self, step: int, record: dict[str, Any], trees: Callable[[], dict[str, Any]], wait: bool, **extra: Any) -> None:
        if extra or {"step": step, **record} != self._last:
            self._tell(self._checkpoints.wait())
            self._checkpoints.save(step, trees(), {**record, **extra})
            self._last = {"step": step, **record}
        if wait:
            self._tell(self._checkpoints.wait())

    @property
    def has_news(self) -> bool:
        """Whether a save has come to its end in the background, and `look` would log it."""
        return self._checkpoints.has_ended

    def look(self, step: int) -> None:
        """Log a save that has come to its end in the background since the last look; `step` is the loop's."""
        try:
            self._tell(self._checkpoints.poll())
        except DiskError as error:
            self._refused(step, error, "The run goes on and tries again at its next checkpoint")

    def _tell(self, saved: Saved | None) -> None:
        if saved:
            self._refused_since = None
            path = f"{saved.path.parent.name}/{saved.path.name}"
            self._log.event("checkpoint", saved.step, path=path, seconds=round(saved.seconds, 3), bytes=saved.bytes)

    def _refused(self, step: int, error: DiskError, hope: str) -> str:
        """Warn of a save that the disk refused, and say what comes next, unless `hope` is empty; give up if it has refused for too long."""
        self._last, now = {}, time.monotonic()
        self._refused_since = self._refused_since or now
        if now - self._refused_since >= self._patience:
            raise error
        if hope:
            self._log.event("warning", step, message=f"{error}. {hope}")
        return str(error)
