"""A run directory: writes and checks its config.json, and loads its networks.

The training loop writes it and asks for the state to start with. evaluate, predict, weights and the report load it:

    loaded = load("runs/digits")
    loaded.network.member_names, loaded.state.params

Its files:

    config.json             the config with all fields, the dataset and the order of its images, versions, devices, command
    events.jsonl            one JSON object a line (runlog.py writes it, history.py reads it)
    checkpoints/            orbax (checkpoint.py)
    predictions-test.npz    the answers of the finished networks on the test split (metrics.answers)
    tensorboard/  figures/  report.html
"""

import json
import platform
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import checkpoint, classes, cpu, data, exchange, history, parallel
from alexnet_jax import config as config_lib
from alexnet_jax.data import Dataset, stats_from_json
from alexnet_jax.errors import UserError, version
from alexnet_jax.examples import ORDER
from alexnet_jax.model.alexnet import LAST
from alexnet_jax.model.architecture import contradictions
from alexnet_jax.network import Network, build
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.record import CONFIG, read_config, read_record
from alexnet_jax.runlog import command, replacing, writing
from alexnet_jax.state import Networks, TrainState

PREDICTIONS = "predictions-test.npz"
# Fields that may change when a run resumes: its length, and fields that change no bit of its networks; tests/test_run.py tries each.
# Of an evaluation, the batch size changes the last digits of the mean loss, which moves nothing.
RESUMABLE = (
    "train.epochs",
    "train.log_every_steps",
    "train.checkpoint_every_epochs",
    "train.members_per_program",
    "train.remat",
    "train.on_stall",
    "train.disk_patience",
    "data.dir",
    "data.threads",
    "data.prepare",
    "eval.batch_size",
)
# These may change too: like the number of devices, they change the order of sums, and no draw.
SHARING = ("parallel.split", "train.accumulate")
VERSIONS = ("alexnet_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy")


class Run(NamedTuple):
    """A run that was loaded."""

    workdir: Path
    config: ConfigDict
    classes: tuple[str, ...]
    stats: PixelStats
    network: Network
    state: Networks  # at the newest checkpoint, numpy leaves
    resampling: str = "gather"  # of the augmentation, in training

    def member(self, name: str) -> int:
        """The place of the member with this name or index.

        Raises:
          UserError: there is none.
        """
        names = self.network.member_names
        if name in names:
            return names.index(name)
        if name.isdecimal() and int(name) < len(names):
            return int(name)
        listed = ", ".join(f"{m} ({other})" for m, other in enumerate(names))
        raise UserError(f"{self.workdir} has no member {name!r}; its members: {listed}")


def resampling(workdir: Path, chosen: str) -> str:
    """The form of resampling with which the run in the directory was begun, wherever it goes on; `chosen` if there is none."""
    record = read_record(workdir)
    return _resampling(record) if record else chosen


def _resampling(record: dict[str, Any]) -> str:
    return record.get("resampling", "gather")  # all that there was before it was recorded


def write_config(workdir: Path, config: ConfigDict, dataset: Dataset, resampling: str = "gather") -> list[str]:
    """Write config.json. If the directory holds a run, first check that its config and dataset are the same.

    `resampling` is the form that the augmentation takes, see `resample.choose`. Returns warnings for the user.

    Raises:
      UserError: the config or the dataset is another one, or the file can't be written.
    """
    path = workdir / CONFIG
    notes: list[str] = []
    record = {
        "config": json.loads(config.to_json()),
        "dataset": dataset.describe(),
        "image_order": ORDER,
        "numerics": _numerics(),
        "xla_flags": cpu.users_flags(),
        "resampling": resampling,
        "replayed": _replayed(config),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        "devices": parallel.describe(),
        "command": command(),
    }
    if path.exists():
        check_same(workdir, config, dataset)
        before = read_config(workdir)
        record["dataset"] = before["dataset"] | record["dataset"]  # its digests stay known, where this copy of it has none
        if (changed := before.get("numerics", _numerics())) != _numerics():
            raise UserError(
                f"{workdir} holds a run computed with {_in_words(changed)}, now it is {_in_words(_numerics())}; restore the environment"
            )
        if (flags := before.get("xla_flags", cpu.users_flags())) != cpu.users_flags():
            told = " and is now ".join(repr(each) if each else "not set" for each in (flags, cpu.users_flags()))
            notes.append(f"XLA_FLAGS was {told}: the numbers may be others than they would have been")
        each = ("versions", "devices", "xla_flags", "command")
        record |= {"processes": [*before.get("processes", []), {name: before.get(name) for name in each}]}
    elif history.has_checkpoint(workdir):
        raise UserError(
            f"{workdir} has checkpoints and no {CONFIG}: how they were trained is unknown; put it back, or use another --workdir"
        )
    with writing(path):
        workdir.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write_text(json.dumps(record, indent=2) + "\n")
    return notes


