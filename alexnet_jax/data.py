"""Opens a prepared dataset and makes this process's batches, from any position in the run's endless stream of examples.

The training loop takes its batches from `train_batches`; evaluation takes them from `eval_batches`:

    dataset = load(config.data)
    for batch in train_batches(dataset.source("train"), batch_size=128, seed=0, position=0, threads=2):
        batch["image"]    # uint8 (128, H, W, C)

The training stream is a pure function of the shuffle seed. Its example `index` is the same for every batch size and every number of
processes, also after a stop. So one number is a run's position in its data: how many examples all processes have taken.
"""

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.errors import UserError, missing_package, not_installed
from alexnet_jax.examples import Examples, places_of, shuffled, stratified_count
from alexnet_jax.images import Resize
from alexnet_jax.prepare.folders import sort_classes
from alexnet_jax.prepare.pixel_stats import PixelStats

READ_AHEAD = 2 << 30  # bytes of batches that are made ahead of training; at least two batches are made ahead


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared dataset: its description, and access to its examples."""

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]  # height, width, channels
    split_sizes: dict[str, int]
    stats: PixelStats  # of the training split
    builder: Any = dataclasses.field(repr=False, compare=False)
    class_words: tuple[str, ...] = ()  # what WordNet ids mean, where the classes are such
    resize: str = "shorter-side"  # how prepare brought the images to their size: `how` and `interpolation` of prepare's Resize
    interpolation: str = "bicubic"
    digests: dict[str, str] = dataclasses.field(default_factory=dict)  # of each split's images and labels; of old datasets there are none

    @property
    def labels(self) -> tuple[str, ...]:
        """What people are shown for each class, as `class_labels` says."""
        return class_labels({"classes": self.classes, "class_words": self.class_words})

    def source(self, split: str) -> Examples:
        """Random access to the examples of a split, or of a part of one.

        A part is a slice in TFDS's notation, `train[:2000]` or `train[10%:]`, or `train[stratified:2000]`: of each class the first
        examples, so many that the classes have the same shares as in the whole split. A larger such part contains a smaller one.

        Raises:
          UserError: the dataset has no such split, or the part is empty or malformed.
        """
        name, _, _ = split.partition("[")
        if name not in self.split_sizes:
            raise UserError(f"dataset {self.name} has no split {name!r}; it has {', '.join(self.split_sizes)}")
        if count := stratified_count(split):
            if count > self.split_sizes[name]:
                raise UserError(f"{split!r} asks for more examples than {name} of dataset {self.name} has: {self.split_sizes[name]:,}")
            return Examples(self.builder, split, count)
        try:
            count = len(places_of(self.builder.info.splits, split))
        except (ValueError, AssertionError):
            raise UserError(
                f"{split!r} is not a part of a split; write for example {name}[:2000], {name}[10%:] or {name}[stratified:2000]; "
                f"{name} has {self.split_sizes[name]:,} examples"
            ) from None
        if count < 1:
            raise UserError(f"{split!r} holds no example; {name} of dataset {self.name} has {self.split_sizes[name]:,}")
        return Examples(self.builder, split, count)

    def describe(self) -> dict[str, Any]:
        """The description of the dataset that a run stores, as values for JSON. Fields that were added later are left out at their default,
        so that earlier runs still match.
        """
        stats = {field: np.asarray(value).tolist() for field, value in self.stats._asdict().items()}
        return {
            "name": self.name,
            "classes": list(self.classes),
            "image_shape": list(self.image_shape),
            "split_sizes": self.split_sizes,
            "stats": stats,
            **({"class_words": list(self.class_words)} if self.class_words else {}),
            **({"resize": self.resize} if self.resize != Dataset.resize else {}),
            **({"interpolation": self.interpolation} if self.interpolation != Dataset.interpolation else {}),
            **({"digests": self.digests} if self.digests else {}),
        }

    @property
    def digest(self) -> str:
        """Tells datasets of one name apart: SHA-256 of all that describes them but the mean, in whose place a run may have its own."""
        said = self.describe()
        said["stats"] = {field: value for field, value in said["stats"].items() if field != "mean"}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def load(section: ConfigDict, pixel_mean: tuple[float, ...] = ()) -> Dataset:
    """Open the dataset that a config's data section names. Scikit-learn's digits need no download and are prepared on first use.

    A `pixel_mean`, one number per channel, replaces the dataset's own mean.

    Raises:
      UserError: the dataset does not exist, or can't be read; or a package isn't installed that TFDS needs to read it.
    """
    import tensorflow_datasets as tfds

    from alexnet_jax.prepare.datasets import dataset_dir, prepare_digits

    directory = Path(dataset_dir(section.dir, section.name))
    if not os.path.isdir(directory):
        if section.name != "digits":
            raise UserError(f"no dataset at {directory}; make it with: {section.prepare} --data-dir {section.dir}")
        prepare_digits(section.dir)
    try:
        builder = tfds.builder_from_directory(directory)
        metadata, features = builder.info.metadata, builder.info.features
        classes = tuple(features["label"].names)
        _warn_of_order(section.name, classes)
        return Dataset(
            name=section.name,
            classes=classes,
            image_shape=features["image"].shape,
            split_sizes={name: split.num_examples for name, split in builder.info.splits.items()},
            stats=stats_from_json({"mean": pixel_mean or metadata["pixel_mean"], "std": metadata["pixel_std"], **metadata}),
            builder=builder,
            class_words=tuple(metadata.get("class_words", ())),
            digests=metadata.get("digests", {}),
            **{field: metadata[field] for field in ("resize", "interpolation") if metadata.get(field, "none") != "none"},
        )
    except ModuleNotFoundError as error:  # TFDS imports some packages only when it reads
        raise UserError(not_installed(missing_package(error))) from None
    except Exception as error:  # for a truncated file, TFDS passes on protobuf's own exceptions
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{directory} isn't a dataset that this project prepared ({reason}); delete it and run: {section.prepare}"
        ) from None


def comparable(*records: dict[str, Any]) -> list[dict[str, Any]]:
    """What `describe` says of some datasets, as far as it tells them apart: without the digests where one has none, since it was prepared
    before they were written, or where the classes are in another order, which gives the same images other labels.
    """
    told = all("digests" in record and record.get("classes") == records[0].get("classes") for record in records)
    return [{name: value for name, value in record.items() if told or name != "digests"} for record in records]


def class_labels(record: dict[str, Any]) -> tuple[str, ...]:
    """What people are shown for each class of a dataset that `describe` described: its name, and its words where it has any.

    n02119789: kit fox, Vulpes macrotis
    """
    words = record.get("class_words") or [""] * len(record["classes"])
    return tuple(f"{name}: {word}" if word else name for name, word in zip(record["classes"], words, strict=True))


def short_labels(classes: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Of each class the first of its words, or its name where it has none: what fits below a small picture.

    n02119789: kit fox, Vulpes macrotis -> kit fox
    """
    return tuple(
        label.removeprefix(f"{name}: ").split(",")[0] if label != name else name for name, label in zip(classes, labels, strict=True)
    )


