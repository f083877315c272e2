"""The matrix product of a dense layer, with the two products of its derivative in the forms that are fast on CPUs too."""

import jax
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.cpu import row_major


@jax.custom_vjp
def dense(x: Float[Array, "batch units_in"], kernel: Float[Array, "units_in units_out"]) -> Float[Array, "batch units_out"]:
    """x @ kernel."""
    return x @ kernel


def _dense_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _dense_backward(residuals, gradient):
    x, kernel = residuals
    # For gradient @ kernel.T Eigen would read the kernel, the larger factor, across its rows, several times slower than along them. Without
    # a layout to keep, XLA turns the product round to that again.
    input_gradient = row_major(kernel @ gradient.T).T
    return input_gradient, lax.dot_general(x, gradient, (((0,), (0,)), ((), ())))  # x.T @ gradient, but x isn't transposed first


dense.defvjp(_dense_forward, _dense_backward)
