"""What decides a unit's value: pure functions (params, hyper, view, unit) -> map, for one network and one picture.

`make` gives the function of a method; attribution.py adds the member axis with a `vmap`, units.py projects many units at once:

    method = make("gradcam", model, layer="fc8", seen_from="conv5")
    heat = jax.vmap(method)(params, hyper, views, units)    # float32 (M, size, size)

A view is what the network sees: float32 (size, size, C), the mean subtracted. A unit is a weight for each output of a layer: 1 for a class
of fc8, or for one place of a filter, and 0 elsewhere. Its value is the weighted sum of the outputs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alexnet_jax.errors import UserError, did_you_mean
from alexnet_jax.explain.rules import Deconvnet, Explained, Guided, check_relu
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.forward import layer_outputs
from alexnet_jax.model.layers import receptive_fields

View = Float[Array, "size size channels"]
Unit = Float[Array, "..."]  # the shape of a layer's output
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")


class Settings(NamedTuple):
    """The numbers in the methods. `window` and `stride` are in pixels; 0 stands for a seventh of the view and for half a window."""

    draws: int = 25  # of smoothgrad's noise
    noise: float = 0.15  # its standard deviation, of the view's range (Smilkov et al.: 0.1 to 0.2)
    steps: int = 64  # of integrated gradients, on the straight line from the mean image
    window: int = 0  # of occlusion
    stride: int = 0

    def sized(self, size: int) -> "Settings":
        """The settings for views of `size` pixels.

        Raises:
          UserError: the window doesn't fit.
        """
        window = self.window or max(1, size // 7)
        if window > size:
            raise UserError(f"--window {window} is larger than what the network sees, {size} x {size} pixels")
        return self._replace(window=window, stride=self.stride or max(1, window // 2))


class Method(NamedTuple):
    """A method: how its map is shown, and what it is, in a sentence."""

    shown: str  # heat: how much, from 0; signed: for (red) and against (blue); colour: a picture around grey
    text: str


METHODS = {
    "gradient": Method("heat", "how much the class's logit changes with each pixel (Simonyan et al., 2014)"),
    "smoothgrad": Method("heat", "the mean gradient over noisy copies of the picture (Smilkov et al., 2017)"),
    "guided": Method(
        "colour", "guided backpropagation: of the gradient, only what raises the logit at every ReLU (Springenberg et al., 2015)"
    ),
    "gradcam": Method("heat", "the layer's maps, each weighted by the mean of the logit's gradient in it (Selvaraju et al., 2017)"),
    "integrated": Method(
        "signed",
        "integrated gradients: each pixel's share of the difference to the logit of the mean image (Sundararajan et al., 2017)",
    ),
    "occlusion": Method("signed", "how much the logit falls when a grey square covers the pixel (Zeiler and Fergus, 2014)"),
    "deconvnet": Method("colour", "the layer's most excited unit, sent back to the pixels (Zeiler and Fergus, 2014)"),
}


def check_method(name: str) -> None:
    """Raise `UserError` for an unknown method."""
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{did_you_mean(name, ['all', *METHODS])}")


def make(name: str, model: AlexNet, layer: str, seen_from: str, settings: Settings) -> Callable[[Any, Hyper, View, Unit], Array]:
    """The function of a method, for a unit of `layer`. Its map is (size, size, C), or (size, size) of `gradcam` and `occlusion`.

    `seen_from` is the convolution of Grad-CAM. `settings` are `sized`.

    Raises:
      UserError: the method isn't defined for this network or layer.
    """
    if name in ("guided", "deconvnet"):
        check_relu(model, name)
    if name == "gradcam" and seen_from not in CONVOLUTIONS:
        raise UserError(f"gradcam weights the maps of a convolution, --layer {seen_from} is none; choose one of {', '.join(CONVOLUTIONS)}")
    plain, guided, deconvnet = (kind(model.arch, model.classes) for kind in (Explained, Guided, Deconvnet))

    def gradient(params, hyper, view, unit):
        return gradients(plain, layer, params, hyper, view[None], unit[None])[0]

    def smoothgrad(params, hyper, view, unit):
        noise = settings.noise * (jnp.max(view) - jnp.min(view)) * jax.random.normal(jax.random.key(0), (settings.draws, *view.shape))
        return gradients(plain, layer, params, hyper, view + noise, _repeated(unit, settings.draws)).mean(0)

    def guided_gradient(params, hyper, view, unit):
        return gradients(guided, layer, params, hyper, view[None], unit[None])[0]

    def integrated(params, hyper, view, unit):
        places = (jnp.arange(settings.steps) + 0.5) / settings.steps  # the midpoint rule
        views = places[:, None, None, None] * view
        return view * gradients(plain, layer, params, hyper, views, _repeated(unit, settings.steps)).mean(0)

    def gradcam(params, hyper, view, unit):
        maps, slopes = _with_respect_to(plain, layer, seen_from, params, hyper, view, unit)
        heat = jax.nn.relu(jnp.sum(maps * slopes.mean((0, 1)), -1))
        return _to_pixels(heat, model.arch, view.shape[-1], seen_from)

    def occluded(params, hyper, view, unit):
        return occlusion(plain, layer, params, hyper, view, unit, settings.window, settings.stride)

    def projected(params, hyper, view, unit):
        return projections(deconvnet, layer, params, hyper, view[None], unit[None])[0]

    return {
        "gradient": gradient,
        "smoothgrad": smoothgrad,
        "guided": guided_gradient,
        "gradcam": gradcam,
        "integrated": integrated,
        "occlusion": occluded,
        "deconvnet": projected,
    }[name]


def values(model: AlexNet, layer: str, params: Any, hyper: Hyper, views: Array, units: Array, added: Any = None) -> Array:
    """The values (B,) of units (B, ...) of a layer, for views (B, size, size, C)."""
    outputs = layer_outputs(model, params, views, hyper, added=added)[layer].astype(jnp.float32)
    return jnp.sum(outputs * units, axis=tuple(range(1, outputs.ndim)))


def gradients(model: AlexNet, layer: str, params: Any, hyper: Hyper, views: Array, units: Array) -> Array:
    """The derivatives, by the model's rules, of the units' values with respect to the views: (B, size, size, C)."""
    # A batch, and no vmap over one network's views: under vmap, convolutions unroll (model/conv.py).
    return jax.grad(lambda views: values(model, layer, params, hyper, views, units).sum())(views)


def projections(model: AlexNet, layer: str, params: Any, hyper: Hyper, views: Array, units: Array) -> Array:
    """Units sent back to the pixels by the deconvnet, (B, size, size, C), on the scale of the pixels.

    As in section 2.1 of Zeiler and Fergus: each unit starts with its own output, all others with 0; then come, layer by layer, unpooling by
    the switches, the deconvnet's ReLU and the transposed filters. Biases have no part in it.
    """

    def outputs(views):
        return layer_outputs(model, params, views, hyper)[layer]

    found, back = jax.vjp(outputs, views)
    scales = jnp.asarray(model.arch.pixel_scales)
    # The derivative with respect to a pixel is the signal at the network's input divided by the scale. Wanted is the signal, in pixels.
    return back((found * units).astype(found.dtype))[0] * scales**2


def occlusion(
    model: AlexNet, layer: str, params: Any, hyper: Hyper, view: View, unit: Unit, window: int, stride: int, batch: int = 64
) -> Float[Array, "size size"]:
    """How much a unit's value falls when a square of the dataset's mean covers a pixel: the mean over the squares that cover it."""
    size = view.shape[0]
    starts = np.append(np.arange(0, size - window, stride), size - window)
    # (positions, size): whether a square in this row, or column, covers a pixel
    covers = jnp.asarray((np.arange(size) >= starts[:, None]) & (np.arange(size) < starts[:, None] + window), jnp.float32)
    rows, columns = (places.ravel() for places in np.meshgrid(range(len(starts)), range(len(starts)), indexing="ij"))
    batches = -(-len(rows) // batch)
    padded = [np.resize(places, batches * batch).reshape(batches, batch) for places in (rows, columns)]

    def falls(places):
        row, column = places
        kept = 1 - covers[row][:, :, None] * covers[column][:, None, :]
        return values(model, layer, params, hyper, kept[..., None] * view, _repeated(unit, batch))

    whole = values(model, layer, params, hyper, view[None], unit[None])[0]
    fall = whole - jax.lax.map(falls, tuple(map(jnp.asarray, padded))).ravel()[: len(rows)].reshape(len(starts), len(starts))
    return covers.T @ fall @ covers / jnp.outer(covers.sum(0), covers.sum(0))


def _with_respect_to(model, layer, seen_from, params, hyper, view, unit):
    """The outputs of a convolution and the derivatives of a unit's value with respect to them, both (height, width, filters)."""
    maps = layer_outputs(model, params, view[None], hyper)[seen_from]

    def value(added):
        return values(model, layer, params, hyper, view[None], unit[None], {seen_from: added}).sum()

    return maps[0].astype(jnp.float32), jax.grad(value)(jnp.zeros_like(maps))[0].astype(jnp.float32)


def _to_pixels(heat, arch, channels, layer):
    """A layer's map, linearly between the centres of its units' receptive fields, at every pixel of the view."""
    field = receptive_fields(arch, channels)[layer]
    centres = field.start + field.stride * np.arange(len(heat)) + (field.size - 1) / 2
    between = np.stack([np.interp(np.arange(arch.input_size), centres, row) for row in np.eye(len(heat))])
    return between.T.astype(np.float32) @ heat @ between.astype(np.float32)


def _repeated(unit, times):
    return jnp.broadcast_to(unit, (times, *unit.shape))
