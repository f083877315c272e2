"""Local response normalisation as a pure function, with its conventions and a hand-written derivative.

    b_i = a_i / (k + c * sum_{|j - i| <= size // 2} a_j^2) ^ beta          (section 3.3 of the AlexNet paper)

over the channels of an activation, zero-padded at the channel edges. The network (alexnet.py) calls it after or before its first two pools:

    y = lrn(x, k=2.0, alpha=1e-4, beta=0.75, size=5)

Frameworks differ in c by a factor of the window's size:

| convention | c | used by |
|---|---|---|
| `paper` | alpha | the paper; TensorFlow (`bias` is k, `depth_radius` is size // 2) |
| `per_size` | alpha / size | Caffe, PyTorch, cuDNN, cuda-convnet and the 2012 code |

The paper's constants (k = 2, alpha = 1e-4, beta = 0.75, size 5) belong to mean-subtracted pixels on the 0-255 scale. On unit-variance
inputs the denominator is nearly a constant. For the same function there, multiply alpha by the square of what pixels were divided by.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.device_choices import LRN_DERIVATIVE, LRN_SUMS, by_device
from alexnet_jax.model.remat import delayed

CONVENTIONS = ("paper", "per_size")


def lrn(
    x: Float[Array, "... channels"],
    k: Float[Array, ""] | float = 2.0,
    alpha: Float[Array, ""] | float = 1e-4,
    beta: Float[Array, ""] | float = 0.75,
    size: int = 5,
    convention: str = "paper",
) -> Float[Array, "... channels"]:
    """Normalise every activation by its `size` neighbours along the last axis.

    Differentiable in x, k, alpha and beta, which may all be traced. Sums and powers are float32 whatever the dtype of x; the result has
    the dtype of x. With k = 1 and alpha = 0 it is exactly the identity. For an even size the window reaches one channel further
    down than up, as PyTorch's does.

    Raises:
      ValueError: an unknown convention, or a size below 1.
    """
    scale = neighbour_weight(alpha, size, convention)
    return _lrn(x, jnp.asarray(k, jnp.float32), scale, jnp.asarray(beta, jnp.float32), size)


def neighbour_weight(alpha: Float[Array, ""] | float, size: int, convention: str) -> Float[Array, ""]:
    """c, with which a convention weights a neighbour's square.

    Raises:
      ValueError: an unknown convention, or a size below 1.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"LRN convention {convention!r}; known: {', '.join(CONVENTIONS)}")
    if size < 1:
        raise ValueError(f"LRN size {size}; it must be at least 1")
    return jnp.asarray(alpha, jnp.float32) / (size if convention == "per_size" else 1)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _lrn(x, k, scale, beta, size):
    a = x.astype(jnp.float32)
    return (a * _power(k + scale * _window_sum(a * a, size // 2, (size - 1) // 2), beta)).astype(x.dtype)


def _lrn_forward(x, k, scale, beta, size):
    return _lrn(x, k, scale, beta, size), (x, k, scale, beta)


def _lrn_backward(size, residuals, gradient):
    x, k, scale, beta = residuals
    below, above = size // 2, (size - 1) // 2
    a, g = x.astype(jnp.float32), gradient.astype(jnp.float32)
    power = _power(k + scale * _window_sum(a * a, below, above), beta)
    a = by_device(LRN_DERIVATIVE, {"again": delayed, "same": lambda a, gradient: a}, a, gradient)
    squares = _window_sum(a * a, below, above)
    denominator = k + scale * squares
    common = g * a * power / denominator  # -dL/d(denominator) / beta
    # Channel j is in the window of i where i is in the mirrored window of j.
    dx = g * power - 2 * scale * beta * a * _window_sum(common, above, below)
    dk = -beta * jnp.sum(common)
    dscale = -beta * jnp.sum(common * squares)
    dbeta = -jnp.sum(g * a * power * jnp.log(denominator))
    return dx.astype(x.dtype), dk, dscale, dbeta


_lrn.defvjp(_lrn_forward, _lrn_backward)


def _power(denominator, beta):
    """denominator ^ -beta for a traced beta; exactly 1 where the denominator is 1. exp and log vectorise on CPUs, pow does not."""
    return jnp.exp(-beta * jnp.log(denominator))


def _window_sum(values, below, above):
    """Sum over channels i - below .. i + above, zeros beyond the edges."""
    return by_device(LRN_SUMS, {name: partial(form, below=below, above=above) for name, form in SUMS.items()}, values)


def _sum_of_slices(values, below, above):
    """XLA fuses the slices into one pass."""
    channels = values.shape[-1]
    below, above = min(below, channels - 1), min(above, channels - 1)  # further away are zeros alone
    padded = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(below, above)])
    return sum(padded[..., offset : offset + channels] for offset in range(below + above + 1))


def _band_product(values, below, above):
    """A product with a matrix of ones in a band, at full precision: what bfloat16 would round here, the sums would lose."""
    places = np.arange(values.shape[-1])
    distance = places[:, None] - places[None, :]  # of the summand from the channel that it is for
    return jnp.matmul(values, jnp.asarray((-below <= distance) & (distance <= above), values.dtype), precision=lax.Precision.HIGHEST)


SUMS = {"slices": _sum_of_slices, "band": _band_product}
