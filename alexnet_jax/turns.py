"""Members in turn: one compiled program for a few members, run for some of them after the others at every step.

A program's activations grow with its members, and so does the time to compile it, since convolutions unroll over members (model/conv.py).
So a run of many members keeps its state in parts of a few members each, which the one program takes in turn. Every batch is still read
and decoded once.

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
    """Which members have their turn together: `size` of `members` at a time."""

    members: int
    size: int

    @property
    def counts(self) -> list[int]:
        """How many members each turn has. Where the last has fewer than `size`, copies of its last member fill it up; they don't count."""
        return [min(self.size, self.members - first) for first in range(0, self.members, self.size)]

    def split(self, tree: Any) -> list[Any]:
        """A tree of leaves (members, ...), but for scalars, as one of leaves (size, ...) for each turn."""
        if self.size == self.members:
            return [tree]

        def part(first):
            which = np.minimum(np.arange(first, first + self.size), self.members - 1)
            return jax.tree.map(lambda leaf: leaf[which] if np.ndim(leaf) else leaf, tree)

        return [part(first) for first in range(0, self.members, self.size)]

    def join(self, parts: Sequence[Any]) -> Any:
        """What `split` took apart, or what a program gave for each part, leaves (size, ...), as one tree of leaves (members, ...)."""
        if len(parts) == 1:
            return parts[0]

        def joined(*leaves):
            if not np.ndim(leaves[0]):
                return leaves[0]
            where = np if isinstance(leaves[0], np.ndarray) else jnp
            return where.concatenate([leaf[:count] for leaf, count in zip(leaves, self.counts, strict=True)])

        return jax.tree.map(joined, *parts)


def plan(members: int, per_program: int) -> Turns:
    """The turns of a run; where `per_program` is 0, `parallel.MEMBERS_PER_PROGRAM` decides their size."""
    turns = -(-members // (per_program or parallel.MEMBERS_PER_PROGRAM))
    return Turns(members, -(-members // turns))  # as even as can be: 9 of 8 at a time are 5 and 4


def place(tree: Any, turns: Turns) -> list[Any]:
    """A tree of leaves (members, ...), split into its turns, on the devices."""
    return [parallel.replicate(part) for part in turns.split(tree)]


class TrainProgram:
    """`program(parts, controls, batch) -> (parts, metrics)`: a train step of all members over all devices, compiled when this is made.

    Args:
      train_step: of train/step.py, for any number of members.
      turns: how the members are split.
      parts: the state, as `place` gives it. A call reuses its buffers.
      controls: likewise, but kept.
      batch: sharded, as every later one.
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
    """`predict(params, hyper, images) -> (M, devices, B / devices, classes)` on the devices, of `log_probs` as model/forward.py makes it.

    `params` and `hyper` are lists, one of each turn; images are sharded.
    """
    program = parallel.over_devices_predict(log_probs)

    def predict(params: list[Any], hyper: list[Any], images: Any) -> Any:
        return turns.join([program(*part, images) for part in zip(params, hyper, strict=True)])

    return predict


def predictor(log_probs: Callable, turns: Turns, params: list[Any], hyper: list[Any]) -> Callable:
    """`predict(images) -> float32 (M, B, classes)`, all on the host, of uint8 images (B, H, W, C). Arguments as above."""
    on_devices = over_devices_predict(log_probs, turns)
    return lambda images: parallel.gather(on_devices(params, hyper, parallel.shard({"image": images})["image"]))
