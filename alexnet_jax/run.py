"""A run directory: its config.json, and the network and state that come back from it.

config.json         the resolved config, the dataset and the order of its images, versions, devices, command
events.jsonl        one JSON object a line (runlog.py writes it, history.py reads it)
checkpoints/        orbax (checkpoint.py)
predictions-test.npz    what the finished networks answer on the test split (metrics.answers)
tensorboard/  figures/  report.html
"""

import json
import os
import platform
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import checkpoint, history, parallel
from alexnet_jax import config as config_lib
from alexnet_jax.data import ORDER, Dataset, stats_from_json
from alexnet_jax.errors import UserError
from alexnet_jax.model.alexnet import contradictions
from alexnet_jax.network import Network, build
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.runlog import command, writing
from alexnet_jax.state import Networks, TrainState

CONFIG = "config.json"
PREDICTIONS = "predictions-test.npz"
# What may differ when a run is resumed: how long it goes on, and what has no say in its numbers.
RESUMABLE = (
    "train.epochs",
    "train.log_every_steps",
    "train.checkpoint_every_epochs",
    "train.members_per_program",
    "train.remat",
    "train.disk_patience",
    "data.dir",
    "data.threads",
    "data.prepare",
    "eval.batch_size",
)
VERSIONS = ("alexnet_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy")


class Run(NamedTuple):
    """A run that was read back."""

    workdir: Path
    config: ConfigDict
    classes: tuple[str, ...]
    stats: PixelStats
    network: Network
    state: Networks  # at the newest checkpoint, numpy leaves


def write_config(workdir: Path, config: ConfigDict, dataset: Dataset) -> None:
    """Write config.json, or hold the config against the one that the directory has.

    Raises:
      UserError: the directory holds a run of another config or dataset.
    """
    path = workdir / CONFIG
    record = {
        "config": json.loads(config.to_json()),
        "dataset": dataset.describe(),
        "image_order": ORDER,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}},
        "devices": parallel.describe(),
        "command": command(),
    }
    if path.exists():
        check_same(workdir, config, dataset)
    temporary = path.with_suffix(".tmp")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; make room or choose another --workdir") from None


def check_same(workdir: Path, config: ConfigDict, dataset: Dataset) -> None:
    """Refuse a config or a dataset with which a run that has begun can't go on.

    Raises:
      UserError: naming what differs.
    """
    check_config(workdir, config)
    record = read_config(workdir)
    if record["dataset"] != dataset.describe():
        raise UserError(f"{workdir} holds a run on another version of dataset {record['dataset']['name']}; use another directory")
    if record.get("image_order") != ORDER:
        raise UserError(
            f"{workdir} holds a run whose images came in an order that this version of the project doesn't draw; use another directory"
        )


def check_config(workdir: Path, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """The differences with which a run may be resumed, `{field: (value, new value)}`.

    Raises:
      UserError: there is another one.
    """
    different = config_lib.differences(config_lib.from_json(read_config(workdir)["config"]), config)
    for name, (before, after) in different.items():
        bound = name == "train.epochs" and config.optimizer.schedule == "poly"  # whose rate is 0 at the end of these epochs
        if name not in RESUMABLE or bound:
            raise UserError(f"{workdir} holds a run with {name}={before}, now it is {after}; use another directory, or the old value")
    return different


def read_config(workdir: str | Path) -> dict[str, Any]:
    """The content of a run directory's config.json.

    Raises:
      UserError: it isn't a run directory.
    """
    path = Path(workdir) / CONFIG
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{workdir} is not a run directory: it has no {CONFIG}; pass a directory that alexnet_jax.train made") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error})") from None
    if not isinstance(record, dict) or "config" not in record:
        raise UserError(f"{workdir} is not a run directory: its {CONFIG} is no run's; pass a directory that alexnet_jax.train made")
    return record


