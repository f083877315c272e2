"""Augmentation and evaluation views, on the device, one example at a time: (key, image, strengths) -> view.

The train step (train/step.py) calls `augment`, the forward pass (model/forward.py) the two evaluation views, each under a `vmap`:

    view = augment(key, image, hyper, stats, size=227)

An example's draws depend only on its key. Every strength is traced, and strength 0 is exactly the identity: to ablate an augmentation is to
change a number. Images are uint8; views are float32 with the dataset's mean subtracted, still on the 0-255 scale that LRN's constants are
made for.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, UInt8

from alexnet_jax.hyper import Hyper
from alexnet_jax.prepare.pixel_stats import PixelStats

Image = UInt8[Array, "height width channels"]
View = Float[Array, "size size channels"]


def augment(key: Key[Array, ""], image: Image, hyper: Hyper, stats: PixelStats, size: int) -> View:
    """One training view: crop, flip, rotation and shift in a single resampling, then whitening, then PCA colour.

    Whitening comes before colour: after it, it would undo a change of brightness.
    """
    warp_key, colour_key = jax.random.split(key)
    view = _warp(warp_key, image, hyper, size) - stats.mean
    return _colour(colour_key, _whiten(view, hyper.whitening, stats), hyper.colour, stats)


def evaluation_view(image: Image, hyper: Hyper, stats: PixelStats, size: int) -> View:
    """The centre crop, with the member's whitening: what `augment` gives with every random strength at 0."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return _whiten(image[top : top + size, left : left + size].astype(jnp.float32) - stats.mean, hyper.whitening, stats)


def ten_views(image: Image, hyper: Hyper, stats: PixelStats, size: int) -> Float[Array, "10 size size channels"]:
    """The paper's ten test views: the four corners and the centre, then their mirror images. Predictions are averaged after the softmax."""
    bottom, right = image.shape[0] - size, image.shape[1] - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    crops = jnp.stack([image[top : top + size, left : left + size] for top, left in corners]).astype(jnp.float32) - stats.mean
    whitened = jax.vmap(lambda crop: _whiten(crop, hyper.whitening, stats))(crops)
    return jnp.concatenate([whitened, whitened[:, :, ::-1]])


def _warp(key, image, hyper, size):
    """Crop, flip, rotate and shift by one bilinear sampling of the stored image; beyond its border, the border's pixels."""
    crop_y, crop_x, flip, rotation, shift_y, shift_x = jax.random.uniform(key, (6,))
    margin_y, margin_x = image.shape[0] - size, image.shape[1] - size

    def offset(margin, draw):
        # A whole number in the middle part of the margin, `span` long; at strength 1 all of 0 .. margin, equally likely.
        span = jnp.floor(hyper.crop * margin + 0.5)
        return jnp.floor((margin - span) / 2) + jnp.minimum(jnp.floor(draw * (span + 1)), span)

    def shift(draw):
        # Whole pixels, so that a shift alone never blurs.
        return jnp.round((2 * draw - 1) * hyper.shift * size)

    centre = (size - 1) / 2
    angle = jnp.deg2rad((2 * rotation - 1) * hyper.rotation)
    cos, sin, mirror = jnp.cos(angle), jnp.sin(angle), jnp.where(flip < hyper.flip, -1.0, 1.0)
    to_image = jnp.array(
        [
            [cos, mirror * sin, centre + offset(margin_y, crop_y) + shift(shift_y)],
            [-sin, mirror * cos, centre + offset(margin_x, crop_x) + shift(shift_x)],
        ]
    )
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


def _whiten(view, strength, stats):
    """Blend towards the per-image standardised view, put back on the dataset's pixel scale.

    Per-image standardisation is TensorFlow's: zero mean, unit variance, the deviation floored at 1 / sqrt(pixels). Its result is
    multiplied by the dataset's standard deviation, or LRN's constants would lose their meaning.
    """
    deviation = jnp.maximum(jnp.std(view), 1 / jnp.sqrt(float(view.size)))
    return (1 - strength) * view + strength * stats.std * (view - jnp.mean(view)) / deviation


def _colour(key, view, strength, stats):
    """Section 4.1 of the paper: add sum_i alpha_i s_i p_i to every pixel, alpha_i ~ N(0, strength), one draw per image.

    s_i is the standard deviation along principal axis p_i, as in the 2012 code; the text's eigenvalue would be far off the 0-255 scale.
    """
    coefficients = strength * jax.random.normal(key, stats.pca_std.shape)
    return view + (coefficients * stats.pca_std) @ stats.pca_axes
