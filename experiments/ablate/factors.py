"""What `experiments.ablate` can vary: a factor's levels are settings of points (points.py), relative to the config as it is.

A factor is a function of the config and of the images' shape (height, width, channels). The first of its levels is the reference.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from alexnet_jax.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

Shape = tuple[int, ...]
Settings = dict[str, str]


class Levels(NamedTuple):
    """The levels of a factor by name, the reference first, and what their reader should know."""

    settings: dict[str, Settings]
    notes: tuple[str, ...] = ()


class Factor(NamedTuple):
    """A question to the network, and the levels that answer it."""

    question: str
    levels: Callable[["ConfigDict", Shape], Levels]


# Strengths that an augmentation gets alone where the config has it switched off: those of configs/imagenet.py.
STRENGTHS = {"crop": 1.0, "flip": 0.5, "rotation": 10.0, "shift": 0.05, "colour": 0.1, "whitening": 1.0}
CHARACTERS = ("digits", "mnist", "emnist", "kmnist", "svhn")  # datasets whose mirror images mean something else, or nothing
# What pixels are divided by for unit variance, where the config doesn't divide them: the standard deviation of ImageNet's is about 74.
PIXEL_STD = 74.0


def _lrn(config: "ConfigDict", shape: Shape) -> Levels:
    """The config's constants on the 0-255 scale; the same applied to unit-variance pixels, the common mistake; no LRN.

    The model multiplies alpha by the square of what pixels are divided by, so that LRN is the same function of the picture on any scale.
    Dividing alpha by that square takes this back.
    """
    _need_lrn("lrn", config)
    model = config.model
    scale = max(model.pixel_scale) if isinstance(model.pixel_scale, tuple) else model.pixel_scale
    unit = model.lrn_alpha / (PIXEL_STD if scale == 1 else scale) ** 2
    return Levels({"0-255 scale": {}, "unit scale": {"lrn_alpha": f"{unit:.6g}"}, "off": {"lrn": "off"}})


def _need_lrn(factor: str, config: "ConfigDict") -> None:
    if not config.model.lrn:
        raise UserError(f"factor {factor}: the config has no LRN (model.lrn=False); add --config.model.lrn=True")


def _augment(config: "ConfigDict", shape: Shape) -> Levels:
    """All that the config has, nothing, and each augmentation alone."""
    strengths, notes = dict[str, float](), []
    for name, default in STRENGTHS.items():
        if reason := _senseless(name, config, shape):
            notes.append(f"{name} is not tried: {reason}")
        else:
            strengths[name] = config.augment[name] or default
    off = dict.fromkeys(STRENGTHS, "0")
    alone = {f"{name} {strength:g} alone": off | {name: f"{strength:g}"} for name, strength in strengths.items()}
    if "whitening" in strengths:
        notes.append("whitening is no random change: it is applied to the test images too")
    return Levels({"as configured": {}, "none": {"augment": "off"}, **alone}, tuple(notes))


def _senseless(augmentation: str, config: "ConfigDict", shape: Shape) -> str | None:
    """Why an augmentation can do nothing here, or nothing good."""
    if augmentation == "crop" and min(shape[:2]) <= config.model.input_size:
        return f"the stored images have no margin around the input's {config.model.input_size} pixels"
    if augmentation == "flip" and config.data.name in CHARACTERS:
        return "a mirrored character is another one, or none"
    if augmentation == "colour" and shape[2] != 3:
        return "the images are grey"
    return None


def _dropout(config: "ConfigDict", shape: Shape) -> Levels:
    rate = config.model.dropout or 0.5
    return Levels({f"dropout {rate:g}": {"dropout": f"{rate:g}"}, "off": {"dropout": "0"}})


def _activation(config: "ConfigDict", shape: Shape) -> Levels:
    note = "one learning rate suits one of the two better: --rates gives each its own, as `reproduce figure1` does"
    return Levels({name: {"model.activation": name} for name in ("relu", "tanh")}, (note,))


def _overlap(config: "ConfigDict", shape: Shape) -> Levels:
    pools = {f"{size}x{size}, stride 2": {"model.pool_size": str(size), "model.pool_stride": "2"} for size in (3, 2)}
    return Levels(pools, ("pools of 2 leave larger maps, so fc6 has more weights, drawn otherwise: seeds pair the images alone",))


def _order(config: "ConfigDict", shape: Shape) -> Levels:
    _need_lrn("order", config)
    return Levels({name.replace("_", " "): {"model.lrn_order": name} for name in ("after_pool", "before_pool")})


def _colour(config: "ConfigDict", shape: Shape) -> Levels:
    if reason := _senseless("colour", config, shape):
        raise UserError(f"factor colour: {reason}; it needs a dataset of colour images")
    sigma = config.augment.colour or STRENGTHS["colour"]
    return Levels({f"PCA colour {sigma:g}": {"colour": f"{sigma:g}"}, "off": {"colour": "0"}})


def _ensemble(config: "ConfigDict", shape: Shape) -> Levels:
    return Levels({"as configured": {}})


FACTORS = {
    "lrn": Factor("Does local response normalisation matter?", _lrn),
    "augment": Factor("Which augmentation matters?", _augment),
    "dropout": Factor("Does dropout matter?", _dropout),
    "activation": Factor("ReLU or tanh?", _activation),
    "overlap": Factor("Do overlapping pools matter?", _overlap),
    "order": Factor("LRN after the pool or before it?", _order),
    "colour": Factor("Does PCA colour matter?", _colour),
    "ensemble": Factor("What do more networks bring?", _ensemble),
}