def _numerics() -> dict[str, Any]:
    """JAX's settings that change a run's numbers."""
    names = ("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable", "jax_default_matmul_precision")
    return {name.removeprefix("jax_"): getattr(jax.config, name) for name in names}


def _in_words(numerics: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in numerics.items())


def check_same(workdir: Path, config: ConfigDict, dataset: Dataset) -> None:
    """Refuse a config or a dataset with which the run in the directory can't resume.

    Raises:
      UserError: it names what differs.
    """
    check_config(workdir, config)
    record = read_config(workdir)
    before, now = data.comparable(record.get("dataset", {}), dataset.describe())
    if before != now:
        raise UserError(f"{workdir} holds a run on another version of dataset {dataset.name}; use another directory")
    if record.get("image_order") != ORDER:
        raise UserError(f"{workdir} holds a run that another version of the project shuffled in another order; use another directory")


def check_config(workdir: Path, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """The differences between the run's config and a new one with which it may resume: `{field: (value, new value)}`.

    Raises:
      UserError: a field differs that must stay the same.
    """
    record = read_config(workdir)
    different, replayed = config_lib.differences(config_lib.from_json(record["config"]), config), record.get("replayed")
    follows = replayed is not None and (_replayed(config) or [])[: len(replayed)] == replayed
    for name, (before, after) in different.items():
        bound = name == "train.epochs" and config.optimizer.schedule == "poly"  # poly's rates depend on the number of epochs
        moved = name == "plateau.mode" and follows  # the run that this one replays has another path now
        if bound or not (name in (*RESUMABLE, *SHARING) or moved):
            raise UserError(f"{workdir} holds a run with {name}={before}, now it is {after}; use another directory, or the old value")
    if replayed is not None and not follows:
        raise UserError(f"{workdir} repeats changes of learning rates that {config.plateau.mode.removeprefix('replay:')} no longer has")
    return different


def _replayed(config: ConfigDict) -> list[list[Any]] | None:
    """The changes of learning rates that the run of `plateau.mode=replay:RUN` has made so far; None without such a run."""
    mode, _, source = config.plateau.mode.partition(":")
    if mode != "replay":
        return None
    return [[event["step"], event["member"], event.get("factor"), event.get("value")] for event in history.load(source).rates]


def load(workdir: str | Path, step: str = "last") -> Run:
    """Load a run at its newest checkpoint, or at the one that `step` names: `best`, or a number.

    Raises:
      UserError: it isn't a run directory, it has no such checkpoint, the checkpoint is damaged, or another version of the project made it.
    """
    workdir = Path(workdir)
    record = exchange.first_says(lambda: read_config(workdir))
    config = config_lib.from_json(record["config"])
    try:
        dataset = record["dataset"]
        stats, names = stats_from_json(dataset["stats"]), tuple(dataset["classes"])
        network = build(config, tuple(dataset["image_shape"]), len(names))
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        made_by = record.get("versions", {}).get("alexnet_jax", "unknown")
        raise UserError(f"{workdir} was made by another version of this project ({made_by}), whose {CONFIG} differs: {error}") from None
    except UserError as error:  # a value that this version doesn't know, or one that somebody wrote there
        raise UserError(f"{workdir / CONFIG}: {error}") from None
    found = exchange.first_says(
        lambda: checkpoint.restore(workdir, checkpoint.chosen(workdir, step), {"networks": network.abstract_networks()})
    )
    return Run(workdir, config, names, stats, network, found.trees["networks"], _resampling(record))


def open_dataset(loaded: Run, data_dir: Path | None = None) -> Dataset:
    """The dataset of a run, from another directory than its config's where one is given. Warns where it isn't the one of the training.

    Raises:
      UserError: there is none, or its images have another shape.
    """
    section, record = loaded.config.data.copy_and_resolve_references(), exchange.first_says(lambda: read_config(loaded.workdir)["dataset"])
    with section.unlocked():
        section.dir = str(data_dir or section.dir)
    dataset = data.load(section, loaded.config.model.pixel_mean)
    if list(dataset.image_shape) != record["image_shape"]:
        stored, now = ("x".join(map(str, shape)) for shape in (record["image_shape"], dataset.image_shape))
        raise UserError(
            f"{loaded.workdir} was trained on images of {stored}, the dataset {dataset.name} now has {now}; "
            "prepare it again with the old shape, or prepare the new one under another --name"
        )
    trained, found = data.comparable(record, dataset.describe())
    if record.get("split_sizes") and any(trained.get(part) != found.get(part) for part in ("split_sizes", "stats", "digests")):
        print(
            f"warning: {loaded.workdir} was trained on another version of the dataset {dataset.name}, which may have had images of this "
            "version's other splits in its train split: the error may be too low",
            file=sys.stderr,
        )
    return dataset


REWRITES = f"the command in {CONFIG} writes it again"


def save_predictions(workdir: Path, step: int, answers: dict[str, np.ndarray]) -> None:
    """Write the answers of the finished networks on the test split, and the step at which they finished.

    Raises:
      UserError: the file can't be written.
    """
    path = workdir / PREDICTIONS
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, step=step, **answers)  # type: ignore[arg-type]


