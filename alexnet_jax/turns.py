"""Members in turn: one compiled program for a few members, run for some of them after the others at every step.

A program's activations grow with its members, and so does the time to compile it, since convolutions unroll over members (conv.py). So a
run of many members keeps its state in parts of a few, each of which is a state of its own to the one program. Every batch is still read
and decoded once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import parallel
from alexnet_jax.step import TrainState


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
    """The turns of a run; `per_program` 0 leaves their size to `parallel.MEMBERS_PER_PROGRAM`."""
    turns = -(-members // (per_program or parallel.MEMBERS_PER_PROGRAM))
    return Turns(members, -(-members // turns))  # as even as can be: 9 of 8 at a time are 5 and 4


def place(state: TrainState, turns: Turns) -> list[TrainState]:
    """A state's parts, on the devices."""
    return [parallel.replicate(part) for part in turns.split(state)]


class TrainProgram:
    """`program(parts, batch) -> (parts, metrics)`: a train step of all members over all devices, compiled when this is made.

    Args:
      train_step: of step.py, for any number of members.
      turns: how the members are split.
      parts: the state, as `place` gives it. A call reuses its buffers.
      batch: sharded, as every later one.
    """

    def __init__(self, train_step: Callable, turns: Turns, parts: list[TrainState], batch: dict[str, Any]):
        self._turns = turns
        self.compiled = parallel.over_devices_train(train_step).lower(parts[0], batch).compile()

    def __call__(self, parts: list[TrainState], batch: dict[str, Any]) -> tuple[list[TrainState], dict[str, Any]]:
        stepped, metrics = zip(*(parallel.wait_on_virtual_devices(self.compiled(part, batch)) for part in parts), strict=True)
        return list(stepped), self._turns.join(metrics)


def over_devices_predict(log_probs: Callable, turns: Turns) -> Callable:
    """`predict(parts, images) -> (M, devices, B / devices, classes)` on the devices, of `log_probs(state, images)` and sharded images."""
    program = parallel.over_devices_predict(log_probs)
    return lambda parts, images: turns.join([program(part, images) for part in parts])


def predictor(log_probs: Callable, turns: Turns, parts: list[TrainState]) -> Callable:
    """`predict(images) -> float32 (M, B, classes)`, all on the host, of uint8 images (B, H, W, C)."""
    on_devices = over_devices_predict(log_probs, turns)
    return lambda images: parallel.gather(on_devices(parts, parallel.shard({"image": images})["image"]))
