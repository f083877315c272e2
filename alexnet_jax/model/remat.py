"""Rematerialisation: less memory, more time. A stage's activations are thrown away and computed again when its gradient is due.

The network (alexnet.py) wraps its three stages of convolutions in it when `train.remat` is set:

    y = remat(stage)(x, kernels, hyper)
"""

from collections.abc import Callable
from typing import Any

import jax


def remat(stage: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`stage(x, *others)` that keeps only its arguments for the backward pass, and none of the activations between them and its result.

    `jax.checkpoint` does the same with an optimisation barrier. XLA's CPU backend drops that barrier: it then computes the stage a second
    time long before its gradient is due, and keeps both results. Here the second computation depends on the gradient instead: 0 times one
    of its numbers is added to `x`. The compiler can't leave this out, since the number may be NaN; in that case all gradients are NaN.
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
