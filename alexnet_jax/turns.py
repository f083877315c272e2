"""Members in turn: at every step, one compiled program runs for one group of members after the other.

A program for more members needs more memory for activations and more time to compile, since convolutions unroll over members
(model/conv.py). So a run of many members splits its state into parts of a few members, and the same program takes each part in turn. Every
batch is still read and decoded once.

Several devices share a run in one of two ways (`parallel.split` of a config):

    data       each device takes a part of every batch, and holds all members; gradients are averaged
    members    each device trains members of its own on whole batches, and holds no others; no gradient leaves it

The loop, evaluate and predict use it:

    in_turn = turns.plan(members=12, per_program=8)          # 2 turns of 6
    parts, controls = turns.place(state, in_turn), turns.place(controls, in_turn)
    program = turns.TrainProgram(train_step, in_turn, parts, controls, batch)
    parts, metrics = program(parts, controls, batch)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import cpu, parallel
from alexnet_jax.errors import UserError, did_you_mean
from alexnet_jax.state import MEMBER_AXES, Controls, TrainState

DATA, MEMBERS = "data", "members"
MOST_IDLE, HALF = 0.2, 0.5  # fractions of the devices' places for members that may stay empty: unasked, and at all


class Turns(NamedTuple):
    """Which members run together: `size` of `members` at a time, on each of `devices` an equal part of them."""

    members: int
    size: int
    devices: int = 1  # over which the members are divided; 1: each device has them all

    @property
    def counts(self) -> list[int]:
        """The number of members in each turn. If the last has fewer than `size`, copies of its last member fill it, not counted here."""
        return [min(self.size, self.members - first) for first in range(0, self.members, self.size)]

    @property
    def divided(self) -> bool:
        return self.devices > 1

    @property
    def batch_axis(self) -> str | None:
        """The axis over which gradients are averaged; None where each device has whole batches."""
        return None if self.divided else parallel.DEVICES

    @property
    def at_once(self) -> int:
        """The number of members in a device's program."""
        return self.size // self.devices

    @property
    def held(self) -> float:
        """The size of the state that a device holds, as a fraction of that of all members."""
        return len(self.counts) * self.at_once / self.members if self.divided else 1.0

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
        if self.size == self.members:
            return parts[0]

        def joined(*leaves):
            if not np.ndim(leaves[0]):
                return leaves[0]
            where = np if isinstance(leaves[0], np.ndarray) else jnp
            return where.concatenate([leaf[:count] for leaf, count in zip(leaves, self.counts, strict=True)])

        return jax.tree.map(joined, *parts)

    def within_reach(self, parts: Sequence[Any]) -> Sequence[Any]:
        """The state's parts such that `on_host` can have all of them at process 0. An exchange."""
        return [parallel.within_reach(part, self.divided) for part in parts]

    def on_host(self, parts: Sequence[Any]) -> Any:
        """The parts that `place` put on the devices as one tree on the host, numpy leaves (members, ...)."""
        return self.join([parallel.on_host(part, self.divided) for part in parts])

    def member(self, parts: Sequence[Any], number: int) -> Any:
        """One member's leaves (...) of the trees of all turns. An exchange."""
        part, place = parts[number // self.size], number % self.size
        return parallel.member(part, place, self.at_once, self.divided)


def choose(members: int, asked: str = "", tight: bool = False, devices: int | None = None) -> tuple[str, str]:
    """How devices (by default all there are) share a run, and why, in words; nothing is to be said where there is one device.

    Args:
      asked: `data` or `members`; empty: `members` if few places stay empty.
      tight: a device can't hold all members.

    Raises:
      UserError: `asked` is no way to share, or would leave half of the places empty.
    """
    devices = devices or parallel.count_devices()
    if asked not in ("", DATA, MEMBERS):
        raise UserError(f"parallel.split is {asked!r}{did_you_mean(asked, (DATA, MEMBERS))}; empty: the run chooses")
    if devices == 1:
        return DATA, ""
    each = -(-members // devices)
    idle = 1 - members / (each * devices)
    if asked == MEMBERS and idle >= HALF:
        raise UserError(
            f"parallel.split=members: {members} member{'s' * (members > 1)} on {devices} devices, {each} on each, would leave {idle:.0%} "
            f"of the places empty; take {each * devices} members, or {members} devices, or parallel.split=data"
        )
    places = f"{members} members have {each * devices} places on {devices} devices" if members > 1 else "there is one member"
    if asked == MEMBERS or (not asked and idle <= MOST_IDLE):
        return MEMBERS, f"each device trains {each} of the members on whole batches: {places}"
    if not asked and tight and idle < HALF:
        return MEMBERS, f"each device trains {each} of the members on whole batches: it can't hold all {members}"
    return DATA, f"each device takes a part of every batch: {places}"


def plan(members: int, per_program: int, split: str = DATA, devices: int | None = None) -> Turns:
    """The turns of a run on the devices (by default all there are) with at most `per_program` members each on a device; 0 means
    `parallel.members_per_program`.
    """
    devices = (devices or parallel.count_devices()) if split == MEMBERS else 1
    turns = -(-members // (devices * (per_program or parallel.members_per_program())))
    return Turns(members, -(-members // (turns * devices)) * devices, devices)  # as even as possible: 9, at most 8 at a time, are 5 and 4


def place(tree: Any, turns: Turns) -> list[Any]:
    """Split a tree of leaves (members, ...) into its turns, and put these on the devices."""
    return [parallel.place(part, turns.divided) for part in turns.split(tree)]


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
        # Compiled: one operation after the other, joining the metrics of four turns would take the host longer than to start all four.
        self._join = jax.jit(turns.join) if len(turns.counts) > 1 else turns.join
        program = parallel.over_devices_train(train_step, MEMBER_AXES if turns.divided else None)
        self.compiled = program.lower(parts[0], controls[0], batch).compile()
        cpu.give_back()

    def __call__(self, parts: list[TrainState], controls: list[Controls], batch: dict[str, Any]) -> tuple[list[TrainState], dict[str, Any]]:
        results = [
            parallel.wait_on_virtual_devices(self.compiled(part, control, batch)) for part, control in zip(parts, controls, strict=True)
        ]
        stepped, metrics = zip(*results, strict=True)
        return list(stepped), self._join(metrics)


def over_devices_predict(log_probs: Callable, turns: Turns) -> Callable:
    """`predict(params, hyper, images) -> (M, devices, B / devices, ...)` on the devices; model/forward.py makes `log_probs`.

    `params` and `hyper` are lists with a tree for each turn; images are sharded.
    """
    program = parallel.over_devices_predict(log_probs, turns.divided)

    def predict(params: list[Any], hyper: list[Any], images: Any) -> Any:
        return turns.join([program(*part, images) for part in zip(params, hyper, strict=True)])

    return predict


def predictor(log_probs: Callable, turns: Turns, params: list[Any], hyper: list[Any]) -> Callable:
    """`predict(images) -> (M, B, ...)`, all on the host, for uint8 images (B, H, W, C): what `log_probs`, or another function of
    (params, hyper, images), gives for all members. It may be a tree.

    `params` and `hyper` are lists with a tree for each turn. Of a process's share of the images, the answer is to all (`parallel.gather`).
    """
    on_devices = over_devices_predict(log_probs, turns)
    return lambda images: parallel.gather(on_devices(params, hyper, parallel.shard({"image": images})["image"]))
