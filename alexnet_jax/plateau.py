"""The learning-rate state machine: divide by ten when validation accuracy plateaus. Pure, per member.

The source document lowers the rate "by 10 manually when val accuracy plateaus"; this is the hand, made explicit. It is part of
`TrainState`, so it lies in every checkpoint.
"""

from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@flax.struct.dataclass
class Plateau:
    """State of M members, every leaf (M,); inside the vmapped step, scalars."""

    best: Any  # float32: best validation accuracy so far
    stale: Any  # int32: evaluations since it last improved, those in cool-down not counted
    cooldown: Any  # int32: evaluations left in which staleness isn't counted
    drops: Any  # int32: drops so far
    scale: Any  # float32: what the learning rate is multiplied by
    done: Any  # bool: plateaued again after the last drop; the member no longer moves


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
    """Take one evaluation into account.

    A member is stale when its accuracy is not above its best by more than `min_delta`. After `patience` stale evaluations in a row its
    scale is multiplied by `factor`, at most `max_drops` times; the next `cooldown` evaluations then don't count as stale. A member that
    is due another drop after its last one is done. NaN (a diverged member) counts as stale.
    """
    improved = accuracy > state.best + min_delta
    counts = ~improved & (state.cooldown == 0)
    stale = jnp.where(improved, 0, state.stale + counts)
    due = (stale >= patience) & ~state.done
    drop = due & (state.drops < max_drops)
    return Plateau(
        best=jnp.where(improved, accuracy, state.best).astype(jnp.float32),
        stale=jnp.where(drop, 0, stale).astype(jnp.int32),
        cooldown=jnp.where(drop, cooldown, jnp.maximum(state.cooldown - 1, 0)).astype(jnp.int32),
        drops=(state.drops + drop).astype(jnp.int32),
        scale=jnp.where(drop, state.scale * factor, state.scale).astype(jnp.float32),
        done=state.done | (due & ~drop),
    )
