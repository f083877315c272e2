"""On what a published claim is tested: a dataset, a config changed for a scale, and in what that differs from the paper's protocol."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, did_you_mean
from experiments.ablate import study
from experiments.ablate.factors import CHARACTERS
from experiments.launch import points
from experiments.launch.points import Point, Program

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from alexnet_jax.data import Dataset

# What --scale quick changes of a dataset's config: fewer images and epochs, narrower networks. Others get QUICK_ELSEWHERE.
QUICK = {
    "digits": ("train.epochs=12",),
    "fashion_mnist": ("data.train_split=train[:10000]", "model.width=0.125", "train.epochs=6"),
}
QUICK_ELSEWHERE = ("train.epochs=5",)


class Setting(NamedTuple):
    """On what a claim is tested, and how that is trained."""

    config: str  # a config file
    overrides: tuple[str, ...]
    seeds: int
    root: Path  # the baseline's runs go into root/runs, results into root/TARGET
    args: argparse.Namespace  # arguments.py's

    @property
    def loaded(self) -> "ConfigDict":
        return config_lib.load(self.config, self.overrides)

    @property
    def dataset(self) -> "Dataset":
        from alexnet_jax import data

        return data.load(self.loaded.data)

    @property
    def images(self) -> int:
        """Training images."""
        return len(self.dataset.source(self.loaded.data.train_split))

    @property
    def baseline(self) -> Program:
        """The config as it is, with all seeds in one run."""
        (program,) = points.pack(
            self.config, self.overrides, [Point(study.BASE, {})], self.seeds, self.root / "runs", self.args.max_members
        )
        return program


def make(dataset: str, scale: str, seeds: int, out: Path, overrides: Sequence[str], args: argparse.Namespace) -> Setting:
    """The setting of a dataset at a scale, `quick` or `full`; `overrides` come last.

    Raises:
      UserError: a dataset that has neither a config nor was prepared, or overrides that don't fit its config.
    """
    config, own = _config_of(dataset, overrides)
    quick = QUICK.get(dataset, QUICK_ELSEWHERE) if scale == "quick" else ()
    setting = Setting(config, changed((*own, *quick), overrides), seeds, out / f"{dataset}-{scale}", args)
    _ = setting.loaded
    return setting


def changed(overrides: Sequence[str], later: Sequence[str]) -> tuple[str, ...]:
    """Overrides with later ones in the place of those of the same field."""
    return tuple({override.partition("=")[0]: override for override in (*overrides, *later)}.values())


def _config_of(dataset: str, overrides: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """The config file of a dataset, and what has to be changed in it.

    A prepared dataset without a config of its own gets ImageNet's, or Fashion-MNIST's where its images are too small for that.
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


def differences(setting: Setting, *notes: str) -> list[str]:
    """In what the protocol differs from the paper's, in words; `notes` are the target's own."""
    config, dataset = setting.loaded, setting.dataset
    height, _, channels = dataset.image_shape
    towers = "one tower" if config.model.groups == 1 else f"{config.model.groups} towers"
    images = f"{len(dataset.classes)} classes, {height} pixels, {'colour' if channels == 3 else 'grey'}, {setting.images:,} to train on"
    lines = [
        f"images: {dataset.name}, {images}; the paper's: 1000 classes, 256 pixels, colour, 1.2 million",
        f"training: at most {config.train.epochs:g} epochs in batches of {config.train.batch_size}; the paper's: about 90, of 128",
        f"network: {config.model.input_size} pixels, {config.model.width:g} times as wide, {towers}; the paper's: 224 pixels, two towers",
    ]
    return ["", "how the protocols differ:", *(f"  - {line}" for line in (*lines, *notes))]
