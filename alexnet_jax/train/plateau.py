"""The learning-rate state machine: divide by ten when validation accuracy plateaus. Pure functions of numpy arrays, per member.

The study post lowers the rate by hand, tenfold, when validation accuracy plateaus. Here that rule is explicit. `observe` takes an
evaluation into account and says who has plateaued; `drop` lowers a rate, whoever decides it: the rule (`update`), a person (control.py),
or the record of another run. The host owns the state (rates.py) and saves it in every checkpoint.

    state = plateau.init(members=7)
    state = plateau.update(state, accuracy, patience=3, min_delta=0, factor=.1, max_drops=3, cooldown=0)
"""

from dataclasses import replace
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Bool, Float

from alexnet_jax.errors import UserError

MODES = ("auto", "suggest", "manual", "replay")


@flax.struct.dataclass
class Plateau:
    """State of M members, numpy leaves (M,)."""

    best: Any  # float32: best validation accuracy so far
    stale: Any  # int32: evaluations since it last improved, those in cool-down not counted
    cooldown: Any  # int32: evaluations left in which staleness isn't counted
    drops: Any  # int32: drops so far
    scale: Any  # float32: what the learning rate is multiplied by
    done: Any  # bool: plateaued again after the last drop; the member no longer learns


Members = Bool[np.ndarray, " members"]


def init(members: int) -> Plateau:
    """The state before the first evaluation."""
    return Plateau(
        best=np.full(members, -np.inf, np.float32),
        stale=np.zeros(members, np.int32),
        cooldown=np.zeros(members, np.int32),
        drops=np.zeros(members, np.int32),
        scale=np.ones(members, np.float32),
        done=np.zeros(members, bool),
    )


def check_factor(factor: float) -> None:
    """Raise `UserError` unless it lowers a rate."""
    if not 0 < factor < 1:
        raise UserError(f"factor {factor:g} is no drop; it must lie between 0 and 1")


def observe(state: Plateau, accuracy: Float[np.ndarray, " members"], *, patience: int, min_delta: float) -> tuple[Plateau, Members]:
    """Take one evaluation into account.

    A member is stale when its accuracy is not above its best by more than `min_delta`; NaN (a diverged member) is stale.

    Returns:
      The state, and which members have plateaued: stale for `patience` evaluations in a row, those in cool-down not counted.
    """
    accuracy = np.asarray(accuracy, np.float32)
    improved = accuracy > state.best + np.float32(min_delta)
    counts = ~improved & (state.cooldown == 0)
    stale = np.where(improved, 0, state.stale + counts).astype(np.int32)
    best, cooldown = np.where(improved, accuracy, state.best), np.maximum(state.cooldown - 1, 0)
    return replace(state, best=best, stale=stale, cooldown=cooldown), (stale >= patience) & ~state.done


def drop(state: Plateau, members: Members, *, factor: float, cooldown: int) -> Plateau:
    """Multiply the scale of some members by `factor`, and count their staleness anew (see `_rest`)."""
    scale = np.where(members, state.scale * np.float32(factor), state.scale)
    return replace(_rest(state, members, cooldown), scale=scale, drops=(state.drops + members).astype(np.int32))


def restart(state: Plateau, members: Members, *, cooldown: int) -> Plateau:
    """Some members go on from a learning rate that was set: earlier drops no longer scale it, and staleness counts anew."""
    return replace(_rest(state, members, cooldown), scale=np.where(members, np.float32(1), state.scale))


def update(
    state: Plateau,
    accuracy: Float[np.ndarray, " members"],
    *,
    patience: int,
    min_delta: float,
    factor: float,
    max_drops: int,
    cooldown: int,
) -> Plateau:
    """The automatic rule: a member that has plateaued drops, at most `max_drops` times; the next time it is done."""
    observed, plateaued = observe(state, accuracy, patience=patience, min_delta=min_delta)
    last = observed.drops >= max_drops
    dropped = drop(observed, plateaued & ~last, factor=factor, cooldown=cooldown)
    return replace(dropped, done=dropped.done | (plateaued & last))


def _rest(state: Plateau, members: Members, cooldown: int) -> Plateau:
    """Forget some members' stale evaluations; their next `cooldown` evaluations don't count as stale either."""
    stale, rest = np.where(members, 0, state.stale), np.where(members, cooldown, state.cooldown)
    return replace(state, stale=stale.astype(np.int32), cooldown=rest.astype(np.int32))
