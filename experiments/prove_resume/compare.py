"""What a run leaves, and how two runs differ in it. The command (__main__.py) calls it when both have finished:

differences(undisturbed, killed)    # [] where nothing differs
"""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from alexnet_jax import checkpoint, history, run
from alexnet_jax.train import plateau
from alexnet_jax.train.meter import Meter

_SPEEDS = ("images_per_second", "member_images_per_second", "waiting")
# Fields of events that depend on the machine and the moment, and kinds of events that tell of processes, not of the training.
_OF_THE_MOMENT = ("time", "seconds", "bytes", *_SPEEDS, "path", "devices")
_OF_THE_TRAINING = ("train", "eval", "drop", "rate", "control")
_LARGER = 1.5  # the killed run may take so much more room, for the log of its restarts
_SHOWN = 5


def differences(one: Path, other: Path) -> list[str]:
    """In words, all in which two finished runs differ; empty where nothing does."""
    return [*_arrays(one, other), *_events(one, other), *_predictions(one, other), *_points(one, other), *_files(one, other)]


def summary(workdir: Path) -> str:
    past = history.load(workdir)
    count, points = len(arrays(workdir)), len(_tensorboard(workdir))
    return (
        f"{count} arrays at step {past.step:,}, {len(past.of_kind(*_OF_THE_TRAINING))} events, {points:,} points of TensorBoard, "
        f"predictions, results; {_size(workdir) / 1e6:.1f} MB"
    )


def _arrays(one: Path, other: Path) -> Iterator[str]:
    mine, theirs = arrays(one), arrays(other)
    for name in sorted(mine.keys() | theirs.keys()):
        if name not in mine or name not in theirs or not np.array_equal(mine[name], theirs[name], equal_nan=True):
            yield f"checkpoint: {name} differs"


def arrays(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, by its path: networks, momentum, plateau, the meter's sums."""
    loaded = run.load(workdir)
    members = loaded.network.hyper.members
    training = {
        "opt_state": loaded.network.abstract_state().opt_state,
        "plateau": plateau.init(members),
        "meter": Meter(1, members).state(),
    }
    found = checkpoint.restore(workdir, checkpoint.chosen(workdir, "last"), {"networks": loaded.state, "training": training})
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(found.trees)}


def _events(one: Path, other: Path) -> Iterator[str]:
    mine, theirs = _told(one), _told(other)
    for label, left, right in (("lacks", mine, theirs), ("has besides", theirs, mine)):
        more = [event for event in left if event not in right]
        yield from (f"log: the killed run {label} {event}" for event in more[:_SHOWN])
        if len(more) > _SHOWN:
            yield f"log: and {len(more) - _SHOWN} more"
    if len(theirs) != len(set(theirs)) and len(mine) == len(set(mine)):
        yield "log: the killed run has an event twice"


def _told(workdir: Path) -> list[str]:
    """The events of the training and the results of the test, as text."""
    past = history.load(workdir)
    told = [{name: value for name, value in event.items() if name not in _OF_THE_MOMENT} for event in past.of_kind(*_OF_THE_TRAINING)]
    return [json.dumps(event, sort_keys=True) for event in [*told, {"test": past.test}]]


def _predictions(one: Path, other: Path) -> Iterator[str]:
    mine, theirs = run.load_predictions(one), run.load_predictions(other)
    yield from (f"predictions: {name} differs" for name in mine if not np.array_equal(mine[name], theirs[name], equal_nan=True))


def _points(one: Path, other: Path) -> Iterator[str]:
    mine, theirs = _tensorboard(one), _tensorboard(other)
    different = [key for key in sorted(mine.keys() | theirs.keys()) if not _same(mine.get(key), theirs.get(key))]
    yield from (f"TensorBoard: {tag} at step {step} differs" for tag, step in different[:_SHOWN])


def _same(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and math.isnan(one) and math.isnan(other))


def _tensorboard(workdir: Path) -> dict[tuple[str, int], float]:
    """What TensorBoard shows: (tag, step) -> value, but for speeds. From a session's start on, it forgets what came later."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    points: dict[tuple[str, int], float] = {}
    for path in sorted((workdir / "tensorboard").glob("events.out.tfevents.*")):
        for record in _records(path.read_bytes()):
            event = Event.FromString(record)
            if event.session_log.status == SessionLog.START:
                points = {key: value for key, value in points.items() if key[1] < event.step}
            values = {(value.tag, event.step): value.simple_value for value in event.summary.value}
            points |= {key: value for key, value in values.items() if not key[0].endswith(_SPEEDS)}
    return points


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file: length, its checksum, the bytes, their checksum. What a kill tore at its end is left out."""
    place = 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        if place + 16 + length > len(content):
            return
        yield content[place + 12 : place + 12 + length]
        place += 16 + length


def _files(one: Path, other: Path) -> Iterator[str]:
    mine, theirs = _names(one), _names(other)
    yield from (f"files: the killed run lacks {name}" for name in sorted(mine - theirs))
    yield from (f"files: the killed run has left {name}" for name in sorted(theirs - mine))
    if _size(other) > _LARGER * _size(one):
        yield f"size: {_size(other):,} bytes, the undisturbed run's is {_size(one):,}"


def _names(workdir: Path) -> set[str]:
    """The files of a run, but for those whose names and number may differ: TensorBoard's, and the checkpoints that a stop added."""
    names = {str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith("tensorboard/") and not name.split("/")[:2][-1].isdecimal()}


def _size(workdir: Path) -> int:
    """Bytes of all but the checkpoints, of which a stop may add one."""
    return sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file() and "checkpoints" not in path.parts)
