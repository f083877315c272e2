"""Checkpoints with orbax: named trees of arrays and a record, saved together or not at all, each array with its checksum.

The loop (train/loop.py) saves two trees under a step; whoever only asks the networks (run.py) reads back the first alone:

    networks    step, params, hyper            what `evaluate`, `predict` and `export` need
    training    opt_state, plateau, meter      what training needs beside them

    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(step, {"networks": networks, "training": training}, {"evaluated": 40, "commands": 0})
    found = restore(workdir, {"networks": template})

What is saved are plain arrays without a trace of devices, so a run may go on with another number of them. Kept are the last two, the best
by validation accuracy, and every one that a person asked for.
"""

import errno
import json
import logging
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from alexnet_jax.errors import UserError, cannot_write

# orbax tells every step of every save, and each of its threads that a full disk stops, with a traceback: `DiskError` says that once.
logging.getLogger("absl").setLevel(logging.CRITICAL)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of a damaged checkpoint it tells every read that is still under way

FOLDER = "checkpoints"
LAST = 2  # so many of the newest are kept
_RECORD, _ASIDE = "record", "replaced-"


class Found(NamedTuple):
    """A checkpoint that was read back."""

    step: int
    trees: dict[str, Any]  # numpy leaves
    record: dict[str, Any]  # as it was saved


class Saved(NamedTuple):
    """A save that is on disk."""

    step: int
    path: Path
    seconds: float  # from the request, at most: until somebody asked
    bytes: int


class DiskError(UserError):
    """The disk refuses a save."""


class Damaged(UserError):
    """A checkpoint that can't be read, or isn't what was saved; `fault` says which and why, the message also what to do."""

    def __init__(self, where: Path, why: str) -> None:
        self.fault = f"checkpoint {where} is damaged ({why})"
        super().__init__(f"{self.fault}; move it away to go on from an earlier one")


class Checkpoints:
    """The checkpoints that a training process writes; a context manager that waits for the last write. Saves run in the background.

    Only the process that holds the run's lock may write: what killed saves left behind is deleted. With `write=False`, as in every process
    except the first, there is nothing but the directory's name.
    """

    def __init__(self, workdir: str | Path, write: bool = True) -> None:
        self.directory, self._write = Path(workdir).absolute() / FOLDER, write
        self._policy = _Kept()
        self._saving: tuple[int, float] | None = None  # the step that is being written, since when
        if not write:
            return
        _let_late_calls_fail()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy, create=False, cleanup_tmp_directories=True, multiprocessing_options=_this_process()
        )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _put_back(self.directory)
            self._policy.records = {step: record for step in steps(workdir) if (record := _read_record(self.directory / str(step)))}
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise cannot_write(self.directory, error) from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._write:
            return
        try:
            self._manager.close()
        except (OSError, ValueError) as error:  # a save in the background
            if kind is None:  # else another error is under way, maybe of the same full disk
                raise self._refused(error) from None

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, whole or still being written; None where nothing was saved."""
        return self._manager.latest_step()

    def save(self, step: int, trees: Mapping[str, Any], record: Mapping[str, Any]) -> Path:
        """Save named trees of arrays and a record (JSON) under a step. One of the same step, saved before, is replaced.

        `record["accuracy"]`, a number, lets the best be kept; `record["asked"]` keeps this one for good.

        Raises:
          DiskError: the disk refuses. Earlier checkpoints stay whole.
        """
        # Copied: the step after this one reuses the state's buffers, on CPUs the very memory that a view would show.
        copies = {name: jax.tree.map(np.array, tree) for name, tree in trees.items()}
        kept = {**record, "checksums": {name: _checksums(tree) for name, tree in copies.items()}}
        args = {name: ocp.args.PyTreeSave(tree) for name, tree in copies.items()}
        args[_RECORD] = ocp.args.JsonSave({**kept, "checksum": _checksum_of_record(kept)})
        aside = self.directory / f"{_ASIDE}{step}"
        try:
            if step in self._manager.all_steps():
                self._manager.wait_until_finished()
                os.replace(self.directory / str(step), aside)
                self._manager.reload()
            self._policy.records[step] = kept
            self._saving = step, time.perf_counter()
            self._manager.save(step, args=ocp.args.Composite(**args), force=True)
            if aside.exists():
                self._manager.wait_until_finished()
                shutil.rmtree(aside, ignore_errors=True)
        except (OSError, ValueError) as error:
            _put_back(self.directory)
            raise self._refused(error) from None
        return self.directory / str(step)

    @property
    def has_ended(self) -> bool:
        """Whether `poll` has something to say."""
        return self._saving is not None and not self._manager.is_saving_in_progress()

    def poll(self) -> "Saved | None":
        """The save that has come to its end since the last look.

        Raises:
          DiskError: it failed. Earlier checkpoints stay whole.
        """
        if self._saving is None or not self.has_ended:
            return None
        (step, started), self._saving = self._saving, None
        path = self.directory / str(step)
        try:
            self._manager.wait_until_finished()  # `check_for_errors` doesn't know of all of them: some threads fail after it
            if not path.is_dir():
                raise FileNotFoundError(f"{path} isn't there")
        except (OSError, ValueError) as error:
            raise self._refused(error) from None
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return Saved(step, path, time.perf_counter() - started, size)

    def wait(self) -> "Saved | None":
        """Return when all that was saved is on disk: what `poll` would.

        Raises:
          DiskError: it isn't, and won't be.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            self._saving = None
            raise self._refused(error) from None
        return self.poll()

    def set_aside(self, step: int) -> Path:
        """Rename a damaged checkpoint, so that an older one is the newest; returns where it is now."""
        path = self.directory / str(step)
        aside = next(place for n in range(1000) if not (place := self.directory / f"damaged-{step}{f'-{n}' if n else ''}").exists())
        try:
            os.replace(path, aside)
            self._manager.reload()
        except OSError as error:
            raise self._refused(error) from None
        return aside

    def _refused(self, error: Exception) -> DiskError:
        free = f"; {shutil.disk_usage(self.directory).free / 1e6:,.1f} MB are free" if self.directory.exists() else ""
        what = f"cannot write a checkpoint in {self.directory} ({_reason(error)}{free})"
        return DiskError(f"{what}; what was saved before is whole. Make room, then run again")


