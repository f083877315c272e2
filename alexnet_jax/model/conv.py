"""Convolution and max-pooling that stay fast under a member axis.

The network (alexnet.py) calls both for one member; the step's `vmap` adds the member axis:

    y = conv(x, kernel, stride=1, padding=(2, 2))
    y = max_pool(y, size=3, stride=2)

`vmap` over members that have their own kernels makes a grouped convolution. On a CPU that is slow: a training step of seven small networks
takes 1.4 times as long as seven steps of one, and 1.1 times with full-sized networks (docs/performance.md). So the batching rule here
unrolls into M convolutions there, for the value and for both gradients; each gives bit for bit what a member alone computes. `lax.map` over
members doesn't help: inside a loop, XLA's CPU convolutions use one thread. The unrolled program grows with M, so more than a few members
train in turn (turns.py).

On CPUs, large convolutions take Winograd's form (winograd.py) instead; `winograd_tile` says which. Those of few channels are one product of
patches (patches.py), and those of two towers are two convolutions. device_choices.py says which forms devices take.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.device_choices import CONVOLUTION, FEW_CHANNELS, MEMBERS_CONVOLUTION, POOL, TOWERS_CONVOLUTION, by_device
from alexnet_jax.model.patches import patches
from alexnet_jax.model.winograd import Padding, winograd

# auto      by the device and the shapes, one of the next two or patches.py
# direct    XLA's convolution; under a member axis M of them
# winograd  winograd.py, wherever a kernel is larger than its stride
# grouped   XLA's convolution; under a member axis one of M groups, which is XLA's own rule
FORMS = ("auto", "direct", "winograd", "grouped")

# On CPUs, F(m, r) is used up to tiles of m + r - 1 = 8 inputs. Larger ones need points whose powers differ too much for float32.
_LARGEST_TILE = 8
# Measured on two cores of an AMD EPYC, value and both gradients. With fewer tiles than this, the kernel's transform costs as much as they
# save. With fewer channels or filters, the products are slow, and a layer gains less than a third.
_LEAST_TILES, _LEAST_CHANNELS, _LEAST_FILTERS = 64, 24, 64
# Numbers of a kernel for one filter, up to which patches are faster: 5 x 5 x 1 takes 0.6 of the time, 3 x 3 x 3 0.9, 5 x 5 x 3 1.4.
_LARGEST_PATCH = 32


def winograd_tile(form: str, x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int) -> int:
    """The m of Winograd's F(m, r) with which a layer is computed where Winograd's form is taken; 0 where XLA's convolution always is.

    With `auto` that is a matter of the dtype and the shapes, besides the device. Of the possible m it takes the one with the fewest
    multiplications, counting what the last tile of a row computes in vain.
    """
    (images, *size, _), (taps, _, channels, filters) = x.shape, kernel.shape
    size = [(length + sum(padding) - taps) // stride + 1 for length in size]
    taps, channels = -(-taps // stride), channels * stride**2  # of the same convolution with stride 1

    def tiles(m: int) -> int:
        return math.prod(-(-length // m) for length in size)

    possible = range(2, _LARGEST_TILE - taps + 2)
    if form in ("direct", "grouped") or taps == 1 or not possible:
        return 0
    best = min(possible, key=lambda m: tiles(m) * (m + taps - 1) ** 2)
    large = images * tiles(best) >= _LEAST_TILES and channels >= _LEAST_CHANNELS and filters // groups >= _LEAST_FILTERS
    return best if form == "winograd" or (x.dtype == jnp.float32 and large) else 0


def _over_members(function: Callable, form: str) -> Callable:
    """Give `function` of arrays the batching rule that `form` names."""
    if form == "grouped":
        return function
    batched = jax.custom_batching.custom_vmap(function)

    @batched.def_vmap
    def rule(members, in_batched, *args):
        def member(index, args):
            return [arg[index] if is_batched else arg for arg, is_batched in zip(args, in_batched, strict=True)]

        def unrolled(*args):
            return jnp.stack([batched(*member(index, args)) for index in range(members)])

        grouped = jax.vmap(function, [0 if is_batched else None for is_batched in in_batched])
        if form == "auto":
            return by_device(MEMBERS_CONVOLUTION, {"unrolled": unrolled, "grouped": grouped}, *args), True
        return unrolled(*args), True

    return batched


def conv(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "size size channels_per_group filters"],
    stride: int,
    padding: Padding,
    groups: int = 1,
    form: str = "auto",
) -> Float[Array, "batch out_height out_width filters"]:
    """2-D convolution (cross-correlation, as everywhere in deep learning) with square kernels and equal zero padding in height and width.

    `padding` is (before, after): (0, 3) pads only at the right and the bottom, as the 2012 code did. `form` is one of
    `FORMS`.
    """
    tile = winograd_tile(form, x, kernel, stride, padding, groups)
    forms = {
        "winograd": lambda x, kernel: winograd(x, kernel, stride, padding, groups, tile),
        "patches": lambda x, kernel: patches(x, kernel, padding),
        "direct": lambda x, kernel: _direct_by_groups(x, kernel, stride, padding, groups, form),
    }
    if form == "auto" and tile:
        return by_device(CONVOLUTION, forms, x, kernel)
    if form == "auto" and stride == groups == 1 and math.prod(kernel.shape[:3]) <= _LARGEST_PATCH and x.dtype == jnp.float32:
        return by_device(FEW_CHANNELS, forms, x, kernel)
    return forms["winograd" if tile else "direct"](x, kernel)


def _direct_by_groups(x, kernel, stride, padding, groups, form):
    def grouped(x, kernel):
        return _direct(x, kernel, stride, padding, groups, form)

    def each(x, kernel):
        pairs = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        return jnp.concatenate([_direct(images, weights, stride, padding, 1, form) for images, weights in pairs], -1)

    if groups == 1 or form != "auto":
        return grouped(x, kernel)
    return by_device(TOWERS_CONVOLUTION, {"each": each, "grouped": grouped}, x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _direct(x, kernel, stride, padding, groups, form):
    return _over_members(_plain_conv(stride, padding, groups), form)(x, kernel)


def _plain_conv(stride: int, padding: Padding, groups: int) -> Callable:
    def plain_conv(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), [padding, padding], dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    return plain_conv


def _direct_forward(x, kernel, stride, padding, groups, form):
    return _direct(x, kernel, stride, padding, groups, form), (x, kernel)


def _direct_backward(stride, padding, groups, form, residuals, gradient):
    x, kernel = residuals
    plain = _plain_conv(stride, padding, groups)

    def input_gradient(kernel, gradient):
        return jax.linear_transpose(lambda x: plain(x, kernel), jax.ShapeDtypeStruct(x.shape, x.dtype))(gradient)[0]

    def kernel_gradient(x, gradient):
        return jax.linear_transpose(lambda kernel: plain(x, kernel), jax.ShapeDtypeStruct(kernel.shape, kernel.dtype))(gradient)[0]

    return _over_members(input_gradient, form)(kernel, gradient), _over_members(kernel_gradient, form)(x, gradient)


_direct.defvjp(_direct_forward, _direct_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Float[Array, "batch height width channels"], size: int, stride: int) -> Float[Array, "batch out_height out_width channels"]:
    """Max-pooling over size x size windows, no padding.

    Where several elements of a window are its maximum, the first in reading order gets the gradient, as in PyTorch.
    """
    return by_device(POOL, {name: partial(pool, size=size, stride=stride) for name, (pool, _) in POOLS.items()}, x)


def _pool_forward(x, size, stride):
    return max_pool(x, size, stride), x


def _pool_backward(size, stride, x, gradient):
    return (by_device(POOL, {name: partial(unpool, size=size, stride=stride) for name, (_, unpool) in POOLS.items()}, x, gradient),)


max_pool.defvjp(_pool_forward, _pool_backward)


def _pool_by_window(x, size, stride):
    return lax.reduce_window(x, -math.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), "VALID")


def _unpool_by_window(x, gradient, size, stride):
    return jax.vjp(partial(_pool_by_window, size=size, stride=stride), x)[1](gradient)[0]


def _pool_by_slices(x, size, stride):
    """First along the width, then along the height, each a maximum of strided slices."""
    return _pool_axis(_pool_axis(x, 2, size, stride), 1, size, stride)


def _unpool_by_slices(x, gradient, size, stride):
    rows = _pool_axis(x, 2, size, stride)
    pooled = _pool_axis(rows, 1, size, stride)
    return _unpool_axis(x, rows, _unpool_axis(rows, pooled, gradient, 1, size, stride), 2, size, stride)


# Name -> max-pooling of x, and its gradient by x and the gradient of the result.
POOLS = {"slices": (_pool_by_slices, _unpool_by_slices), "window": (_pool_by_window, _unpool_by_window)}


def _windows(x, axis, size, stride):
    """The `size` strided slices whose i-th holds every window's i-th element."""
    outputs = (x.shape[axis] - size) // stride + 1
    return [lax.slice_in_dim(x, i, i + (outputs - 1) * stride + 1, stride, axis) for i in range(size)]


