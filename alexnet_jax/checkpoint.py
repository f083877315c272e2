"""Checkpoints with orbax: the state, the plateau in it, and the position in the data, together or not at all.

What is saved are plain arrays without a trace of devices, so a run may go on with another number of them.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from alexnet_jax.errors import UserError
from alexnet_jax.step import TrainState

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells every step of every save


class Checkpoints:
    """The checkpoints of one run directory; a context manager that waits for the last write. Saves are written in the background."""

    def __init__(self, workdir: str | Path, keep: int = 2):
        self.directory = Path(workdir).absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise UserError(f"cannot write {self.directory}: {error.strerror}; make it writable, then run again") from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._manager.close()
        except (OSError, ValueError) as error:  # a save in the background
            if kind is None:  # else another error is under way, maybe of the same full disk
                raise self._refused(error) from None

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, position: dict[str, int]) -> Path:
        """Save the state and the loop's position under the state's step, unless that step is saved already.

        Raises:
          UserError: the disk refuses. Earlier checkpoints stay whole.
        """
        step = int(state.step)
        # Copied: the step after this one reuses the state's buffers, on CPUs the very memory that a view would show.
        arrays = jax.tree.map(lambda leaf: np.array(leaf), state)
        try:
            if step != self.latest_step():
                self._manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), position=ocp.args.JsonSave(position)))
        except (OSError, ValueError) as error:
            raise self._refused(error) from None
        return self.directory / str(step)

    def wait(self) -> None:
        """Return when all that was saved is on disk.

        Raises:
          UserError: it isn't, and won't be.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._refused(error) from None

    def restore(self, template: TrainState) -> tuple[TrainState, dict[str, int]] | None:
        """The newest (state, position), numpy leaves; None when nothing was saved.

        Args:
          template: a state of the same shapes and dtypes; its values don't matter.

        Raises:
          UserError: what was saved has another shape, or is damaged.
        """
        step = self.latest_step()
        if step is None:
            return None
        item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), template)
        restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), item)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.PyTreeRestore(item, restore_args=restore_args), position=ocp.args.JsonRestore()),
            )
        except Exception as error:  # orbax, tensorstore and json each have their own
            where = self.directory / str(step)
            advice = "if it is damaged, move it away to go on from an earlier one"
            raise UserError(f"checkpoint {where} can't be restored ({_reason(error)}); {advice}") from error
        _check_shapes(restored.state, template, self.directory / str(step))
        return restored.state, restored.position

    def _refused(self, error: Exception) -> UserError:
        return UserError(
            f"cannot write a checkpoint in {self.directory} ({_reason(error)}); what was saved before is whole. Make room, then run again"
        )


def _reason(error: Exception) -> str:
    """The first words of an error: those of tensorstore fill pages."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _check_shapes(restored: Any, template: Any, where: Path) -> None:
    """orbax restores whatever shape was saved."""
    for (path, found), wanted in zip(jax.tree_util.tree_leaves_with_path(restored), jax.tree.leaves(template), strict=True):
        if np.shape(found) != wanted.shape:
            name = jax.tree_util.keystr(path)
            raise UserError(f"checkpoint {where}: {name} has shape {np.shape(found)}, this run's config makes it {wanted.shape}")
