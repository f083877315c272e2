"""Rematerialisation: less memory, more time. A stage's activations are thrown away and computed again when its gradient is due.

The network (alexnet.py) wraps its three stages of convolutions in it when `train.remat` is set:

    y = remat(stage)(x, kernels, hyper)

`delayed` is the means; lrn.py uses it too.
"""

from collections.abc import Callable
from typing import Any

import jax


def remat(stage: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`stage(x, *others)` that keeps only its arguments for the backward pass, and none of the activations between them and its result."""
    stored = jax.custom_vjp(stage)

    def forward(*arguments: Any):
        return stage(*arguments), arguments

    def backward(arguments: tuple, gradient: jax.Array):
        x, *others = arguments
        _, pull = jax.vjp(stage, delayed(x, gradient), *others)
        return pull(gradient)

    stored.defvjp(forward, backward)
    return stored


def delayed(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """x, such that what is computed from it can't be computed before the gradient is known, and so isn't kept from the forward pass.

    An optimisation barrier, as in `jax.checkpoint`, would say the same. XLA's CPU backend drops that barrier: it then computes everything
    long before the gradient is due, and keeps it. Here 0 times a number of the gradient is added. The compiler can't leave this out,
    since the number may be NaN; in that case all gradients are NaN.
    """
    return x + (0 * gradient.ravel()[0]).astype(x.dtype)