def load(workdir: str | Path, step: str = "last") -> Run:
    """Read a run back, at its newest checkpoint, or at the one that `step` names: `best`, or a number.

    Raises:
      UserError: it isn't a run directory, or has no such checkpoint; the checkpoint is damaged.
    """
    workdir = Path(workdir)
    record = read_config(workdir)
    config, dataset = config_lib.from_json(record["config"]), record["dataset"]
    try:
        network = build(config, tuple(dataset["image_shape"]), len(dataset["classes"]))
    except (KeyError, AttributeError) as error:
        version = record["versions"]["alexnet_jax"]
        raise UserError(f"{workdir} was made by another version of this project ({version}), whose configs differ: {error}") from None
    found = checkpoint.restore(workdir, checkpoint.chosen(workdir, step), {"networks": network.abstract_networks()})
    return Run(workdir, config, tuple(dataset["classes"]), stats_from_json(dataset["stats"]), network, found.trees["networks"])


def save_predictions(workdir: Path, step: int, answers: dict[str, np.ndarray]) -> None:
    """Write what the finished networks answer on the test split, and the step at which they finished.

    Raises:
      UserError: the disk refuses.
    """
    path = workdir / PREDICTIONS
    temporary = path.with_suffix(".tmp")
    with writing(path):
        with temporary.open("wb") as file:
            np.savez_compressed(file, step=step, **answers)  # type: ignore[arg-type]
        os.replace(temporary, path)


def load_predictions(workdir: str | Path) -> dict[str, np.ndarray]:
    """The answers that `save_predictions` wrote.

    Raises:
      UserError: the run hasn't finished, it went on since, or the file is damaged.
    """
    path = Path(workdir) / PREDICTIONS
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            answers = dict(arrays)
            step = int(answers.pop("step"))
    except FileNotFoundError:
        raise UserError(f"{workdir} has no {PREDICTIONS}: the run hasn't finished") from None
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); the command that trained the run writes it anew") from None
    if step != (last := history.load(workdir).step):
        raise UserError(f"{path} is of step {step:,}, the run is at step {last:,}: it went on and hasn't finished; train it to its end")
    return answers


def unnamed(classes: int) -> tuple[str, ...]:
    """What classes are called whose names came with no weights."""
    return tuple(f"class {number}" for number in range(classes))


def same_classes(run: tuple[str, ...], dataset: tuple[str, ...]) -> bool:
    """Whether a run's classes are a dataset's. Unnamed ones are those of any dataset that has as many."""
    return run in (dataset, unnamed(len(dataset)))


def start_state(workdir: Path, network: Network, config: ConfigDict, classes: tuple[str, ...]) -> tuple[TrainState, list[str]]:
    """The state of a run that has not begun: its parameters are drawn, or taken from the run that `train.init_from` names.

    Member m takes over member m's, or all take over the only member's; a last layer for other classes is drawn. A run that has begun goes
    on from its own checkpoint: all that it needs is the shapes.

    Returns:
      The state, numpy leaves or their shapes, and what its user should know: a last layer that is new, a network that computes something
      else from the same parameters.

    Raises:
      UserError: not a run, one with another number of members, or a network whose tensors have other shapes; a directory of imported
        weights, which have no optimiser's state.
    """
    if history.is_imported(workdir):
        raise UserError(f"{workdir} holds imported weights; train them in another --workdir, with --config.train.init_from={workdir}")
    if history.has_checkpoint(workdir):
        return network.abstract_state(), []
    # On the host, so that a device holds the state once where members train in turn, in parts of their own.
    state, source = jax.tree.map(np.array, network.init_state()), config.train.init_from
    if not source:
        return state, []
    loaded, notes = load(source), []
    members, found = network.hyper.members, loaded.network.hyper.members
    if found not in (1, members):
        raise UserError(f"train.init_from={source} has {found} members, this run {members}: it must have as many, or one")
    params = dict(loaded.state.params)
    if not same_classes(loaded.classes, classes):
        params["fc8"] = state.params["fc8"]
        notes.append(f"fc8 is new: {source} has {len(loaded.classes)} classes, this dataset {len(classes)}, or others")
    for (path, theirs), ours in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(state.params), strict=True):
        if theirs.shape[1:] != ours.shape[1:]:
            name = ".".join(key.key for key in path)
            raise UserError(f"train.init_from={source}: {name} has shape {theirs.shape[1:]}, this run's config makes it {ours.shape[1:]}")
    for field, (before, after) in contradictions(loaded.config.model, config.model).items():
        notes.append(f"model.{field} was {before} in {source} and is {after} now: the same parameters compute something else")
    params = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (members, *leaf.shape[1:])), params)
    return state.replace(params=params), notes  # type: ignore[attr-defined]
