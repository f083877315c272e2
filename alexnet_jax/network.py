"""Builds the network of a config and a dataset: its Flax module, its optimiser and its members.

Training, evaluation, weights and the launchers call `build`:

    network = build(config, dataset.image_shape, len(dataset.classes))
    state = network.init_state()
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import hyper
from alexnet_jax.errors import UserError
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.architecture import architecture
from alexnet_jax.optimizer import make_optimizer
from alexnet_jax.state import MakeOptimizer, Networks, TrainState, abstract_state, init_state


class Network(NamedTuple):
    """The module, the optimiser and the members of a config; M is the number of members."""

    model: AlexNet
    make_optimizer: MakeOptimizer
    hyper: hyper.Hyper  # leaves (M,)
    member_names: list[str]
    channels: int

    def init_state(self) -> TrainState:
        return init_state(self.model, self.make_optimizer, self.hyper, self.channels)

    def abstract_state(self) -> TrainState:
        return abstract_state(self.model, self.make_optimizer, self.hyper, self.channels)

    def abstract_networks(self) -> Networks:
        """The shapes and types of the networks in a checkpoint; nothing is computed."""
        state = self.abstract_state()
        return Networks(state.step, state.params, self.hyper)


def build(config: ConfigDict, image_shape: tuple[int, ...], classes: int) -> Network:
    """Build the network of a config for images (height, width, channels) and a number of classes.

    Raises:
      UserError: the config contradicts itself or doesn't suit the images.
    """
    arch = architecture(config.model)
    if min(image_shape[:2]) < arch.input_size:
        raise UserError(
            f"model.input_size={arch.input_size} is more than the dataset's {image_shape[0]}x{image_shape[1]} pixels; "
            f"prepare the dataset with --size {arch.input_size} or more, or set --config.model.input_size={min(image_shape[:2])}"
        )
    arch.check_channels(image_shape[2])
    try:
        optimizer = partial(make_optimizer, rule=config.optimizer.rule, bias=config.optimizer.bias, lars=config.optimizer.lars)
        optimizer(0.0, 0.0, 0.0)
    except ValueError as error:
        raise UserError(str(error)) from None
    members, names = hyper.from_config(config)
    if not arch.lrn and any(np.ptp(leaf) for leaf in (members.lrn_k, members.lrn_alpha, members.lrn_beta)):
        raise UserError(
            f"ensemble.members={config.ensemble.members} differ in LRN, but this network has no LRN (model.lrn is off), "
            "so the members would be the same; leave LRN out"
        )
    return Network(AlexNet(arch, classes, config.train.remat), optimizer, members, names, image_shape[2])
