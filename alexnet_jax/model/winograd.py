"""Convolution by Winograd's minimal filtering: the same sums with two to six times fewer multiplications. conv.py says where it is used.

    y = winograd(x, kernel, stride=1, padding=(2, 2), tile=4)    # (B, H, W, C), (5, 5, C, F) -> (B, H, W, F)

In one dimension F(m, r) makes m outputs of a convolution from n = m + r - 1 inputs d and r taps g with n multiplications instead of m r:

    outputs = A^T ((G g) * (B^T d))

Convolution is the transpose of multiplying polynomials. A and G evaluate polynomials of m and r coefficients at n points, of which one
is infinity; B interpolates (Toom and Cook). In two dimensions, tiles of n x n inputs, each m pixels from the next, become tiles of m x m
outputs. Every transform is applied along the height and along the width. Summed over the input channels, the multiplications are n x n
matrix products, with a row for each tile and a column for each filter (Lavin and Gray 2015, arXiv 1509.09308). The gradients are the
transposes of these steps, in the opposite order.

A convolution of stride s is one of stride 1 over the s x s phases of its input.

Rounding grows with n: `ERROR` has its bounds.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[int, int]

# By n = tile + size - 1: the largest error of outputs and of both gradients in float32, divided by the largest exact number, is below
# this for normal random inputs of 1 to 256 channels. XLA's own convolutions have 1e-6.
ERROR = {2: 1e-6, 3: 2e-6, 4: 2e-6, 5: 2e-5, 6: 2e-5, 7: 4e-5, 8: 1e-4}


def winograd(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "size size channels_per_group filters"],
    stride: int,
    padding: Padding,
    groups: int = 1,
    tile: int = 4,
) -> Float[Array, "batch out_height out_width filters"]:
    """Convolution as `conv` of conv.py has it, by F(tile, size) in height and width; with a stride, by F(tile, size / stride).

    Transforms and sums are float32 whatever the dtypes; the result has the dtype of x. Under `vmap`, members are one more batch axis of
    the matrix products, and so are groups.
    """
    images, weights = x.astype(jnp.float32), kernel.astype(jnp.float32)
    if stride > 1:
        images, weights, padding = _phases(images, weights, stride, padding, groups)
    if groups == 1:
        return _winograd(images, weights, padding, tile).astype(x.dtype)
    images = images.reshape(*images.shape[:3], groups, -1)
    weights = weights.reshape(*weights.shape[:3], groups, -1)
    outputs = jax.vmap(lambda x, kernel: _winograd(x, kernel, padding, tile), in_axes=3, out_axes=3)(images, weights)
    return outputs.reshape(*outputs.shape[:3], -1).astype(x.dtype)


def _phases(x, kernel, stride, padding, groups):
    """Inputs, kernel and padding of the same convolution with stride 1: blocks of stride x stride pixels become channels."""
    taps = -(-len(kernel) // stride)
    lengths = [((length + sum(padding) - len(kernel)) // stride + taps) * stride for length in x.shape[1:3]]
    for axis, length in zip((1, 2), lengths, strict=True):
        x = _pad(x, axis, padding[0], length - padding[0] - x.shape[axis])
        kernel = _pad(kernel, axis - 1, 0, taps * stride - kernel.shape[axis - 1])
    rows, columns = (length // stride for length in lengths)
    x = x.reshape(len(x), rows, stride, columns, stride, groups, -1).transpose(0, 1, 3, 5, 2, 4, 6)
    kernel = kernel.reshape(taps, stride, taps, stride, -1, kernel.shape[-1]).transpose(0, 2, 1, 3, 4, 5)
    return x.reshape(len(x), rows, columns, -1), kernel.reshape(taps, taps, -1, kernel.shape[-1]), (0, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _winograd(x, kernel, padding, tile):
    return _forward(x, kernel, padding, tile)[0]


def _forward(x, kernel, padding, tile):
    """The convolution, and what its gradients need: the transforms of the inputs and of the kernel."""
    a, g, b = matrices(tile, len(kernel))
    height, width = (length + sum(padding) - len(kernel) + 1 for length in x.shape[1:3])
    rows, columns = -(-height // tile), -(-width // tile)

    inputs = _cut(x, len(b), tile, (rows, columns), padding[0])  # (n, n, B, rows, columns, C)
    inputs = _along(1, b.T, _along(0, b.T, inputs)).reshape(len(b) ** 2, -1, x.shape[3])
    weights = _along(1, g, _along(0, g, kernel)).reshape(len(b) ** 2, *kernel.shape[2:])
    products = jnp.einsum("ntc,ncf->ntf", inputs, weights)
    products = products.reshape(len(b), len(b), len(x), rows, columns, kernel.shape[3])
    outputs = _along(1, a.T, _along(0, a.T, products))  # (m, m, B, rows, columns, F)
    return _join(_join(outputs, 4, 1, tile, width), 2, 0, tile, height), (inputs, weights)


def _backward(padding, tile, residuals, gradient):
    inputs, weights = residuals
    n = math.isqrt(len(weights))
    size = n - tile + 1
    a, g, b = matrices(tile, size)
    height, width = (length - sum(padding) + size - 1 for length in gradient.shape[1:3])
    rows, columns = (-(-length // tile) for length in gradient.shape[1:3])

    outputs = _cut(gradient, tile, tile, (rows, columns))  # (m, m, B, rows, columns, F)
    products = _along(0, a, _along(1, a, outputs)).reshape(n**2, -1, gradient.shape[3])
    weights_gradient = jnp.einsum("ntc,ntf->ncf", inputs, products)
    kernel_gradient = _along(1, g.T, _along(0, g.T, weights_gradient.reshape(n, n, *weights.shape[1:])))
    inputs_gradient = jnp.einsum("ntf,ncf->ntc", products, weights)
    inputs_gradient = inputs_gradient.reshape(n, n, len(gradient), rows, columns, weights.shape[1])
    inputs_gradient = _along(1, b, _along(0, b, inputs_gradient))
    return _join(_join(inputs_gradient, 4, 1, tile, width, padding[0]), 2, 0, tile, height, padding[0]), kernel_gradient


_winograd.defvjp(_forward, _backward)


def _along(axis: int, matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """Multiply an axis of x by a matrix. The axes before it are batch axes; under `vmap` that of the members is one more of these.

    This is a matrix product, not a sum of slices: XLA would compute such an inner sum again for every outer one.
    """

    @jax.custom_batching.custom_vmap
    def along(x):
        batch = x.shape[:axis]
        matrices = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (*batch, *matrix.shape))
        product = jnp.matmul(matrices, x.reshape(*batch, x.shape[axis], -1), precision=lax.Precision.HIGHEST)
        return product.reshape(*batch, len(matrix), *x.shape[axis + 1 :])

    @along.def_vmap
    def rule(_, in_batched, x):  # JAX's own rule would move the members' axis, and so copy x
        return _along(axis + 1, matrix, x), True

    return along(x)


def _cut(x: jax.Array, size: int, step: int, tiles: tuple[int, int], before: int = 0) -> jax.Array:
    """Cut (B, H, W, C), with `before` zeros above and at the left, into tiles of size x size that are `step` apart.

    The result (size, size, B, *tiles, C) is a stack of strided slices. As reshaped blocks of `step` XLA would compute it up to eight times
    slower: it merges the reshapes into one loop over all elements, and divides the index of each by the sizes of the axes.
    """
    for axis, count in zip((1, 2), tiles, strict=True):
        x = _pad(x, axis, before, (count - 1) * step + size - before - x.shape[axis])

    def slices(x: jax.Array, axis: int, count: int) -> list[jax.Array]:
        return [lax.slice_in_dim(x, first, first + (count - 1) * step + 1, step, axis) for first in range(size)]

    return jnp.stack([jnp.stack(slices(rows, 2, tiles[1])) for rows in slices(x, 1, tiles[0])])


def _join(x: jax.Array, axis: int, place: int, step: int, length: int, before: int = 0) -> jax.Array:
    """The transpose of `_cut` in one axis: tiles along `axis`, whose elements are the axis `place`, are added up where they overlap."""
    blocks = -(-x.shape[place] // step)
    x = _pad(x, place, 0, blocks * step - x.shape[place])
    parts = [lax.slice_in_dim(x, block * step, (block + 1) * step, 1, place) for block in range(blocks)]
    x = functools.reduce(jnp.add, [_pad(part, axis, block, blocks - 1 - block) for block, part in enumerate(parts)])
    x = jnp.moveaxis(x, place, axis)  # the tiles' axis is now the one before
    x = x.reshape(*x.shape[: axis - 1], -1, *x.shape[axis + 1 :])
    return _pad(x, axis - 1, -before, before + length - x.shape[axis - 1])


def _pad(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Zeros before and after an axis; negative numbers cut off."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(before, after, 0) if d == axis else (0, 0, 0) for d in range(x.ndim)])


@functools.cache
def matrices(m: int, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A (n, m), G (n, r) and B (n, n) of F(m, r), n = m + r - 1, from rational numbers that are rounded once, to float64.

    Each column of B is divided by its largest element, and that row of G is multiplied by it: smaller numbers are then added up.
    """
    points = list(itertools.islice(_points(), m + r - 2))
    a, g, b = _powers(points, m), _powers(points, r), []
    for i, x in enumerate(points):
        others = points[:i] + points[i + 1 :]
        b.append([*_polynomial(others), Fraction(0)])
        g[i] = [tap / math.prod(x - other for other in others) for tap in g[i]]
    b.append(_polynomial(points))
    for row, coefficients in enumerate(b):
        largest = max(map(abs, coefficients))
        b[row] = [coefficient / largest for coefficient in coefficients]
        g[row] = [tap * largest for tap in g[row]]
    return np.array(a, np.float64), np.array(g, np.float64), np.array(b, np.float64).T


def _powers(points: list[Fraction], length: int) -> list[list[Fraction]]:
    """The matrix that evaluates polynomials of `length` coefficients at the points and at infinity, where it takes the last one."""
    return [[x**power for power in range(length)] for x in points] + [[Fraction(power == length - 1) for power in range(length)]]


def _points() -> Iterator[Fraction]:
    """0, 1, -1, 2, -1/2, -2, 1/2, 3, ...: small powers, and their opposites, so that rounding stays small."""
    yield from map(Fraction, (0, 1, -1))
    for k in itertools.count(2):
        yield from (Fraction(k), Fraction(-1, k), Fraction(-k), Fraction(1, k))


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """The coefficients, lowest first, of the polynomial with these roots and leading coefficient 1."""
    coefficients = [Fraction(1)]
    for root in roots:
        coefficients = [lower - root * same for lower, same in zip([Fraction(0), *coefficients], [*coefficients, Fraction(0)], strict=True)]
    return coefficients
