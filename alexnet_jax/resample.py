"""Resampling: the pixels of a view that lies turned, mirrored and shifted in a stored image. Two forms, `gather` and `shear`.

The augmentation (augment.py) calls one of them for one image; a `vmap` adds the batch:

    pixels = gather(image, place, size)
    pixels = shear(image, place, size, largest=10)    # for angles up to 10 degrees

`gather` samples the image bilinearly at the place of each pixel. It reads single pixels from anywhere, for which TPUs have no fast
instruction. `shear` is for them: products with matrices of zeros and ones, and selections between neighbours. It interpolates along rows,
then along columns (Catmull and Smith 1980, "3-D transformations of images in scanline order"). Both are the same bits where nothing is
turned. Where the image is turned, they differ in two things:

- the two rows between which `shear` interpolates were sampled each at its own place along the row. At 10 degrees photographs differ by
  less than one grey level on average (docs/performance.md).
- beyond the image, `gather` repeats the border's pixels at right angles to the border, `shear` along the view's rows and columns.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from alexnet_jax.device_choices import RESAMPLING
from alexnet_jax.errors import UserError, did_you_mean

FORMS = ("auto", "gather", "shear")
LARGEST = 30.0  # degrees: for larger ones `shear` would select among too many neighbours
BLOCK = 16  # lines that `shear` cuts out by one product: with fewer there are more products, with more there are more neighbours

Image = UInt8[Array, "height width channels"]
Pixels = Float[Array, "size size channels"]


class Place(NamedTuple):
    """Where a view lies in its image: turned about its centre, mirrored left to right. All are scalars and may be traced."""

    top: Float[Array, ""]  # the view's first row and column in the image, whole numbers, before it is turned
    left: Float[Array, ""]
    angle: Float[Array, ""]  # radians
    mirror: Float[Array, ""]  # -1 or 1


def choose(asked: str, platform: str, rotation: Any) -> str:
    """The form of a run on a platform, whose members' largest rotations, in degrees, are `rotation`.

    `auto` is `device_choices.RESAMPLING`, where that can turn as far.

    Raises:
      UserError: an unknown form, or angles that are too large for it.
    """
    most = np.max(rotation)
    if asked not in FORMS:
        raise UserError(f"augment.resampling is {asked!r}{did_you_mean(asked, FORMS)}")
    if asked == "shear" and most > LARGEST:
        raise UserError(
            f"augment.resampling=shear turns images by at most {LARGEST:g} degrees, a member has rotation={most:g}; "
            "set --config.augment.resampling=gather"
        )
    if asked == "auto":
        chosen = getattr(RESAMPLING, platform, RESAMPLING.gpu)  # as device_choices.by_device has it
        return chosen if most <= LARGEST else "gather"
    return asked


def shear_to(form: str, rotation: Any) -> float | None:
    """What `augment` is told: None for `gather`; for `shear` the largest of the members' rotations, in degrees."""
    return float(np.max(rotation)) if form == "shear" else None


def check_rotation(value: float, largest: float | None) -> None:
    """Refuse a rotation for which a running program wasn't built; with None it can do any.

    Raises:
      UserError: it says what to do.
    """
    if largest is not None and value > largest:
        raise UserError(
            f"rotation = {value:g} is more than the {largest:g} degrees for which this run's step is built (augment.resampling=shear); "
            "start a run with a larger augment.rotation, or with augment.resampling=gather"
        )


def gather(image: Image, place: Place, size: int) -> Pixels:
    """The view's pixels by one bilinear sampling, float32; beyond the image's border, the border's pixels."""
    centre = (size - 1) / 2
    cos, sin = jnp.cos(place.angle), jnp.sin(place.angle)
    to_image = jnp.array([[cos, place.mirror * sin, centre + place.top], [-sin, place.mirror * cos, centre + place.left]])
    grid = jnp.arange(size, dtype=jnp.float32) - centre
    y, x = jnp.meshgrid(grid, grid, indexing="ij")
    pixels = jnp.stack([y, x, jnp.ones_like(x)]).reshape(3, -1)
    # Full precision on any device keeps whole numbers whole. A matrix product, because XLA computes plain sums twice, for the gather's
    # indices and for its weights, and the two may differ in the last bit.
    rows, columns = jnp.matmul(to_image, pixels, precision=lax.Precision.HIGHEST).reshape(2, size, size)
    return _bilinear(image, rows, columns)


def _bilinear(image, rows, columns):
    """Sample the image at float coordinates (size, size); exact where they are whole numbers."""
    height, width, _ = image.shape
    rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, across = (rows - top)[..., None], (columns - left)[..., None]
    index = top.astype(jnp.uint32) * width + left.astype(jnp.uint32)  # unsigned: spares JAX's test for negative ones
    squares = _squares(image).at[index].get(mode="promise_in_bounds")

    def corner(byte):
        return (squares >> 8 * byte & 255).astype(jnp.float32)

    upper = (1 - across) * corner(0) + across * corner(1)
    lower = (1 - across) * corner(2) + across * corner(3)
    return (1 - down) * upper + down * lower


