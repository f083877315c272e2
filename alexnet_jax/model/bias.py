"""Adds a layer's bias such that its gradient is summed in float32, whatever the dtype of the activations.

The network (alexnet.py) calls it after every product and convolution:

    y = add_bias(dense(x, kernel), bias)    # (B, ..., units) + (units,)

JAX's own derivative sums in the dtype of the activations. In bfloat16, which has 8 bits, such a sum stands still once it is 256 times a
summand: of the 48,400 ones of 16 maps of 55 x 55 it made 1,024.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alexnet_jax.device_choices import BIAS_GRADIENT, by_device


@jax.custom_vjp
def add_bias(x: Float[Array, "batch ... units"], bias: Float[Array, " units"]) -> Float[Array, "batch ... units"]:
    """x + bias, in the dtype of x; the bias and its gradient are float32."""
    return x + bias.astype(x.dtype)


def _forward(x, bias):
    return add_bias(x, bias), None


def _backward(_, gradient):
    return gradient, by_device(BIAS_GRADIENT, SUMS, gradient)


add_bias.defvjp(_forward, _backward)


def _at_once(gradient):
    return jnp.sum(gradient, range(gradient.ndim - 1), dtype=jnp.float32)


def _rows_first(gradient):
    """Of maps, first the sum of all their rows, each with its columns and units side by side."""
    columns = gradient.shape[-2] if gradient.ndim > 2 else 1
    return _at_once(_at_once(gradient.reshape(-1, columns * gradient.shape[-1])).reshape(columns, -1))


# Name -> the sum over all axes but the last.
SUMS = {"at once": _at_once, "rows first": _rows_first}