def resize_of(record: dict[str, Any]) -> Resize:
    """How a picture is brought to the form of a dataset that `describe` described."""
    how = record.get("resize", Dataset.resize), record.get("interpolation", Dataset.interpolation)
    return Resize(min(record["image_shape"][:2]), *how)


def _warn_of_order(name: str, classes: tuple[str, ...]) -> None:
    """Datasets that were prepared before names that are numbers sorted as numbers."""
    if all(name.isdecimal() for name in classes) and classes == tuple(sorted(classes)) != (numbers := tuple(sort_classes(classes))):
        at = next(i for i, (one, other) in enumerate(zip(classes, numbers, strict=True)) if one != other)
        print(
            f"warning: the classes of dataset {name} are numbers in the order of text, so that label {at} is class {classes[at]}. evaluate "
            "refuses networks without class names unless --same-order says that they have this order; prepare the dataset again to have "
            "the order of numbers",
            file=sys.stderr,
        )


def stats_from_json(fields: dict[str, Any]) -> PixelStats:
    return PixelStats(*(np.asarray(fields[name], np.float32) for name in PixelStats._fields))


def train_batches(
    source: Examples, *, batch_size: int, seed: int, position: int, threads: int, process: tuple[int, int] = (0, 1)
) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of every global batch from `position` on, without end. Each epoch has its own shuffle.

    Args:
      source: the training split.
      batch_size: the size of the global batch.
      seed: the seed of the shuffle.
      position: how many examples of the stream all processes together have already taken.
      threads: how many threads read at once.
      process: (index, count). Process i of n takes examples i, n + i, 2n + i, ... of a global batch.

    Yields:
      `image` uint8 (B, H, W, C), `label` int32 (B,), `index` uint32 (B,): the example's place in the stream. B is batch_size / count.
    """

    def batch(places: np.ndarray) -> dict[str, np.ndarray]:
        return {**source.gather(stream_indices(len(source), seed, places)), "index": places.astype(np.uint32)}

    return _iterate(batch, source, sys.maxsize, batch_size, process, threads, position)


def stream_indices(size: int, seed: int, places: np.ndarray) -> np.ndarray:
    """The indices in a split of `size` examples at these places of a run's endless stream: int (N,) -> int64 (N,)."""
    return np.array([_epoch_order(size, seed, place // size)[place % size] for place in places.tolist()])


@functools.lru_cache(maxsize=2)  # a batch may begin in one epoch and end in the next
def _epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    return shuffled(size, (seed, epoch))


def blank_batch(batch_size: int, image_shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A training batch of zeros, to compile a program for its shapes."""
    return {
        "image": np.zeros((batch_size, *image_shape), np.uint8),
        "label": np.zeros(batch_size, np.int32),
        "index": np.zeros(batch_size, np.uint32),
    }


def eval_batches(
    source: Examples, *, batch_size: int, threads: int, process: tuple[int, int] = (0, 1), position: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of a whole split, once, in order, from the example `position` on.

    The first example pads the last batch; `mask` bool (B,) is false for padding.

    Every process yields the same number of batches, so that none waits for another. Arguments and fields are as in `train_batches`.
    """
    examples = len(source)

    def batch(places: np.ndarray) -> dict[str, np.ndarray]:
        mask = places < examples
        return {**source.gather(np.where(mask, places, 0)), "index": places.astype(np.uint32), "mask": mask}

    return _iterate(batch, source, -(-(examples - position) // batch_size), batch_size, process, threads, position)


def _iterate(
    batch: Callable[[np.ndarray], dict[str, np.ndarray]],
    source: Examples,
    batches: int,
    batch_size: int,
    process: tuple[int, int],
    threads: int,
    position: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Call `batch` with this process's places in each global batch from `position` on. Threads make some batches ahead.

    The unit of work is a whole batch, since grain spends about 10 us on each item that passes through one of its stages.
    """
    index, count = process
    share = index + count * np.arange(batch_size // count)
    ahead = max(2, min(2 * threads, READ_AHEAD // (len(share) * source.example_bytes)))
    made = grain.MapDataset.range(batches).map(lambda number: batch(position + number * batch_size + share))
    return iter(made.to_iter_dataset(grain.ReadOptions(num_threads=min(threads, ahead), prefetch_buffer_size=ahead)))