def _squares(image):
    """Each pixel with its right, lower and lower right neighbours as the four bytes of one integer, (height * width, channels).

    So a sample takes one gather instead of four; gathers are most of the cost of resampling. Beyond the border the border's pixels are
    repeated; their weight is 0.
    """
    pixels = jnp.asarray(image).astype(jnp.int32)
    pairs = pixels | jnp.concatenate([pixels[:, 1:], pixels[:, -1:]], axis=1) << 8
    return (pairs | jnp.concatenate([pairs[1:], pairs[-1:]]) << 16).reshape(-1, image.shape[-1])


def shear(image: Image, place: Place, size: int, largest: float) -> Pixels:
    """The view's pixels by interpolation along the image's rows and then along the view's columns, float32.

    Args:
      largest: no angle may be larger, in degrees. The program grows with it.
    """
    height, width, _ = image.shape
    centre, most = (size - 1) / 2, math.radians(largest)
    # A mirrored view is a view of the mirrored image, turned the other way.
    mirrored, angle = place.mirror < 0, place.mirror * place.angle
    left = jnp.where(mirrored, width - size - place.left, place.left)
    half = jnp.tan(angle / 2)  # by it, all that follows is exactly 0 without a turn
    sin, tan = 2 * half / (1 + half**2), 2 * half / (1 - half**2)

    # The view's pixel (i, j) lies at row top + i + (cos - 1) (i - centre) + sin (j - centre) of the image. In the image's row r its column
    # j lies at left + j + (1 / cos - 1) (j - centre) - tan (r - top - centre).
    stretch, slope = 1 / math.cos(most) - 1, math.tan(most)
    rows = _along_lines(jnp.moveaxis(image, -1, 0), width, left, tan * half, -tan, place.top + centre, size, (stretch, slope), mirrored)
    stretch, slope = 1 - math.cos(most), math.sin(most)
    columns = _along_lines(rows.swapaxes(1, 2), height, place.top, -sin * half, sin, centre, size, (stretch, slope))
    return columns[:, :size, :size].T


def _along_lines(planes, length, first, stretch, slope, centre, size, most, mirrored=False):
    """Resample each line of `planes` (channels, lines, length) by linear interpolation; beyond its ends, its end is repeated.

    Of line l, place t of the result lies at first + t + stretch * (t - (size - 1) / 2) + slope * (l - centre) of the line, or of the line
    read backwards if `mirrored`. `most` holds the largest values of |stretch| and |slope|, known to the compiler.

    Returns:
      float32 (channels, lines, size); lines and size are rounded up to whole blocks.
    """
    channels, lines, stored = planes.shape
    blocks, size_up = -(-lines // BLOCK), -(-size // BLOCK) * BLOCK
    planes = jnp.pad(planes, ((0, 0), (0, blocks * BLOCK - lines), (0, 0))).reshape(channels, blocks, BLOCK, stored)

    # A block is cut out at the whole number of pixels that is nearest to its middle line's shift, by a product that copies pixels. bfloat16
    # has the bits for that: whole grey levels stay exact, others are rounded once, as the first layer does with what it gets in bfloat16.
    middle = jnp.arange(blocks) * BLOCK + (BLOCK - 1) / 2
    shift = lax.optimization_barrier(jnp.round(slope * (middle - centre)))  # computed once: its two uses must agree
    margin = math.floor(0.51 + (BLOCK - 1) / 2 * most[1] + (size_up - 1) / 2 * most[0]) + 1
    source = jnp.clip(first + shift[:, None] + jnp.arange(-margin, size_up + margin), 0, length - 1)
    source = jnp.where(mirrored, length - 1 - source, source)
    copies = (source[..., None] == jnp.arange(stored)).astype(jnp.bfloat16)
    cut = jnp.einsum("cbls,bws->cblw", planes.astype(jnp.bfloat16), copies)

    # What is left of a pixel's shift is less than the margin. Of the neighbours within it, the two next to the pixel's place have weights.
    # Lines are numbered for each channel, or XLA would store the weights, for all channels, instead of computing them where they are used.
    line = lax.broadcasted_iota(jnp.float32, (channels, blocks, BLOCK), 1) * BLOCK + jnp.arange(BLOCK, dtype=jnp.float32)
    t = jnp.arange(size_up) - (size - 1) / 2
    rest = (slope * (line - centre) - shift[:, None])[..., None] + stretch * t
    result = jnp.zeros(rest.shape)
    for k in range(2 * margin + 1):
        weight = jnp.maximum(0, 1 - jnp.abs(rest - (k - margin)))
        result += weight * cut[..., k : k + size_up].astype(jnp.float32)
    return result.reshape(channels, blocks * BLOCK, size_up)
