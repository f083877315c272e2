"""What is checked before a run begins: its config and dataset, then the devices and the other processes.

`validate` says all that can be said before any memory is touched; the launchers (experiments/launch/cost.py) call it too. Training
(loop.py) calls `prepare`, which opens the dataset, validates, and holds the run against the devices:

    setup, free = prepare(config)
    setup.timeline.total    # steps
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax import data, exchange, history, memory, network, parallel, resample, turns
from alexnet_jax.data import Dataset
from alexnet_jax.errors import UserError, did_you_mean
from alexnet_jax.network import Network
from alexnet_jax.train import rates, schedule
from alexnet_jax.train.rates import Policy
from alexnet_jax.train.schedule import Timeline
from alexnet_jax.turns import Turns

ON_STALL = ("warn", "stop")
ROLES = ("train", "validation", "test")  # of splits


class Setup(NamedTuple):
    """What a config and a dataset make of a run."""

    config: ConfigDict
    dataset: Dataset
    sources: dict[str, Any]  # role -> random access to the examples of its split
    timeline: Timeline
    network: Network
    turns: Turns
    policy: Policy
    split: str  # where there are several devices: what they share, and why, in words
    resampling: str  # of the augmentation: gather | shear

    @property
    def shear_to(self) -> float | None:
        """The largest angle for which the step is built, in degrees, where it resamples by `shear`."""
        return resample.shear_to(self.resampling, self.network.hyper.rotation)


def validate(config: ConfigDict, dataset: Dataset, tight: bool = False) -> Setup:
    """Hold a config against itself and against its dataset.

    `tight`: no device can hold all members, so that they are divided over the devices, unless the config wants it otherwise.

    Raises:
      UserError: a value that makes no sense, an unknown name, a split that the dataset doesn't have, a network that doesn't suit the
        images, a run to replay that doesn't suit the members.
    """
    if config.train.on_stall not in ON_STALL:
        raise UserError(f"train.on_stall is {config.train.on_stall!r}{did_you_mean(config.train.on_stall, ON_STALL)}")
    sources = {role: dataset.source(config.data[f"{role}_split"]) for role in ROLES}
    timeline = schedule.make_timeline(config, len(sources["train"]))
    built = network.build(config, dataset.image_shape, len(dataset.classes))
    _check_different(built, dataset.image_shape)
    members = built.hyper.members
    chosen, why = turns.choose(members, config.parallel.split, tight)
    in_turn = turns.plan(members, config.train.members_per_program, chosen)
    resampling = resample.choose(config.augment.resampling, jax.default_backend(), built.hyper.rotation)
    return Setup(config, dataset, sources, timeline, built, in_turn, rates.make_policy(config.plateau, members), why, resampling)


def _check_different(built: Network, image_shape: tuple[int, ...]) -> None:
    """Refuse members that differ only in what has no effect here: the crop where there is no margin, `draws` where nothing is drawn.

    Raises:
      UserError: it names the two.
    """
    fields = {name: np.array(values) for name, values in vars(built.hyper).items()}
    if max(image_shape[:2]) == built.model.arch.input_size:
        fields["crop"][:] = 0
    drawn = sum(fields[name] for name in ("dropout", "crop", "flip", "rotation", "shift", "colour"))
    fields["draws"][drawn == 0] = 0
    seen: dict[tuple, str] = {}
    for name, row in zip(built.member_names, zip(*(values.tolist() for values in fields.values()), strict=True), strict=True):
        if (first := seen.setdefault(row, name)) != name:
            raise UserError(
                f"the members {first} and {name} would be the same network: a crop needs images larger than model.input_size, and `draws` "
                "needs dropout or a random augmentation; leave one out"
            )


def prepare(config: ConfigDict) -> tuple[Setup, int]:
    """Open the dataset, hold the config against it and against the devices; returns also the free bytes of a device.

    Raises:
      UserError: a config that makes no sense, or contradicts the dataset; a state that can't fit into memory; processes whose configs or
        datasets differ.
    """
    parallel.check_batch_size(config.train.batch_size, "train.batch_size", config.train.accumulate)
    setup = validate(config, data.load(config.data, config.model.pixel_mean))
    _check_equal(setup)
    free, state = parallel.memory(), setup.network.abstract_state()
    pixels = setup.network.model.arch.input_size**2 * setup.network.channels
    for section, pieces in (("train", config.train.accumulate), ("eval", 1)):
        images = config[section].batch_size // (parallel.count_devices() * pieces)
        memory.check_batch(f"{section}.batch_size={config[section].batch_size}", images, pixels, setup.turns, free)
    if memory.of_state(state, setup.turns).total > free:
        setup = validate(config, setup.dataset, tight=True)
    memory.check(memory.of_state(state, setup.turns), free)
    return setup, free


def seen_in_training(setup: Setup) -> list[str]:
    """A warning for each split that holds images which are trained on: its error says nothing of other images."""
    shared = {role: setup.sources["train"].shared_with(setup.sources[role]) for role in ROLES[1:]}
    names = {role: setup.config.data[f"{role}_split"] for role in ROLES}
    return [
        f"{count:,} of the {len(setup.sources[role]):,} images of data.{role}_split={names[role]} are trained on too "
        f"(data.train_split={names['train']}): the {role} error says little of other images"
        for role, count in shared.items()
        if count
    ]


def replayed_elsewhere(setup: Setup) -> list[str]:
    """A warning where the run that this one replays has other epochs: its changes come at their steps, so at other epochs."""
    source = setup.config.plateau.mode.partition(":")[2]
    theirs, ours = history.load(source).start.get("steps_per_epoch") if source else None, setup.timeline.steps_per_epoch
    if theirs in (None, ours):
        return []
    return [
        f"{source} has {theirs:g} steps in an epoch and this run {ours:g}: plateau.mode=replay repeats its changes at their steps, "
        "so not at their epochs"
    ]


def _check_equal(setup: Setup) -> None:
    """Refuse processes whose configs or datasets differ, but for where a machine has its data."""
    fields = {name: value for name, value in config_lib.flat(setup.config).items() if name not in ("data.dir", "data.threads")}
    fields |= {f"dataset {name}": value for name, value in setup.dataset.describe().items()}
    for name, (first, own) in exchange.differences(fields).items():
        raise UserError(f"{name} is {own} here and {first} at process 0; give all processes the same command and the same data")