def _pool_axis(x, axis, size, stride):
    first, *rest = _windows(x, axis, size, stride)
    for other in rest:
        first = jnp.maximum(first, other)
    return first


def _unpool_axis(x, pooled, gradient, axis, size, stride):
    """Gradient of `_pool_axis`: each window's gradient goes to the first of its elements that is the maximum.

    Position p = stride * t + phase gets what windows t, t - 1, ... send to their elements phase, phase + stride, ...: so each phase
    is a sum of shifted arrays, and the phases interleave into the result. No scatter, no strided write.
    """
    taken = jnp.zeros(pooled.shape, bool)
    sent = []
    for element in _windows(x, axis, size, stride):
        hit = (element == pooled) & ~taken
        taken = taken | hit
        sent.append(jnp.where(hit, gradient, 0))

    windows, length = pooled.shape[axis], x.shape[axis]
    slots = windows + (size - 1) // stride

    def shifted(array, by):
        return lax.pad(
            array, jnp.zeros((), array.dtype), [(by, slots - windows - by, 0) if d == axis else (0, 0, 0) for d in range(x.ndim)]
        )

    none = shifted(jnp.zeros_like(gradient), 0)
    phases = [sum((shifted(sent[i], i // stride) for i in range(phase, size, stride)), none) for phase in range(stride)]
    interleaved = jnp.stack(phases, axis + 1).reshape(*x.shape[:axis], slots * stride, *x.shape[axis + 1 :])
    missing = max(0, length - slots * stride)  # positions beyond the last window
    return lax.slice_in_dim(jnp.pad(interleaved, [(0, missing if d == axis else 0) for d in range(x.ndim)]), 0, length, 1, axis)
