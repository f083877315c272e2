"""The learning-rate state machine: divide by ten when validation accuracy plateaus. Pure, per member.

The source document lowers the rate "by 10 manually when val accuracy plateaus"; this is the hand, made explicit. `observe` takes an
evaluation into account and says who has plateaued; `drop` lowers a rate, whoever decides it: the machine (`update`), a person
(control.py), or the record of another run. The state is part of `TrainState`, so it lies in every checkpoint.
"""

from dataclasses import replace
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from alexnet_jax.errors import UserError

MODES = ("auto", "suggest", "manual", "replay")


@flax.struct.dataclass
class Plateau:
    """State of M members, every leaf (M,); inside the vmapped step, scalars."""

    best: Any  # float32: best validation accuracy so far
    stale: Any  # int32: evaluations since it last improved, those in cool-down not counted
    cooldown: Any  # int32: evaluations left in which staleness isn't counted
    drops: Any  # int32: drops so far
    scale: Any  # float32: what the learning rate is multiplied by
    done: Any  # bool: plateaued again after the last drop; the member no longer moves


Members = Bool[Array | np.ndarray, " members"]


def init(members: int) -> Plateau:
    zeros = np.zeros(members, np.int32)
    return Plateau(
        best=np.full(members, -np.inf, np.float32),
        stale=zeros,
        cooldown=zeros.copy(),
        drops=zeros.copy(),
        scale=np.ones(members, np.float32),
        done=np.zeros(members, bool),
    )


def check_factor(factor: float) -> None:
    """Raise `UserError` unless it lowers a rate."""
    if not 0 < factor < 1:
        raise UserError(f"factor {factor:g} is no drop; it must lie between 0 and 1")


def observe(state: Plateau, accuracy: Float[Array | np.ndarray, " members"], *, patience: int, min_delta: float) -> tuple[Plateau, Members]:
    """Take one evaluation into account.

    A member is stale when its accuracy is not above its best by more than `min_delta`; NaN (a diverged member) is stale.

    Returns:
      The state, and which members have plateaued: stale for `patience` evaluations in a row that no cool-down excused.
    """
    improved = accuracy > state.best + min_delta
    counts = ~improved & (state.cooldown == 0)
    stale = jnp.where(improved, 0, state.stale + counts)
    observed = replace(
        state,
        best=jnp.where(improved, accuracy, state.best).astype(jnp.float32),
        stale=stale.astype(jnp.int32),
        cooldown=jnp.maximum(state.cooldown - 1, 0).astype(jnp.int32),
    )
    return observed, (stale >= patience) & ~state.done


def drop(state: Plateau, members: Members, *, factor: float, cooldown: int) -> Plateau:
    """Multiply the scale of some members by `factor`; their next `cooldown` evaluations don't count as stale."""
    return replace(
        state,
        stale=jnp.where(members, 0, state.stale).astype(jnp.int32),
        cooldown=jnp.where(members, cooldown, state.cooldown).astype(jnp.int32),
        drops=(state.drops + members).astype(jnp.int32),
        scale=jnp.where(members, state.scale * factor, state.scale).astype(jnp.float32),
    )


def update(
    state: Plateau,
    accuracy: Float[Array | np.ndarray, " members"],
    *,
    patience: int,
    min_delta: float,
    factor: float,
    max_drops: int,
    cooldown: int,
) -> Plateau:
    """The machine's hand: a member that has plateaued drops, at most `max_drops` times; the next time it is done."""
    observed, plateaued = observe(state, accuracy, patience=patience, min_delta=min_delta)
    last = observed.drops >= max_drops
    dropped = drop(observed, plateaued & ~last, factor=factor, cooldown=cooldown)
    return replace(dropped, done=dropped.done | (plateaued & last))
