"""The setting in which a published claim is measured: a dataset, its config at a scale, and how the protocol differs from the paper's.

The command (__main__.py) makes it, and the targets (figure1.py, claims.py) get it:

    setting = make("digits", "quick", seeds=3, out=Path("runs/reproduce"), overrides=[], args=args)
    setting.baselines[0].directory    # the run of the config itself, with the first order of the images
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, did_you_mean
from alexnet_jax.record import CONFIG, machine, read_config
from experiments.ablate import study
from experiments.ablate.factors import CHARACTERS
from experiments.launch import points
from experiments.launch.points import Point, Program

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from alexnet_jax.data import Dataset

# Overrides of --scale quick for a dataset's config: fewer images and epochs, narrower networks. Other datasets get QUICK_ELSEWHERE.
QUICK = {
    "digits": ("train.epochs=12",),
    "fashion_mnist": ("data.train_split=train[stratified:10000]", "model.width=0.125", "train.epochs=6"),
}
QUICK_ELSEWHERE = ("train.epochs=5",)


class Setting(NamedTuple):
    """The config on which a claim is measured, and how it is trained."""

    config: str  # a config file
    overrides: tuple[str, ...]
    seeds: int  # of each order of the images
    root: Path  # the baseline's runs go into root/runs, results into root/TARGET
    args: argparse.Namespace  # with the arguments of launch/arguments.py

    @property
    def loaded(self) -> "ConfigDict":
        return config_lib.load(self.config, self.overrides)

    @property
    def dataset(self) -> "Dataset":
        from alexnet_jax import data

        return data.load(self.loaded.data)

    @property
    def images(self) -> int:
        """The number of training images."""
        return len(self.dataset.source(self.loaded.data.train_split))

    @property
    def baselines(self) -> list[Program]:
        """The programs of the unchanged config: for each order of the images one run, with all its seeds."""
        return points.pack(
            self.config, self.overrides, [Point(study.BASE, {})], self.seeds, self.root / "runs", self.args.max_members, self.args.orders
        )


def make(dataset: str, scale: str, seeds: int, out: Path, overrides: Sequence[str], args: argparse.Namespace) -> Setting:
    """The setting for a dataset at a scale, `quick` or `full`. The user's `overrides` win over those of the scale.

    Raises:
      UserError: the dataset has no config file and was not prepared, or an override doesn't fit the config.
    """
    config, own = _config_of(dataset, overrides)
    quick = QUICK.get(dataset, QUICK_ELSEWHERE) if scale == "quick" else ()
    setting = Setting(config, changed((*own, *quick), overrides), seeds, out / f"{dataset}-{scale}", args)
    _ = setting.loaded
    return setting


def changed(overrides: Sequence[str], later: Sequence[str]) -> tuple[str, ...]:
    """Overrides in which later ones replace earlier ones of the same field."""
    return tuple({override.partition("=")[0]: override for override in (*overrides, *later)}.values())


def _config_of(dataset: str, overrides: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """The config file for a dataset, and the overrides that the dataset needs.

    A prepared dataset without its own config file uses ImageNet's, or Fashion-MNIST's if its images are too small for ImageNet's.
    """
    path = Path("configs") / f"{dataset}.py"
    if path.exists():
        return str(path), ()
    from alexnet_jax import data

    imagenet = config_lib.load(
        "configs/imagenet.py", [*(item for item in overrides if item.startswith("data.dir=")), f"data.name={dataset}"]
    )
    if not (Path(imagenet.data.dir) / dataset).exists():
        known = [file.stem for file in sorted(Path("configs").glob("*.py")) if file.stem != "__init__"]
        missing = f"neither {path} nor {Path(imagenet.data.dir) / dataset} exists"
        raise UserError(f"unknown dataset {dataset!r}: {missing}{did_you_mean(dataset, known)}")
    found = data.load(imagenet.data)
    large = min(found.image_shape[:2]) >= imagenet.model.input_size
    split = "test" if "test" in found.split_sizes else "validation"
    own = [f"data.name={dataset}", f"data.test_split={split}", *(["augment.flip=0"] if dataset in CHARACTERS else [])]
    return f"configs/{'imagenet' if large else 'fashion_mnist'}.py", tuple(own)


def machines(setting: Setting, target: str) -> str:
    """The machines that trained the runs of a target, in words."""
    runs = [path.parent for place in ("runs", target) for path in sorted((setting.root / place).rglob(CONFIG))]
    return " and ".join(dict.fromkeys(machine(read_config(directory)) for directory in runs))


def differences(setting: Setting, *notes: str, networks: str = "") -> list[str]:
    """The differences between this protocol and the paper's, in words; `notes` are those of the target, and so is what `networks` says."""
    config, dataset = setting.loaded, setting.dataset
    height, _, channels = dataset.image_shape
    towers = "one tower" if config.model.groups == 1 else f"{config.model.groups} towers"
    colour = "colour" if channels == 3 else "grey"
    images = f"{len(dataset.classes)} classes, {height} pixels high, {colour}, {setting.images:,} training images"
    orders, seeds = setting.args.orders, f"{setting.seeds} seed{'s' * (setting.seeds > 1)}"
    default = f"{seeds} in each of {orders} orders" if orders > 1 else f"{seeds} in one order of the images, so other orders may differ"
    size, width, batch = config.model.input_size, config.model.width, config.train.batch_size
    lines = [
        f"networks: {networks or default}",
        f"images: {dataset.name}, {images}; the paper's: 1000 classes, 256 pixels high, colour, 1.2 million training images",
        f"training: at most {config.train.epochs:g} epochs, batches of {batch}; the paper's: about 90 epochs, batches of 128",
        f"network: input of {size} x {size} pixels, width {width:g}, {towers}; the paper's: 224 x 224 pixels, width 1, two towers",
    ]
    return ["", "how the protocols differ:", *(f"  - {line}" for line in (*lines, *notes))]
