"""One check of a config: all that can be said of it and its dataset before any memory is touched.

Training (loop.py), the memory plan (memory.py) and the launchers (experiments/launch/cost.py) call it:

    setup = validate(config, data.load(config.data, config.model.pixel_mean))
    setup.timeline.total    # steps
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from alexnet_jax import network, turns
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
    members = built.hyper.members
    chosen, why = turns.choose(members, config.parallel.split, tight)
    in_turn = turns.plan(members, config.train.members_per_program, chosen)
    return Setup(config, dataset, sources, timeline, built, in_turn, rates.make_policy(config.plateau, members), why)