class _Kept(PreservationPolicy):
    """The last two, the best by validation accuracy, and every one that a person asked for."""

    def __init__(self) -> None:
        self.records: dict[int, Mapping[str, Any]] = {}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        numbers = [checkpoint.step for checkpoint in checkpoints]
        best = _best({step: self.records[step] for step in numbers if step in self.records})
        return [step in (*numbers[-LAST:], best) or bool(self.records.get(step, {}).get("asked")) for step in numbers]


def check_place(workdir: str | Path) -> None:
    """Refuse a directory in which orbax writes what it can't read: it takes [...] in a path for a pattern, and no backslash.

    Raises:
      UserError: the path of the directory has one of these.
    """
    if found := re.search(r"\[.*\]|\\", str(Path(workdir).absolute())):
        raise UserError(
            f"{workdir}: checkpoints can't be written into a path that has {found.group()}; use another directory, or rename it"
        )


def steps(workdir: str | Path) -> list[int]:
    """The steps of a run's checkpoints, ascending. What a kill tore has another name."""
    return sorted(int(path.name) for path in (Path(workdir) / FOLDER).glob("*") if path.name.isdecimal())


def chosen(workdir: str | Path, step: str) -> int:
    """The step that `last`, `best` (by validation accuracy) or a number names.

    Raises:
      UserError: the run has no such checkpoint.
    """
    have = steps(workdir)
    if not have:
        raise UserError(f"{workdir} has no checkpoint yet")
    if step == "last":
        return have[-1]
    if step == "best":
        records = {number: record for number in have if (record := _read_record(Path(workdir) / FOLDER / str(number)))}
        best = _best(records)
        if best is None:
            raise UserError(f"{workdir} has no checkpoint whose validation accuracy is known; it has {', '.join(map(str, have))}")
        return best
    if not step.isdecimal() or int(step) not in have:
        raise UserError(f"{workdir} has no checkpoint of step {step}; it has {', '.join(map(str, have))}, also named last and best")
    return int(step)


