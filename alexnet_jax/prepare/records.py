"""The dataset format, as it is written: TFDS metadata beside array_record shards of fixed-size uint8 images.

`tfds.builder_from_directory` opens a dataset that `write` made; no TensorFlow is needed to write or to read it. The shards are written here
and not by a TFDS builder, which wants TensorFlow to shuffle more than 1 GB; data.py reads them.
"""

import functools
import io
import itertools
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from alexnet_jax.errors import UserError
from alexnet_jax.images import ImageError, Resize
from alexnet_jax.prepare.pixel_stats import Moments
from alexnet_jax.prepare.shards import SHARD_RECORDS, VERSION, LeftOut, Shards, Tally, building, disk_errors
from alexnet_jax.prepare.workers import worker_map
from alexnet_jax.progress import ImageBar

SEED = 0  # of the records' order and of the held-out examples: the same source always gives the same bytes
JPEG_QUALITY = 95
LEFT_OUT_LIST = "left_out.txt"
BROKEN = "broken image"
CHUNK = 32  # images a worker takes at a time
BYTES_PER_VALUE = {"raw": 1.0, "png": 0.7, "jpeg": 0.2}  # of photographs, roughly; values are pixels times channels


class Stream(Protocol):
    """A split that is read in its own order, which the dataset keeps: it is too large to be read in another."""

    by_class: bool  # one class comes after the other; data.py then reads the records in a fixed order that mixes them

    def __len__(self) -> int:
        """How many items are expected, for the progress; there may be others."""
        ...

    def after(self, place: Any) -> Iterator[tuple[Any, Any]]:
        """(place, item) of each item behind a place, or from the beginning (None). A place can be written as JSON."""
        ...


class Shuffled:
    """A split whose items are at hand, in a fixed order that mixes the classes in each shard. A place is how many were read."""

    by_class = False

    def __init__(self, items: Sequence[Any]):
        self._items, self._order = items, np.random.default_rng(SEED).permutation(len(items))

    def __len__(self) -> int:
        return len(self._items)

    def after(self, place: Any) -> Iterator[tuple[Any, Any]]:
        start = place or 0
        return ((count, self._items[i]) for count, i in enumerate(self._order[start:].tolist(), start + 1))


@dataclass(frozen=True)
class RawDataset:
    """Raw images that are to become a dataset: all that is known of them before the first is decoded."""

    classes: Sequence[str]
    shape: tuple[int, int, int]
    splits: Mapping[str, Sequence[Any] | Stream]  # split -> items, LeftOut among them where the source knows only now
    load: Callable[[Any], tuple[np.ndarray, int]]  # item -> (uint8 image of `shape`, label); pickled to the worker processes
    encoding: str  # raw, jpeg or png: how an image lies in its record
    source: str  # where the images came from; no path, since the dataset may move to another machine
    resize: Resize | None = None  # how they came to their size; None: as they are
    protocol: str = ""  # the same in words, where there is more to say
    left_out: Sequence[LeftOut] = ()
    class_words: Sequence[str] = ()  # what each class is called, where `classes` are WordNet ids
    plan: str = ""  # all that decides about the dataset's bytes, so that a killed prepare can go on; empty: it begins anew
    check: Callable[[Mapping[str, Tally]], None] | None = None  # raises UserError where a split lacks images


# Encoding, in parallel


class Chunk(NamedTuple):
    """What a worker makes of some items."""

    items: int
    records: list[bytes]
    tally: Tally


def encode_chunk(load: Callable[[Any], tuple[np.ndarray, int]], encoding: str, skip_corrupt: bool, items: Sequence[Any]) -> Chunk:
    """In a worker: the records of some items."""
    chunk = Chunk(len(items), [], Tally())
    for item in items:
        if isinstance(item, LeftOut):  # by the source
            chunk.tally.left_out.append(item)
            continue
        try:
            image, label = load(item)
        except ImageError as error:
            if not skip_corrupt:
                raise
            chunk.tally.left_out.append(LeftOut(BROKEN, str(error)))
        else:
            chunk.records.append(_record(_encode_image(image, encoding), label))
            chunk.tally.moments += Moments.of(image)
            chunk.tally.labels[label] += 1
    return chunk


def default_encoding(size: int) -> str:
    return "raw" if size <= 64 else "jpeg"  # small images read faster raw and lose nothing; at 256 JPEG takes a sixth of the bytes


def _encode_image(image: np.ndarray, encoding: str) -> bytes:
    if encoding == "raw":
        return image.tobytes()
    buffer = io.BytesIO()
    Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(buffer, encoding, quality=JPEG_QUALITY)
    return buffer.getvalue()


def _record(image: bytes, label: int) -> bytes:
    """The tf.Example that TFDS's Features would make, always with the same bytes."""
    from tensorflow_datasets.proto import tf_example_pb2 as example
    from tensorflow_datasets.proto import tf_feature_pb2 as proto

    feature = {
        "image": proto.Feature(bytes_list=proto.BytesList(value=[image])),
        "label": proto.Feature(int64_list=proto.Int64List(value=[label])),
    }
    return example.Example(features=proto.Features(feature=feature)).SerializeToString(deterministic=True)


# Writing


