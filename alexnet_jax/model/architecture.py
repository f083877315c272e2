"""What an AlexNet is made of: the choices that shape its program, and the variants as differences from the study post's network.

A config's model section holds the fields; `network.build` makes the module (alexnet.py) of them:

    section = model_config("one_tower")    # every field, and the constants that may differ between members
    arch = architecture(section)           # checked
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from alexnet_jax.errors import UserError, did_you_mean
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.conv import FORMS
from alexnet_jax.model.lrn import CONVENTIONS

ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh}
INITS = ("paper", "caffe", "scaled")
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