def restore(workdir: str | Path, step: int, templates: Mapping[str, Any]) -> Found:
    """Read a checkpoint back.

    Args:
      templates: trees of the same shapes and dtypes, by name; their values don't matter. No other tree is read.

    Raises:
      Damaged: it can't be read, or a checksum doesn't hold.
      UserError: what was saved has other arrays, or one of another shape.
    """
    where = (Path(workdir) / FOLDER / str(step)).absolute()
    record = _read_record(where)
    if record is None:
        raise Damaged(where, "its record can't be read, or doesn't have its checksum")
    for name, template in templates.items():
        _check_paths(record["checksums"].get(name, {}), template, name, where)
    wanted = {name: _restore_args(template) for name, template in templates.items()}
    _let_late_calls_fail()
    try:
        handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=_this_process()))
        with ocp.Checkpointer(handler, multiprocessing_options=_this_process()) as reader:
            restored = reader.restore(where, args=ocp.args.Composite(**wanted))
        trees = {name: restored[name] for name in templates}
    except Exception as error:  # orbax, tensorstore and json each have their own
        raise Damaged(where, _reason(error)) from error
    for name, template in templates.items():
        _check_shapes(trees[name], template, where)
        if changed := _changed(trees[name], record["checksums"][name]):
            raise Damaged(where, f"{name}{changed} doesn't have its checksum")
    return Found(step, trees, record)


def _this_process() -> Any:
    """For orbax, which otherwise waits for the other processes: one writes and reads what all have."""
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})


def _let_late_calls_fail() -> None:
    """Don't print the reads and writes that are still under way when one has failed and orbax has closed its event loop.

    Each of them fails in a callback of tensorstore's, with a traceback: dozens of lines for one damaged file or one full disk.
    """
    before = sys.unraisablehook
    if getattr(before, "lets_late_calls_fail", False):
        return

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    hook.lets_late_calls_fail = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


def _best(records: Mapping[int, Mapping[str, Any]]) -> int | None:
    """The step of the highest validation accuracy, the first of several."""
    known = [(record["accuracy"], -step) for step, record in records.items() if record.get("accuracy") is not None]
    return -max(known)[1] if known else None


def _put_back(directory: Path) -> None:
    """Undo a replacement that didn't come to its end: where the new checkpoint isn't whole, the old one takes its place again."""
    for aside in directory.glob(f"{_ASIDE}*"):
        place = directory / aside.name.removeprefix(_ASIDE)
        if place.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(aside, place)


def _read_record(where: Path) -> dict[str, Any] | None:
    """A checkpoint's record; None where it is damaged."""
    try:
        record = json.loads((where / _RECORD / "metadata").read_text())
        checksum = record.pop("checksum")
    except (OSError, ValueError, KeyError, AttributeError, RecursionError):
        return None
    return record if checksum == _checksum_of_record(record) else None


def _checksum_of_record(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of every leaf, by its path; with its type and shape, so that nothing passes for something else."""
    return {jax.tree_util.keystr(path): _checksum(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _checksum(leaf: Any) -> int:
    array = np.ascontiguousarray(leaf)
    return zlib.crc32(array.view(np.uint8).data if array.size else b"", zlib.crc32(f"{array.dtype} {np.shape(leaf)}".encode()))


def _changed(tree: Any, checksums: Mapping[str, int]) -> str:
    """The path of the first leaf that isn't what was saved; empty where all are."""
    return next((path for path, value in _checksums(tree).items() if checksums.get(path) != value), "")


def _restore_args(template: Any) -> ocp.args.PyTreeRestore:
    item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), template)
    return ocp.args.PyTreeRestore(item, jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), item))


def _reason(error: Exception) -> str:
    """The system's words for an error, such as "No space left on device", else its first line. Those of tensorstore fill pages."""
    known = [os.strerror(code) for code in errno.errorcode if os.strerror(code) in str(error)]
    return max(known, key=len) if known else (str(error).splitlines() or [type(error).__name__])[0][:200]


def _check_paths(saved: Mapping[str, int], template: Any, name: str, where: Path) -> None:
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(template)}
    if differing := sorted(paths ^ set(saved)):
        what = f"has no {name}{differing[0]}" if differing[0] in paths else f"has {name}{differing[0]}, which this one doesn't know"
        raise UserError(f"checkpoint {where} {what}: another version of this project made it; use that version, or start a new run")


def _check_shapes(restored: Any, template: Any, where: Path) -> None:
    """orbax restores whatever shape was saved."""
    for (path, found), wanted in zip(jax.tree_util.tree_leaves_with_path(restored), jax.tree.leaves(template), strict=True):
        if np.shape(found) != wanted.shape:
            name = jax.tree_util.keystr(path)
            raise UserError(f"checkpoint {where}: {name} has shape {np.shape(found)}, this run's config makes it {wanted.shape}")
