"""The matrix product of a dense layer. The two products of its derivative are written so that they are fast on CPUs too.

The network (alexnet.py) calls it in fc6, fc7 and fc8:

    y = dense(x, kernel)    # (B, units_in), (units_in, units_out) -> (B, units_out)
"""

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from alexnet_jax.device_choices import DENSE_LAYOUT, by_device


@jax.custom_vjp
def dense(x: Float[Array, "batch units_in"], kernel: Float[Array, "units_in units_out"]) -> Float[Array, "batch units_out"]:
    """x @ kernel."""
    return x @ kernel


def _dense_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _dense_backward(residuals, gradient):
    x, kernel = residuals
    # In gradient @ kernel.T, Eigen reads the kernel, the larger factor, across its rows, which is several times slower than along them.
    # Without the fixed layout, XLA would turn the product back into that.
    input_gradient = by_device(DENSE_LAYOUT, {"row_major": _row_major, "free": lambda x: x}, kernel @ gradient.T).T
    return input_gradient, lax.dot_general(x, gradient, (((0,), (0,)), ((), ())))  # x.T @ gradient, but x isn't transposed first


def _row_major(x):
    """The array itself, its last axis contiguous in memory."""
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


dense.defvjp(_dense_forward, _dense_backward)
