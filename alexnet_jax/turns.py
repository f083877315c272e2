"""Members in turn: at every step, one compiled program runs for one group of members after the other.

A program for more members needs more memory for activations and more time to compile, since convolutions unroll over members
(model/conv.py). So a run of many members splits its state into parts of a few members, and the same program takes each part in turn. Every
batch is still read and decoded once. The loop, evaluate and predict use it:

    in_turn = turns.plan(members=12, per_program=0)          # 2 turns of 6
    parts, controls = turns.place(state, in_turn), turns.place(controls, in_turn)
    program = turns.TrainProgram(train_step, in_turn, parts, controls, batch)
    parts, metrics = program(parts, controls, batch)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import parallel
from alexnet_jax.state import Controls, TrainState


class Turns(NamedTuple):
    """Which members run together: `size` of `members` at a time."""

    members: int
    size: int

    @property
    def counts(self) -> list[int]:
        """The number of members in each turn. If the last has fewer than `size`, copies of its last member fill it, not counted here."""
        return [min(self.size, self.members - first) for first in range(0, self.members, self.size)]

    def split(self, tree: Any) -> list[Any]:
        """Split a tree of leaves (members, ...) into a tree of leaves (size, ...) for each turn. Scalar leaves stay as they are."""
        if self.size == self.members:
            return [tree]

        def part(first):
            which = np.minimum(np.arange(first, first + self.size), self.members - 1)
            return jax.tree.map(lambda leaf: leaf[which] if np.ndim(leaf) else leaf, tree)

        return [part(first) for first in range(0, self.members, self.size)]

    def join(self, parts: Sequence[Any]) -> Any:
        """Join the trees of all turns, leaves (size, ...), to one tree of leaves (members, ...): the inverse of `split`."""
        if len(parts) == 1:
            return parts[0]

        def joined(*leaves):
            if not np.ndim(leaves[0]):
                return leaves[0]
            where = np if isinstance(leaves[0], np.ndarray) else jnp
            return where.concatenate([leaf[:count] for leaf, count in zip(leaves, self.counts, strict=True)])

        return jax.tree.map(joined, *parts)

    def member(self, parts: Sequence[Any], number: int) -> Any:
        """One member's leaves (...) of the trees of all turns, leaves (size, ...)."""
        return jax.tree.map(lambda leaf: parallel.local(leaf)[number % self.size] if np.ndim(leaf) else leaf, parts[number // self.size])


def plan(members: int, per_program: int) -> Turns:
    """The turns of a run with at most `per_program` members each; 0 means `parallel.MEMBERS_PER_PROGRAM`."""
    turns = -(-members // (per_program or parallel.MEMBERS_PER_PROGRAM))
    return Turns(members, -(-members // turns))  # as even as possible: 9 members, at most 8 at a time, are 5 and 4


def place(tree: Any, turns: Turns) -> list[Any]:
    """Split a tree of leaves (members, ...) into its turns, and put these on the devices."""
    return [parallel.replicate(part) for part in turns.split(tree)]


class TrainProgram:
    """`program(parts, controls, batch) -> (parts, metrics)`: a train step of all members on all devices. Making one compiles it.

    Args:
      train_step: the step of train/step.py, for any number of members.
      turns: how the members are split.
      parts: the state, from `place`. A call reuses its buffers.
      controls: the controls, from `place`. A call keeps their buffers.
      batch: a sharded batch, with the shapes of all later batches.
    """

    def __init__(
        self, train_step: Callable, turns: Turns, parts: list[TrainState], controls: list[Controls], batch: dict[str, Any]
    ) -> None:
        self._turns = turns
        self.compiled = parallel.over_devices_train(train_step).lower(parts[0], controls[0], batch).compile()

    def __call__(self, parts: list[TrainState], controls: list[Controls], batch: dict[str, Any]) -> tuple[list[TrainState], dict[str, Any]]:
        results = [
            parallel.wait_on_virtual_devices(self.compiled(part, control, batch)) for part, control in zip(parts, controls, strict=True)
        ]
        stepped, metrics = zip(*results, strict=True)
        return list(stepped), self._turns.join(metrics)


def over_devices_predict(log_probs: Callable, turns: Turns) -> Callable:
    """`predict(params, hyper, images) -> (M, devices, B / devices, ...)` on the devices; model/forward.py makes `log_probs`.

    `params` and `hyper` are lists with a tree for each turn; images are sharded.
    """
    program = parallel.over_devices_predict(log_probs)

    def predict(params: list[Any], hyper: list[Any], images: Any) -> Any:
        return turns.join([program(*part, images) for part in zip(params, hyper, strict=True)])

    return predict


def predictor(log_probs: Callable, turns: Turns, params: list[Any], hyper: list[Any]) -> Callable:
    """`predict(images) -> (M, B, ...)`, all on the host, for uint8 images (B, H, W, C): what `log_probs`, or another function of
    (params, hyper, images), gives for all members. It may be a tree.

    `params` and `hyper` are lists with a tree for each turn.
    """
    on_devices = over_devices_predict(log_probs, turns)
    return lambda images: parallel.gather(on_devices(params, hyper, parallel.shard({"image": images})["image"]))