def write(raw: RawDataset, target: Path, *, workers: int = 1, skip_corrupt: bool = False, overwrite: bool = False) -> Path:
    """Encode and write every split. Returns `target`.

    The same raw dataset gives the same bytes, whatever the number of workers, and however often it was killed and begun again. `target`
    appears whole or not at all.

    Raises:
      ImageError: an image could not be decoded, and `skip_corrupt` is false.
      UserError: the dataset exists already and `overwrite` is false; the disk is full or too small; a split has no image;
        there is one class only.
    """
    if len(raw.classes) < 2:
        raise UserError(
            f"there is one class only, {raw.classes[0]!r}, and so nothing to learn; give the images of each class a folder, or a label, of "
            "their own"
        )
    encode = functools.partial(encode_chunk, raw.load, raw.encoding, skip_corrupt)
    splits = {split: Shuffled(items) if isinstance(items, Sequence) else items for split, items in raw.splits.items()}
    with building(target, overwrite, raw.plan) as folder, worker_map(workers) as map_in_order:
        shards = {split: Shards(folder, target.parent.name, split) for split in splits}
        _check_room(raw, sum(map(len, splits.values())), sum(one.size for one in shards.values()), target)
        for split, items in splits.items():
            _write_split(items, shards[split], functools.partial(map_in_order, encode), skip_corrupt)
        if raw.check:
            raw.check({split: one.tally for split, one in shards.items()})
        _write_metadata(raw, folder, shards, [split for split in splits if splits[split].by_class])
    return target


def _write_split(stream: Stream, shards: Shards, encode: Callable[[Iterable[Sequence[Any]]], Iterator[Chunk]], skip_corrupt: bool) -> None:
    """The items behind those of the finished shards, chunk by chunk."""
    if not skip_corrupt and (broken := next((one for one in shards.tally.left_out if one.reason == BROKEN), None)):
        raise ImageError(broken.what)
    places: deque[Any] = deque()  # where each chunk ends that was given to the workers

    def chunks() -> Iterator[list[Any]]:
        items, taken = stream.after(shards.place), 0
        while chunk := list(itertools.islice(items, min(CHUNK, SHARD_RECORDS - taken % SHARD_RECORDS))):  # none lies in two shards
            taken += len(chunk)
            places.append(chunk[-1][0])
            yield [item for _, item in chunk]

    done, tally, place = 0, Tally(), None
    with ImageBar(len(stream), shards.split, every=10, done=shards.items) as bar:
        bar.add(0)
        for chunk in encode(chunks()):
            shards.write(chunk.records)
            done, tally, place = done + chunk.items, tally + chunk.tally, places.popleft()
            if done == SHARD_RECORDS:
                shards.finish(done, tally, place)
                done, tally = 0, Tally()
            bar.add(chunk.items)
    if done:
        shards.finish(done, tally, place)


def _check_room(raw: RawDataset, images: int, written: int, target: Path) -> None:
    """Say how much will be written, where it is much, and refuse to begin where it doesn't fit.

    Raises:
      UserError: the disk is too small.
    """
    needed = int(images * np.prod(raw.shape) * BYTES_PER_VALUE[raw.encoding]) - written
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise UserError(
            f"{images:,} images take about {needed / 1e9:,.1f} GB more in {target.parent}, where {free / 1e9:,.1f} GB are free; make room, "
            "choose another --data-dir, or a smaller --size"
        )
    if needed > 1e9:
        print(
            f"{images:,} images will take about {needed / 1e9:,.0f} GB in {target.parent}; {free / 1e9:,.0f} GB are free", file=sys.stderr
        )


def _write_metadata(raw: RawDataset, folder: Path, shards: dict[str, Shards], by_class: list[str]) -> None:
    import tensorflow_datasets as tfds

    infos = [one.close() for one in shards.values()]
    if raw.encoding == "raw":  # as bytes: by default TFDS would make each pixel an int64
        image = tfds.features.Tensor(shape=raw.shape, dtype=np.uint8, encoding="bytes")
    else:
        image = tfds.features.Image(shape=raw.shape, encoding_format=raw.encoding)
    protocol = raw.protocol or (raw.resize.protocol() if raw.resize else "pixels as they are")
    stored = f"JPEG of quality {JPEG_QUALITY}" if raw.encoding == "jpeg" else raw.encoding
    left_out = [*raw.left_out, *(one for each in shards.values() for one in each.tally.left_out)]
    optional = {"class_words": list(raw.class_words), "by_class": by_class}
    with disk_errors(folder):
        if left_out:
            (folder / LEFT_OUT_LIST).write_text("".join(f"{reason}\t{what}\n" for reason, what in left_out), "utf-8")
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(names=list(raw.classes))}),
            split_infos=infos,
            version=VERSION,
            check_data=False,  # it would read with TensorFlow
            description=raw.source,
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(
                **shards["train"].tally.moments.statistics(),
                digests={split: one.digest for split, one in shards.items()},
                source=raw.source,
                protocol=f"{protocol}; stored as {stored}",
                resize=raw.resize.how if raw.resize else "none",
                interpolation=raw.resize.interpolation if raw.resize else "none",
                **{field: value for field, value in optional.items() if value},
            ),
        )