def load_predictions(workdir: str | Path) -> dict[str, np.ndarray]:
    """Load the answers that `save_predictions` wrote.

    Raises:
      UserError: the run hasn't finished, it has trained further since, or the file is missing, damaged or another run's.
    """
    path, past = Path(workdir) / PREDICTIONS, history.load(workdir, missing_ok=True)
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            answers = dict(arrays)
            step = int(answers.pop("step"))
    except FileNotFoundError:
        lost = f"it is missing, though the run has finished; {REWRITES}" if past.test else "the run hasn't finished"
        raise UserError(f"{workdir} has no {PREDICTIONS}: {lost}") from None
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); {REWRITES}") from None
    if step != past.step:
        raise UserError(f"{path} is from step {step:,}, but the run is at step {past.step:,} and hasn't finished; train it to its end")
    if past.test and not _are_of(past.test, answers):
        raise UserError(f"{path} is another run's: its errors are not those of this run's log; {REWRITES}")
    return answers


def _are_of(test: dict[str, Any], answers: dict[str, np.ndarray]) -> bool:
    """Whether these answers make the errors of a run's test. What a diverged member answers isn't in its error."""
    if answers["answer"].shape != (len(test["members"]), test["count"]):
        return False
    kept = [name not in test["diverged"] for name in test["members"]]
    return np.allclose((answers["answer"] != answers["label"]).mean(1)[kept], np.array(test["top1_error"], float)[kept])


def in_order(loaded: Run, dataset: str, names: tuple[str, ...], same_order: bool = False) -> Run:
    """The run with its last layer in the order of a dataset's classes, so that it answers in this order.

    With `same_order`, classes that have other names or none are taken for the dataset's one for one.

    Raises:
      UserError: the run has other classes, or has no names for them.
    """
    found = classes.places(loaded.classes, names)
    if found is None and not (same_order and len(loaded.classes) == len(names)):
        raise UserError(f"{loaded.workdir} {_unlike(loaded.classes, dataset, names)}")
    if found is None or np.array_equal(found, np.arange(len(names))):
        return loaded._replace(classes=names)
    if same_order:
        raise UserError(f"--same-order: {loaded.workdir} has the classes of the dataset {dataset} in another order; leave it out")
    params = _reordered(loaded.state.params, found)
    return loaded._replace(classes=names, state=loaded.state.replace(params=params))  # type: ignore[attr-defined]


