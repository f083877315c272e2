"""Members in turn: one compiled program for a few members, run for some of them after the others at every step.

A program's activations grow with its members, and so does the time to compile it, since convolutions unroll over members (conv.py). So a
run of many members has a program for a few, compiled once, that takes its members out of the state of all and puts them back. Every batch
is still read and decoded once, and everything else sees the state of all members.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax import parallel
from alexnet_jax.step import TrainState


class Turns(NamedTuple):
    """Which members have their turn together: `size` of `members` at a time."""

    members: int
    size: int

    @property
    def starts(self) -> list[np.int32]:
        """The first member of each turn. The last one is moved down to be as large as the others: it may overlap with the one before."""
        return [np.int32(min(first, self.members - self.size)) for first in range(0, self.members, self.size)]

    @property
    def overlap(self) -> int:
        """How many members the last turn shares with the one before it. They have their turn in that one."""
        return -self.members % self.size

    def take(self, state: TrainState, start) -> TrainState:
        """The state of the turn's members."""
        part = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, self.size), replace(state, step=None))
        return replace(part, step=state.step)

    def join(self, parts: Sequence[Any], axis: int = 0) -> Any:
        """What each turn gave, leaves with its members along an axis, as one tree with all of them."""
        if len(parts) == 1:
            return parts[0]
        last = jax.tree.map(lambda leaf: lax.slice_in_dim(leaf, self.overlap, None, axis=axis), parts[-1])
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis), *parts[:-1], last)


def plan(members: int, per_program: int) -> Turns:
    """The turns of a run; `per_program` 0 leaves their size to `parallel.MEMBERS_PER_PROGRAM`."""
    turns = -(-members // (per_program or parallel.MEMBERS_PER_PROGRAM))
    return Turns(members, -(-members // turns))  # as even as can be: 9 of 8 at a time are 5 and 4


class TrainProgram:
    """`program(state, batch) -> (state, metrics)`: a train step over all devices, compiled when this is made.

    Args:
      train_step: of step.py, for any number of members.
      turns: what it is compiled for.
      state: replicated over devices; a call reuses its buffers.
      batch: sharded, as every later one.
    """

    def __init__(self, train_step: Callable, turns: Turns, state: TrainState, batch: dict[str, Any]):
        self.turns = turns
        step = parallel.over_devices_train(_turn_of(train_step, turns))
        self.compiled = step.lower(state, batch, turns.starts[0]).compile()

    def __call__(self, state: TrainState, batch: dict[str, Any]) -> tuple[TrainState, dict[str, Any]]:
        parts = []
        for start in self.turns.starts:
            state, metrics = self.compiled(state, batch, start)
            parts.append(metrics)
        return state, self.turns.join(parts)


def over_devices_predict(log_probs: Callable, turns: Turns) -> Callable:
    """`predict(state, images) -> (M, devices, B / devices, classes)` on the devices, of `log_probs(state, images)` and sharded images."""

    def turn(state: TrainState, images, start):
        return log_probs(state if turns.size == turns.members else turns.take(state, start), images)

    program = parallel.over_devices_predict(turn)
    return lambda state, images: turns.join([program(state, images, start) for start in turns.starts])


def predictor(log_probs: Callable, turns: Turns, state: TrainState) -> Callable:
    """`predict(images) -> float32 (M, B, classes)`, all on the host, of uint8 images (B, H, W, C) and a state replicated over devices."""
    on_devices = over_devices_predict(log_probs, turns)
    return lambda images: parallel.gather(on_devices(state, parallel.shard({"image": images})["image"]))


def _turn_of(train_step: Callable, turns: Turns) -> Callable:
    """`turn(state, batch, start) -> (state, metrics)`: the state of all members, of which those of the turn have made a step."""
    if turns.size == turns.members:
        return lambda state, batch, start: train_step(state, batch)

    def turn(state: TrainState, batch, start):
        is_last = start == turns.starts[-1]
        before = turns.take(state, start)
        after, metrics = train_step(before, batch)
        done = jnp.where(is_last, turns.overlap, 0)  # members whose turn was the one before

        def put(whole, old, new):
            had_turn = (jnp.arange(turns.size) < done).reshape(-1, *[1] * (new.ndim - 1))
            return lax.dynamic_update_slice_in_dim(whole, jnp.where(had_turn, old, new), start, 0)

        params = jax.tree.map(put, state.params, before.params, after.params)
        opt_state = jax.tree.map(put, state.opt_state, before.opt_state, after.opt_state)
        # Draws and schedules go by the step, which is over when all have had their turn.
        return replace(state, step=state.step + is_last, params=params, opt_state=opt_state), metrics

    return turn
