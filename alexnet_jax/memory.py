"""How much memory a run needs on each device, and how many members fit into one program.

The loop (train/loop.py) checks the state before anything is compiled, and the whole program before its first step:

    memory.check(memory.of_state(state, turns), parallel.memory())
"""

import math
from typing import Any, NamedTuple

import jax

from alexnet_jax.errors import UserError
from alexnet_jax.state import TrainState
from alexnet_jax.turns import Turns

FIELD = "train.members_per_program"


class Needs(NamedTuple):
    """Bytes on one device: parameters and optimiser state of all members, and activations of the members that train at once."""

    turns: Turns
    parameters: int
    optimizer: int
    activations: int  # and everything else that the program of a step needs, except the state

    @property
    def state(self) -> int:
        return self.parameters + self.optimizer

    @property
    def total(self) -> int:
        return self.state + self.activations

    def __str__(self) -> str:
        """`7 members: parameters 12.4 MB, optimiser 12.4 MB, activations 434 MB`."""
        at_once = f" of {self.turns.at_once} at once" if self.turns.at_once < self.turns.members else ""
        activations = f"activations{at_once} {size(self.activations)}" if self.activations else "without activations"
        members = f"{self.turns.members} members" if self.turns.members > 1 else "1 member"
        return f"{members}: parameters {size(self.parameters)}, optimiser {size(self.optimizer)}, {activations}"


def of_state(state: TrainState, turns: Turns) -> Needs:
    """The needs of a state, real or abstract, before anything is compiled."""
    return Needs(turns, int(turns.held * _bytes(state.params)), int(turns.held * _bytes(state.opt_state)), 0)


def of_program(parts: list[TrainState], turns: Turns, compiled: Any) -> Needs:
    """The needs of all parts and of a compiled train step. `compiled` is JAX's; its `memory_analysis` gives the program's buffers."""
    needs = Needs(turns, sum(_bytes(part.params) for part in parts), sum(_bytes(part.opt_state) for part in parts), 0)
    plan = compiled.memory_analysis()
    if plan is None:  # a backend without memory analysis
        return needs
    program = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes
    return needs._replace(activations=max(0, program - needs.state // len(parts)))


def check(needs: Needs, available: int) -> None:
    """Refuse a run that doesn't fit into memory.

    Raises:
      UserError: it needs more bytes than are available. The message says how many members at once would fit.
    """
    if needs.total <= available:
        return
    found = f"{needs}: {size(needs.total)}, but the device has {size(available)}"
    for_activations = available - needs.state
    if for_activations <= 0:
        raise UserError(f"{found}; give the run fewer members, or narrower ones (model.width)")
    fit = int(for_activations / (needs.activations / needs.turns.at_once)) if needs.activations else 0
    if fit < 1:
        raise UserError(
            f"{found}; the activations of one member alone don't fit: raise train.accumulate, lower train.batch_size, or set "
            "--config.train.remat=True"
        )
    raise UserError(f"{found}; let them train in turn: --config.{FIELD}={min(fit, needs.turns.at_once - 1)}")


def check_batch(field: str, images: int, pixels: int, turns: Turns, available: int) -> None:
    """Refuse a batch whose views alone don't fit: float32 numbers (images, pixels) for each member that runs at once.

    Args:
      images: of the batch that one device gets.
      pixels: numbers of a view.

    Raises:
      UserError: they need more bytes than are available on the device.
    """
    if (needed := 4 * images * pixels * turns.size) > available:
        raise UserError(
            f"{field} is too large: the views of {images:,} images take {size(needed)} on a device, which has {size(available)}; lower it"
        )


def size(number: int) -> str:
    """A number of bytes as text, such as `12.4 MB`."""
    value, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def _bytes(tree: Any) -> int:
    """The size of a tree; of arrays on devices, what one device holds of it."""
    shapes = [leaf.sharding.shard_shape(leaf.shape) if isinstance(leaf, jax.Array) else leaf.shape for leaf in jax.tree.leaves(tree)]
    return sum(math.prod(shape) * leaf.dtype.itemsize for shape, leaf in zip(shapes, jax.tree.leaves(tree), strict=True))
