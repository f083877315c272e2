"""The factors that `experiments.ablate` can vary. study.py turns their levels into points to train.

A factor is a function of the config and of the images' shape (height, width, channels). It returns levels: for each level the settings that
change the config (see launch/points.py). The first level is the reference.

    levels, notes = FACTORS["dropout"].levels(config, (28, 28, 1))
    levels    # {"dropout 0.5": {"dropout": "0.5"}, "off": {"dropout": "0"}}
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from alexnet_jax.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

Shape = tuple[int, ...]
Settings = dict[str, str]


class Levels(NamedTuple):
    """The settings of a factor's levels, by the level's name, the reference first; and notes for the reader of the results."""

    settings: dict[str, Settings]
    notes: tuple[str, ...] = ()


class Factor(NamedTuple):
    """A question, and the levels whose comparison answers it."""

    question: str
    levels: Callable[["ConfigDict", Shape], Levels]


# The strength of an augmentation that is tried alone, if the config has it switched off: the strengths of configs/imagenet.py.
STRENGTHS = {"crop": 1.0, "flip": 0.5, "rotation": 10.0, "shift": 0.05, "colour": 0.1, "whitening": 1.0}
CHARACTERS = ("digits", "mnist", "emnist", "kmnist", "svhn")  # datasets of characters: a mirrored one is another character, or none
PAPER_DROPS, PAPER_EPOCHS = (25, 51, 79), 90  # when the 2012 run's rate was divided by ten, of so many epochs


def _lrn(config: "ConfigDict", shape: Shape) -> Levels:
    """The reference divides by the constant k^beta alone, with alpha = 0. So each other level differs from it in one thing.

    LRN normalises too. "off" has no division. "off, scaled start" has none either, but its initial network is the reference's: the initial
    weights of conv1 and conv2 are divided by k^beta instead. LRN with its constants for 0-255 pixels on pixels of unit variance, a common
    mistake, is the reference to within a percent.
    """
    _need_lrn("lrn", config)
    divisor = config.model.lrn_k**config.model.lrn_beta
    settings: dict[str, Settings] = {
        "constant": {"lrn_alpha": "0"},
        "LRN": {},
        "off, scaled start": {"lrn": "off", "model.early_gain": f"{config.model.early_gain / divisor:.8g}"},
        "off": {"lrn": "off"},
    }
    note = (
        f"constant: divides by k^beta = {divisor:.2f} after conv1 and after conv2, and normalises nothing. So LRN shows what normalising "
        "does, off what this division does, and off with a scaled start whether a smaller initialisation does the same as the division"
    )
    return Levels(settings, (note,))


def _need_lrn(factor: str, config: "ConfigDict") -> None:
    if not config.model.lrn:
        raise UserError(f"factor {factor}: the config has no LRN (model.lrn=False); add --config.model.lrn=True")


def _augment(config: "ConfigDict", shape: Shape) -> Levels:
    """All augmentations of the config, none, and each augmentation alone."""
    strengths, notes = dict[str, float](), []
    for name, default in STRENGTHS.items():
        if reason := _senseless(name, config, shape):
            notes.append(f"{name} is not tried: {reason}")
        else:
            strengths[name] = config.augment[name] or default
    off = dict.fromkeys(STRENGTHS, "0")
    alone = {f"{name} {strength:g} alone": off | {name: f"{strength:g}"} for name, strength in strengths.items()}
    if "whitening" in strengths:
        notes.append("whitening isn't random: it is applied to the test images too")
    return Levels({"as configured": {}, "none": {"augment": "off"}, **alone}, tuple(notes))


def _senseless(augmentation: str, config: "ConfigDict", shape: Shape) -> str | None:
    """Why an augmentation has no effect on these images, or makes no sense for them; None if it is useful."""
    if augmentation == "crop" and min(shape[:2]) <= config.model.input_size:
        return f"the stored images aren't larger than the network's input of {config.model.input_size} pixels"
    if augmentation == "flip" and config.data.name in CHARACTERS:
        return "a mirrored character is a different character, or none"
    if augmentation == "colour" and shape[2] != 3:
        return "the images are grey"
    return None


def _dropout(config: "ConfigDict", shape: Shape) -> Levels:
    rate = config.model.dropout or 0.5
    return Levels({f"dropout {rate:g}": {"dropout": f"{rate:g}"}, "off": {"dropout": "0"}})


def _activation(config: "ConfigDict", shape: Shape) -> Levels:
    note = "the best learning rate differs between the two, so each needs its own (--rates), as in `reproduce figure1`"
    return Levels({name: {"model.activation": name} for name in ("relu", "tanh")}, (note,))


def _overlap(config: "ConfigDict", shape: Shape) -> Levels:
    pools = {f"{size}x{size}, stride 2": {"model.pool_size": str(size), "model.pool_stride": "2"} for size in (3, 2)}
    note = (
        "with pools of 2 the maps are larger, so fc6 has more weights and other initial values: paired seeds share only the other layers' "
        "initial weights and the images"
    )
    return Levels(pools, (note,))


def _order(config: "ConfigDict", shape: Shape) -> Levels:
    _need_lrn("order", config)
    return Levels({name.replace("_", " "): {"model.lrn_order": name} for name in ("after_pool", "before_pool")})


def _precision(config: "ConfigDict", shape: Shape) -> Levels:
    note = "bfloat16: of activations and products; parameters, sums and the loss are float32 in both"
    return Levels({name: {"model.dtype": name} for name in ("float32", "bfloat16")}, (note,))


def _any_augment(config: "ConfigDict", shape: Shape) -> Levels:
    return Levels({"as configured": {}, "none": {"augment": "off"}})


def _drops(config: "ConfigDict", shape: Shape) -> Levels:
    """Ways to lower the learning rate. The paper's three drops come at the same fractions of the training as in 2012."""
    epochs = tuple(float(f"{epoch / PAPER_EPOCHS * config.train.epochs:.6g}") for epoch in PAPER_DROPS)
    by_step = {"plateau.mode": "manual"}
    note = "plateau: a network whose rate has dropped for the last time and that plateaus once more is done before the last epoch"
    return Levels(
        {
            "plateau": {"optimizer.schedule": "constant", "plateau.mode": "auto"},
            "constant": {"optimizer.schedule": "constant"} | by_step,
            "three drops": {"optimizer.schedule": "fixed", "optimizer.drop_epochs": str(epochs)} | by_step,
            "linear": {"optimizer.schedule": "poly", "optimizer.poly_power": "1"} | by_step,
        },
        (note,),
    )


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
    "any_augment": Factor("Does augmentation matter?", _any_augment),
    "dropout": Factor("Does dropout matter?", _dropout),
    "drops": Factor("How should the learning rate fall?", _drops),
    "activation": Factor("ReLU or tanh?", _activation),
    "overlap": Factor("Do overlapping pools matter?", _overlap),
    "order": Factor("LRN after the pool or before it?", _order),
    "colour": Factor("Does PCA colour matter?", _colour),
    "precision": Factor("Is bfloat16 as good as float32?", _precision),
    "ensemble": Factor("What do more networks bring?", _ensemble),
}
