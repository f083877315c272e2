"""AlexNet as a Flax module, and its variants as one table of differences from the study post's network.

`network.build` makes the module of a config; a forward pass (forward.py) and the train step (train/step.py) apply it:

    model = AlexNet(architecture(model_config("one_tower")), classes=1000)
    logits = model.apply({"params": params}, images, hyper)

The module is one network. The step and the forward pass add the member axis, each with one `vmap`.
"""

import dataclasses
import math
import operator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from alexnet_jax.errors import UserError, did_you_mean
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.bias import add_bias
from alexnet_jax.model.conv import FORMS, conv, max_pool
from alexnet_jax.model.dense import dense
from alexnet_jax.model.lrn import CONVENTIONS, lrn
from alexnet_jax.model.remat import remat

ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh}
INITS = ("paper", "caffe", "scaled")
EARLY = ("conv1", "conv2")  # the layers that LRN follows
LAST = "fc8"  # the layer that gives the logits: no activation follows it
MOST = 1_000_000  # pixels of a side, channels or units of a layer: more are a mistake, and shapes have 64 bits
CHOICES = {
    "activation": tuple(ACTIVATIONS),
    "lrn_order": ("after_pool", "before_pool"),
    "lrn_convention": CONVENTIONS,
    "dropout_place": ("after", "before"),
    "init": INITS,
    "dtype": ("float32", "bfloat16"),
    "conv_form": FORMS,
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What shapes the compiled program. The defaults are the study post's network, 62,378,344 parameters for 1000 classes.

    Raises:
      UserError: an unknown choice, or a combination that makes no network.
    """

    input_size: int = 227  # pixels, square
    filters: tuple[int, ...] = (96, 256, 384, 384, 256)  # of conv1 .. conv5
    dense: int = 4096  # units of fc6 and fc7
    width: float = 1.0  # multiplies filters and dense
    stem_kernel: int = 11
    stem_stride: int = 4
    stem_padding: tuple[int, ...] = (0, 0)  # pixels before and after, in height and width
    groups: int = 1  # of conv2, conv4 and conv5: 2 is the paper's two towers
    activation: str = "relu"  # relu | tanh
    pool_size: int = 3
    pool_stride: int = 2  # below pool_size: overlapping pooling
    lrn: bool = True
    lrn_order: str = "after_pool"  # after_pool | before_pool
    lrn_size: int = 5  # channels in the window
    lrn_convention: str = "paper"  # paper | per_size: whether alpha is divided by lrn_size
    dropout_place: str = "after"  # after fc6 and fc7 | before them
    init: str = "paper"  # paper | caffe | scaled
    positive_bias: float = 1.0  # initial bias of conv2, conv4, conv5, fc6 and fc7; 0 elsewhere
    early_gain: float = 1.0  # the initial weights and biases of conv1 and conv2, which LRN follows, are multiplied by this
    # Mean-subtracted 0-255 pixels are divided by this, one number or one per channel. LRN's alpha is multiplied by its square.
    pixel_scale: float | tuple[float, ...] = 1.0
    # This is subtracted from 0-255 pixels, one number per channel. Empty: the mean of the dataset's training pixels.
    pixel_mean: tuple[float, ...] = ()
    dtype: str = "float32"  # of activations and products; parameters and sums stay float32
    conv_form: str = "auto"  # auto | direct | winograd | grouped: how convolutions are computed, see conv.py

    def __post_init__(self):
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise UserError(f"model.{field} is {getattr(self, field)!r}{did_you_mean(getattr(self, field), choices)}")
        if len(self.filters) != 5 or len(self.stem_padding) != 2:
            raise UserError(f"model.filters {self.filters} must hold 5 numbers, model.stem_padding {self.stem_padding} 2")
        for field in ("input_size", "stem_kernel", "stem_stride", "groups", "pool_size", "pool_stride", "lrn_size"):
            if not 1 <= getattr(self, field) <= MOST:
                raise UserError(f"model.{field} is {getattr(self, field)}; it must be at least 1 and at most {MOST:,}")
        if not 0 <= min(self.stem_padding) <= max(self.stem_padding) < self.stem_kernel:
            raise UserError(f"model.stem_padding {self.stem_padding} must be at least 0 and below model.stem_kernel={self.stem_kernel}")
        if not 0 < self.width < math.inf or not 1 <= min(*self.channels, self.units) <= max(*self.channels, self.units) <= MOST:
            raise UserError(
                f"model.width={self.width} of {self.filters} filters and {self.dense} units leaves some layer empty or too large; each "
                f"needs 1 to {MOST:,}"
            )
        if any(count % self.groups for count in self.channels):
            raise UserError(f"{self.channels} filters can't be split into model.groups={self.groups}; change model.width or model.filters")
        if self.pool_stride > self.pool_size:
            raise UserError(f"model.pool_stride={self.pool_stride} skips pixels: it must not exceed model.pool_size={self.pool_size}")
        if min(self.map_sizes) < 1:
            raise UserError(f"model.input_size={self.input_size} is too small: the maps shrink to {self.map_sizes} after the five stages")
        if not 0 < self.early_gain <= MOST:
            raise UserError(
                f"model.early_gain is {self.early_gain}; initial weights are multiplied by it: it must be positive, at most {MOST:,}"
            )
        if not all(0 < scale <= MOST for scale in self.pixel_scales):
            raise UserError(f"model.pixel_scale is {self.pixel_scale}; pixels are divided by it: it must be positive, at most {MOST:,}")
        if self.lrn and len(set(self.pixel_scales)) > 1:
            raise UserError(f"model.lrn normalises over channels on one scale: model.pixel_scale={self.pixel_scale} must be one number")
        for field, numbers in (("positive_bias", (self.positive_bias,)), ("pixel_mean", self.pixel_mean)):
            if not all(abs(number) <= MOST for number in numbers):
                raise UserError(f"model.{field} is {getattr(self, field)}; it must lie between -{MOST:,} and {MOST:,}")

    def check_channels(self, channels: int) -> None:
        """Raise `UserError` where `pixel_scale` or `pixel_mean` is not for images of so many channels."""
        if len(self.pixel_mean) not in (0, channels):
            raise UserError(
                f"model.pixel_mean={self.pixel_mean} is for {len(self.pixel_mean)} channels, the images have {channels}; "
                "set --config.model.pixel_mean=() to take the dataset's own"
            )
        if len(self.pixel_scales) not in (1, channels):
            raise UserError(
                f"model.pixel_scale={self.pixel_scale} is for {len(self.pixel_scales)} channels, the images have {channels}; "
                f"set --config.model.pixel_scale=({self.pixel_scales[0]},)"
            )

    @property
    def pixel_scales(self) -> tuple[float, ...]:
        """`pixel_scale` as a tuple, of one number or one per channel."""
        return self.pixel_scale if isinstance(self.pixel_scale, tuple) else (self.pixel_scale,)

    def lrn_alpha(self, hyper: Hyper) -> Any:
        """A member's LRN alpha on the network's own scale.

        On pixels divided by s activations shrink by s: alpha * s^2 makes LRN the same function of the picture.
        """
        return hyper.lrn_alpha * self.pixel_scales[0] ** 2

    @property
    def channels(self) -> tuple[int, ...]:
        """Filters of conv1 .. conv5 with the width factor applied."""
        return tuple(round(count * self.width) for count in self.filters)

    @property
    def units(self) -> int:
        """Units of fc6 and fc7 with the width factor applied."""
        return round(self.dense * self.width)

    @property
    def map_sizes(self) -> tuple[int, ...]:
        """Height = width of the maps after conv1, pool1, pool2 and pool3 (the other convolutions keep the size)."""

        def pooled(size):
            return (size - self.pool_size) // self.pool_stride + 1

        stem = (self.input_size + sum(self.stem_padding) - self.stem_kernel) // self.stem_stride + 1
        return stem, pooled(stem), pooled(pooled(stem)), pooled(pooled(pooled(stem)))


# The constants of a variant that may differ between members. They are `Hyper` fields; the config's model section has their values.
MEMBER_CONSTANTS = {name: getattr(Hyper(), name) for name in ("dropout", "lrn_k", "lrn_alpha", "lrn_beta")}

_TWO_TOWERS: dict[str, Any] = {"groups": 2}
# BVLC's mean of ImageNet, RGB: its files say BGR 104.00699, 116.66877, 122.67891.
_CAFFE = {
    **_TWO_TOWERS,
    "lrn_convention": "per_size",
    "lrn_k": 1.0,
    "init": "caffe",
    "pixel_mean": (122.67891, 116.66877, 104.00699),
}
VARIANTS: dict[str, dict[str, Any]] = {
    # The study post's: one tower, conv - ReLU - pool - LRN.
    "one_tower": {},
    # BVLC's CaffeNet: the study post's order, in two towers.
    "caffenet": _CAFFE,
    # bvlc_alexnet: LRN before the pool; bias 0.1, since 1 gave a flat loss.
    "caffe": {**_CAFFE, "lrn_order": "before_pool", "positive_bias": 0.1},
    # The 2012 paper: 224 pixels, with the 3 pixels of padding at the right and the bottom that its code's indexing implies.
    "paper": {**_TWO_TOWERS, "lrn_order": "before_pool", "input_size": 224, "stem_padding": (0, 3)},
    # "One weird trick", the network of torchvision: narrower, no LRN, dropout before the dense layers.
    "owt": {
        "filters": (64, 192, 384, 256, 256),
        "input_size": 224,
        "stem_padding": (2, 2),
        "lrn": False,
        "dropout_place": "before",
        "init": "scaled",
        "positive_bias": 0.0,
        "pixel_mean": (123.675, 116.28, 103.53),  # torchvision's: .485, .456, .406 of 255
        "pixel_scale": (58.395, 57.12, 57.375),  # torchvision's standard deviations of red, green and blue: .229, .224, .225 of 255
    },
    # The same eight layers for images of 28 to 64 pixels.
    "small": {
        "input_size": 28,
        "width": 0.25,
        "stem_kernel": 5,
        "stem_stride": 1,
        "stem_padding": (2, 2),
        "init": "scaled",
        "positive_bias": 0.0,
        "pixel_scale": 70.0,
    },
}


def model_config(variant: str) -> ConfigDict:
    """A variant as a config's model section: every field of `Architecture`, and the constants that may differ between members.

    Raises:
      UserError: an unknown variant.
    """
    if variant not in VARIANTS:
        raise UserError(f"unknown model variant {variant!r}{did_you_mean(variant, VARIANTS)}")
    return ConfigDict({**dataclasses.asdict(Architecture()), **MEMBER_CONSTANTS, **VARIANTS[variant]}, sort_keys=False)


def architecture(section: ConfigDict) -> Architecture:
    """The `Architecture` of a config's model section."""
    return Architecture(**{field.name: section[field.name] for field in dataclasses.fields(Architecture)})


# Fields of a model section that say how parameters are drawn and trained. What the network computes from them doesn't depend on these.
_TRAINING = ("init", "positive_bias", "early_gain", "dropout", "dropout_place", "dtype", "conv_form")


def contradictions(section: ConfigDict, other: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """The fields in which two model sections make different functions of the same parameters: `{field: (value, other value)}`."""
    lrn_fields = [field for field in section if field.startswith("lrn_") and not (section.lrn or other.lrn)]
    return {
        field: (section[field], other[field])
        for field in section
        if field not in (*_TRAINING, *lrn_fields) and section[field] != other[field]
    }


class AlexNet(nn.Module):
    """Five convolutions, three max-pools, LRN in the first two stages, three dense layers."""

    arch: Architecture
    classes: int
    remat: bool = False  # train in less memory, for more time: see remat.py

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch size size channels"],
        hyper: Hyper,
        dropout_keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch classes"]:
        """Logits of mean-subtracted images on the 0-255 scale.

        Args:
          images: float32, `arch.input_size` pixels square.
          hyper: one member's, scalar leaves: dropout and the LRN constants are read.
          dropout_keys: one key per example to train with dropout; None to evaluate without.
        """
        arch = self.arch
        channels1, channels2, channels3, channels4, channels5 = arch.channels
        stage = partial(self._stage, lean=self.remat and dropout_keys is not None)
        arch.check_channels(images.shape[-1])

        # Shapes beside the layers are the one-tower network's.
        with jax.named_scope("input"):
            x = (images / jnp.asarray(arch.pixel_scales, jnp.float32)).astype(arch.dtype)  # 227 x 227 x 3
        conv1 = self._conv("conv1", x.shape[-1], channels1, arch.stem_kernel, arch.stem_stride, arch.stem_padding)  # 55 x 55 x 96
        x = stage(x, hyper, [conv1], norm=True)  # 27 x 27 x 96
        conv2 = self._conv("conv2", channels1, channels2, 5, 1, (2, 2), arch.groups, arch.positive_bias)  # 27 x 27 x 256
        x = stage(x, hyper, [conv2], norm=True)  # 13 x 13 x 256
        conv3 = self._conv("conv3", channels2, channels3, 3, 1, (1, 1))  # 13 x 13 x 384
        conv4 = self._conv("conv4", channels3, channels4, 3, 1, (1, 1), arch.groups, arch.positive_bias)  # 13 x 13 x 384
        conv5 = self._conv("conv5", channels4, channels5, 3, 1, (1, 1), arch.groups, arch.positive_bias)  # 13 x 13 x 256
        x = stage(x, hyper, [conv3, conv4, conv5], norm=False)  # 6 x 6 x 256
        x = x.reshape(x.shape[0], -1)  # 9216

        for layer, name in enumerate(("fc6", "fc7")):
            if arch.dropout_place == "before":
                x = dropout(x, hyper.dropout, dropout_keys, layer)
            x = self._output(name, self.activation(self._dense(name, x, arch.units, arch.positive_bias)))  # 4096
            if arch.dropout_place == "after":
                x = dropout(x, hyper.dropout, dropout_keys, layer)
        return self._output(LAST, self._dense(LAST, x, self.classes)).astype(jnp.float32)

    def _stage(self, x, hyper, convolutions, norm, lean):
        """Convolutions, each with its activation, then the pool and, if `norm`, LRN. A lean stage keeps only `x` for its gradient."""

        def stage(x, parameters, hyper):
            for (name, _, convolve), own in zip(convolutions, parameters, strict=True):
                x = self._output(name, self.activation(convolve(x, *own)))
            return self._pool_and_norm(x, hyper) if norm else self.pool(x)

        return (remat(stage) if lean else stage)(x, [parameters for _, parameters, _ in convolutions], hyper)

    def _conv(self, name, channels, filters, size, stride, padding, groups=1, bias=0.0):
        """A convolution's name, its parameters, and the function of its input and of them."""
        gain = self.arch.early_gain if name in EARLY else 1.0
        kernel_init = _kernel_init(self.arch.init, name, gain)
        parameters = _Affine((size, size, channels // groups, filters), kernel_init, gain * bias, name=name)()

        def convolve(x, kernel, bias):
            with jax.named_scope(name):
                return add_bias(conv(x, kernel.astype(x.dtype), stride, padding, groups, self.arch.conv_form), bias)

        return name, parameters, convolve

    def _output(self, layer, x):
        """A layer's output, which is kept where `apply` is asked for intermediates."""
        self.sow("intermediates", "layers", {layer: x}, reduce_fn=operator.or_, init_fn=dict)
        return x

    def _dense(self, name, x, units, bias=0.0):
        kernel, bias = _Affine((x.shape[-1], units), _kernel_init(self.arch.init, name), bias, name=name)()
        with jax.named_scope(name):
            return add_bias(dense(x, kernel.astype(x.dtype)), bias)

    def _pool_and_norm(self, x, hyper):
        if not self.arch.lrn:
            return self.pool(x)
        return self.pool(self.norm(x, hyper)) if self.arch.lrn_order == "before_pool" else self.norm(self.pool(x), hyper)

    # What explains a network (explain/rules.py) gives these three other derivatives.

    def activation(self, x):
        return ACTIVATIONS[self.arch.activation](x)

    def pool(self, x):
        return max_pool(x, self.arch.pool_size, self.arch.pool_stride)

    def norm(self, x, hyper):
        arch = self.arch
        normalised = lrn(x, hyper.lrn_k, arch.lrn_alpha(hyper), hyper.lrn_beta, arch.lrn_size, arch.lrn_convention)
        self.sow("intermediates", "lrn", (x, normalised))  # to be measured
        return normalised


class _Affine(nn.Module):
    """The parameters of one layer, {kernel, bias}, under its name."""

    shape: tuple[int, ...]
    kernel_init: Any
    bias: float

    @nn.compact
    def __call__(self):
        kernel = self.param("kernel", self.kernel_init, self.shape)
        return kernel, self.param("bias", nn.initializers.constant(self.bias), self.shape[-1:])


def _kernel_init(init: str, layer: str, gain: float = 1.0):
    """Initialiser of a layer's weights, which are then multiplied by `gain`.

    paper    N(0, 0.01) everywhere. It suits 0-255 pixels and biases of 1; small or narrow networks often stall at ln(classes) with it.
    caffe    as the paper's, but 0.005 in fc6 and fc7 (BVLC's model files).
    scaled   He: N(0, 2 / fan-in), and N(0, 0.01) in fc8 so that training starts at a loss of ln(classes) whatever the pixel scale.
    """
    if init == "scaled" and layer != LAST:
        return nn.initializers.variance_scaling(2.0 * gain**2, "fan_in", "truncated_normal")  # he_normal for a gain of 1
    return nn.initializers.normal(gain * (0.005 if init == "caffe" and layer in ("fc6", "fc7") else 0.01))


def dropout(
    x: Float[Array, "batch units"], rate: Float[Array, ""] | float, keys: Key[Array, " batch"] | None, layer: int
) -> Float[Array, "batch units"]:
    """Inverted dropout with a traced rate and one key per example: no draw depends on how a batch is cut. Rate 0 is the identity."""
    if keys is None:
        return x
    keep = 1 - jnp.asarray(rate, jnp.float32)
    kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, layer), keep, x.shape[1:]))(keys)
    return jnp.where(kept, (x.astype(jnp.float32) / keep).astype(x.dtype), 0)
