"""Augmentation and evaluation views, on the device, one example at a time: (key, image, strengths) -> view.

The train step (train/step.py) calls `augment`, the forward pass (model/forward.py) the two evaluation views, each under a `vmap`:

    view = augment(key, image, hyper, stats, size=227)

An example's draws depend only on its key. Every strength is traced, and strength 0 is exactly the identity: to ablate an augmentation is to
change a number. Images are uint8; views are float32 with the dataset's mean subtracted, still on the 0-255 scale that LRN's constants are
made for.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from alexnet_jax.hyper import Hyper
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.resample import Image, Place, gather, shear

View = Float[Array, "size size channels"]


def augment(key: Key[Array, ""], image: Image, hyper: Hyper, stats: PixelStats, size: int, shear_to: float | None = None) -> View:
    """One training view: crop, flip, rotation and shift in a single resampling, then whitening, then PCA colour.

    Whitening comes before colour: after it, it would undo a change of brightness.

    Args:
      shear_to: None resamples by `gather`; a number by `shear`, for rotations up to so many degrees (resample.py).
    """
    place_key, colour_key = jax.random.split(key)
    place = _draw_place(place_key, image.shape, hyper, size)
    pixels = gather(image, place, size) if shear_to is None else shear(image, place, size, shear_to)
    view = pixels - stats.mean
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


def _draw_place(key, shape, hyper, size):
    """A crop, a flip, a turn and a shift of whole pixels: where the view lies in an image of this shape."""
    crop_y, crop_x, flip, rotation, shift_y, shift_x = jax.random.uniform(key, (6,))

    def offset(margin, draw):
        # A whole number in the middle part of the margin, `span` long; at strength 1 all of 0 .. margin, equally likely.
        span = jnp.floor(hyper.crop * margin + 0.5)
        return jnp.floor((margin - span) / 2) + jnp.minimum(jnp.floor(draw * (span + 1)), span)

    def shift(draw):
        # Whole pixels, so that a shift alone never blurs.
        return jnp.round((2 * draw - 1) * hyper.shift * size)

    top = offset(shape[0] - size, crop_y) + shift(shift_y)
    left = offset(shape[1] - size, crop_x) + shift(shift_x)
    angle = jnp.deg2rad((2 * rotation - 1) * hyper.rotation)
    return Place(top, left, angle, mirror=jnp.where(flip < hyper.flip, -1.0, 1.0))


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
