"""Rematerialisation: memory for time. What a stage computes is thrown away, and computed again when its gradient is due."""

from collections.abc import Callable
from typing import Any

import jax


def remat(stage: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`stage(x, *others)` that keeps its arguments alone for the backward pass, instead of all that lies between them and its result.

    `jax.checkpoint` is meant for this, but what it holds the compiler back with, an optimisation barrier, is dropped by XLA's CPU backend,
    which then computes a stage a second time long before its gradient, and keeps both. Here `x` depends on the gradient: 0 times one of its
    numbers is added, which the compiler can't leave out, since that number may be NaN; then all gradients are.
    """
    stored = jax.custom_vjp(stage)

    def forward(*arguments: Any):
        return stage(*arguments), arguments

    def backward(arguments: tuple, gradient: jax.Array):
        x, *others = arguments
        _, pull = jax.vjp(stage, x + (0 * gradient.ravel()[0]).astype(x.dtype), *others)
        return pull(gradient)

    stored.defvjp(forward, backward)
    return stored
