"""Checkpoints with orbax: named trees of arrays and the loop's position, saved together or not at all.

The loop (train/loop.py) saves two trees under a step; whoever only asks the networks (run.py) reads back the first alone:

    networks    step, params, hyper     what `evaluate`, `predict` and `export` need
    training    opt_state, plateau      what training needs beside them

    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(step, {"networks": networks, "training": training}, {"evaluated": 40, "commands": 0})
        trees, position = checkpoints.restore({"networks": template})

What is saved are plain arrays without a trace of devices, so a run may go on with another number of them.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from alexnet_jax.errors import UserError

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

    def save(self, step: int, trees: Mapping[str, Any], position: dict[str, int]) -> Path:
        """Save named trees of arrays and the loop's position under a step, unless that step is saved already.

        Raises:
          UserError: the disk refuses. Earlier checkpoints stay whole.
        """
        if step != self.latest_step():
            # Copied: the step after this one reuses the state's buffers, on CPUs the very memory that a view would show.
            copies = {name: ocp.args.PyTreeSave(jax.tree.map(np.array, tree)) for name, tree in trees.items()}
            try:
                self._manager.save(step, args=ocp.args.Composite(**copies, position=ocp.args.JsonSave(position)))
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

    def restore(self, templates: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]] | None:
        """The newest checkpoint's (trees, position), numpy leaves; None when nothing was saved.

        Args:
          templates: trees of the same shapes and dtypes, by name; their values don't matter. No other tree is read.

        Raises:
          UserError: what was saved has another shape, lacks a tree, or is damaged.
        """
        step = self.latest_step()
        if step is None:
            return None
        where = self.directory / str(step)
        try:
            wanted = {name: _restore_args(template) for name, template in templates.items()}
            restored = self._manager.restore(step, args=ocp.args.Composite(**wanted, position=ocp.args.JsonRestore()))
            trees = {name: restored[name] for name in templates}
        except Exception as error:  # orbax, tensorstore and json each have their own
            advice = "if it is damaged, move it away to go on from an earlier one"
            raise UserError(f"checkpoint {where} can't be restored ({_reason(error)}); {advice}") from error
        for name, template in templates.items():
            _check_shapes(trees[name], template, where)
        return trees, restored.position

    def _refused(self, error: Exception) -> UserError:
        return UserError(
            f"cannot write a checkpoint in {self.directory} ({_reason(error)}); what was saved before is whole. Make room, then run again"
        )


def _restore_args(template: Any) -> ocp.args.PyTreeRestore:
    item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), template)
    return ocp.args.PyTreeRestore(item, jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), item))


def _reason(error: Exception) -> str:
    """The first words of an error: those of tensorstore fill pages."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _check_shapes(restored: Any, template: Any, where: Path) -> None:
    """orbax restores whatever shape was saved."""
    for (path, found), wanted in zip(jax.tree_util.tree_leaves_with_path(restored), jax.tree.leaves(template), strict=True):
        if np.shape(found) != wanted.shape:
            name = jax.tree_util.keystr(path)
            raise UserError(f"checkpoint {where}: {name} has shape {np.shape(found)}, this run's config makes it {wanted.shape}")
