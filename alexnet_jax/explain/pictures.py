"""The pictures that are explained: files, or examples of the run's dataset.

The command (__main__.py) calls it:

    pictures = from_split(subject, "test[:8]", data_dir=None)
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax import data, run
from alexnet_jax.images import load_resized
from alexnet_jax.report.style import printable
from alexnet_jax.subject import Subject, open_dataset


class Picture(NamedTuple):
    """A picture in the form of the run's dataset, and its class where that is known."""

    name: str  # of its files, unique among the pictures
    title: str
    image: np.ndarray  # uint8 (height, width, C)
    label: str | None = None


def from_files(subject: Subject, files: Sequence[Path]) -> list[Picture]:
    """Load pictures in the form of the run's dataset.

    Raises:
      UserError: one of them is not a picture.
    """
    resize = data.resize_of(run.read_config(subject.run.workdir)["dataset"])
    found: list[Picture] = []
    for file in files:
        stem = re.sub(r"[^\w.-]+", "_", printable(file.stem)) or "picture"
        name, taken = stem, {picture.name for picture in found}
        for number in range(2, len(files) + 2):
            if name not in taken:
                break
            name = f"{stem}-{number}"
        found.append(Picture(name, file.name, load_resized(file, resize, subject.channels)))
    return found


def from_split(subject: Subject, split: str, data_dir: Path | None) -> list[Picture]:
    """The examples of a slice of a split, such as `test[:4]`.

    Raises:
      UserError: there is no such split, or the dataset can't be opened.
    """
    dataset = open_dataset(subject, data_dir)
    source = dataset.source(split)
    examples = source.gather(np.arange(len(source)))
    name = re.sub(r"\W+", "_", split).strip("_")
    return [
        Picture(f"{name}-{i}", f"{split}, image {i}", image, dataset.labels[label])
        for i, (image, label) in enumerate(zip(examples["image"], examples["label"], strict=True))
    ]
