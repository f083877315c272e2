"""Convolution of images with few channels, as one product of their patches. conv.py says where it is used.

    y = patches(x, kernel, padding=(2, 2))    # (B, H, W, 1), (5, 5, 1, F) -> (B, H, W, F)

XLA's convolution is slow where a product is as short as a kernel of 5 x 5 x 1 numbers. A patch holds the inputs of one output. The patches
are computed again for the kernel's gradient, since the images are smaller.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alexnet_jax.model.winograd import Padding


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def patches(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "size size channels filters"], padding: Padding
) -> Float[Array, "batch out_height out_width filters"]:
    """Convolution with stride 1 and no groups, as `conv` of conv.py."""
    inputs = jnp.stack(_inputs(x, len(kernel), padding), 1)
    images, numbers, *size = inputs.shape
    outputs = jnp.einsum("bpn,pf->bnf", inputs.reshape(images, numbers, -1), kernel.reshape(numbers, -1))
    return outputs.reshape(images, *size, -1)


def _forward(x, kernel, padding):
    return patches(x, kernel, padding), (x, kernel)


def _backward(padding, residuals, gradient):
    x, kernel = residuals
    inputs, flat = jnp.stack(_inputs(x, len(kernel), padding)), gradient.reshape(-1, gradient.shape[-1])
    kernel_gradient = jnp.einsum("pn,nf->pf", inputs.reshape(len(inputs), -1), flat)
    of_inputs = jnp.einsum("bhwf,pf->pbhw", gradient, kernel.reshape(-1, kernel.shape[-1]))
    back = jax.linear_transpose(partial(_inputs, size=len(kernel), padding=padding), x)
    return *back(list(of_inputs)), kernel_gradient.reshape(kernel.shape)


patches.defvjp(_forward, _backward)


def _inputs(x: jax.Array, size: int, padding: Padding) -> list[jax.Array]:
    """For each number of a kernel the inputs that it is multiplied by, (batch, out_height, out_width)."""
    x = jnp.pad(x, [(0, 0), padding, padding, (0, 0)])
    height, width = (length - size + 1 for length in x.shape[1:3])
    return [
        x[:, row : row + height, column : column + width, channel]
        for row in range(size)
        for column in range(size)
        for channel in range(x.shape[3])
    ]