def _unlike(ours: tuple[str, ...], dataset: str, names: tuple[str, ...]) -> str:
    """The end of an error that begins with the run: why its classes are not those of the dataset, and what to do."""
    if len(ours) != len(names):
        return f"knows {len(ours)} classes, the dataset {dataset} has {len(names)}"
    order = f"--same-order if they are the dataset's one for one ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
    if ours == classes.unnamed(len(ours)):
        return (
            f"has no names for its {len(ours)} classes; write them into a file in the network's order and evaluate it with --classes FILE "
            f"(or import it with it), or evaluate with {order}"
        )
    only, not_ours = sorted(set(ours) - set(names)) or ours, sorted(set(names) - set(ours)) or names
    return f"knows other classes than the dataset {dataset}, {only[0]!r} and not {not_ours[0]!r}; evaluate with {order}"


def _reordered(params: dict[str, Any], places: np.ndarray) -> dict[str, Any]:
    """The parameters with only the last layer changed: its k-th output is what was its output `places[k]`."""
    return {**params, LAST: {leaf: values[..., places] for leaf, values in params[LAST].items()}}


def start_state(workdir: Path, network: Network, config: ConfigDict, names: tuple[str, ...]) -> tuple[TrainState, list[str]]:
    """The state with which a run starts on a dataset whose classes have these names.

    The parameters of a new run are drawn from its seeds, or taken from the run that `train.init_from` names: member m takes those of its
    member m, or all members take those of its only member. The last layer is put in the order of the dataset's classes; for other classes,
    it is drawn. A run that has a checkpoint resumes from that, so it gets only the shapes.

    Returns:
      The state, with numpy leaves or their shapes, and notes for the user: the last layer is new, or the network computes something else
      from the same parameters.

    Raises:
      UserError: `train.init_from` is not a run, or has another number of members or other shapes; or `workdir` holds imported weights,
        which have no optimiser state.
    """
    if exchange.first_says(lambda: history.is_imported(workdir)):
        raise UserError(f"{workdir} holds imported weights; train them in another --workdir, with --config.train.init_from={workdir}")
    if exchange.first_says(lambda: history.has_checkpoint(workdir)):
        return network.abstract_state(), []
    # On the host: members that train in turn go to the devices in parts, and a whole copy there would need twice the memory.
    state, source = jax.tree.map(np.array, network.init_state()), config.train.init_from
    if not source:
        return state, []
    loaded, notes = load(source, config.train.init_step), []
    members, found = network.hyper.members, loaded.network.hyper.members
    if found not in (1, members):
        raise UserError(
            f"train.init_from={source} has {found} members, this run has {members}; choose a run with {members} members or with one"
        )
    params, places = dict(loaded.state.params), classes.places(loaded.classes, names)
    if places is not None:
        params = _reordered(params, places)
    else:
        params[LAST] = state.params[LAST]
        if loaded.classes == classes.unnamed(len(loaded.classes)):
            notes.append(f"fc8 is new: {source} has no names for its classes; import it again with --classes FILE to keep its fc8")
        else:
            notes.append(f"fc8 is new: {source} has other classes ({len(loaded.classes)}) than this dataset ({len(names)})")
    for (path, theirs), ours in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(state.params), strict=True):
        if theirs.shape[1:] != ours.shape[1:]:
            name = ".".join(key.key for key in path)
            raise UserError(f"train.init_from={source}: {name} has shape {theirs.shape[1:]}, this run's config makes it {ours.shape[1:]}")
    for field in ("lrn_k", "lrn_alpha", "lrn_beta", "whitening"):
        before, after = np.broadcast_to(getattr(loaded.state.hyper, field), members), getattr(network.hyper, field)
        if not np.array_equal(before, after) and (network.model.arch.lrn or field == "whitening"):
            was, now = (", ".join(f"{value:g}" for value in dict.fromkeys(values.tolist())) for values in (before, after))
            notes.append(f"{field} of the members was {was} in {source} and is {now} now: the same parameters compute something else")
    for field, (before, after) in contradictions(loaded.config.model, config.model).items():
        notes.append(f"model.{field} was {before} in {source} and is {after} now: the same parameters compute something else")
    params = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (members, *leaf.shape[1:])), params)
    return state.replace(params=params), notes  # type: ignore[attr-defined]
