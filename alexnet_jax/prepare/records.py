"""The dataset format, as it is written: TFDS metadata beside array_record shards of fixed-size uint8 images.

`tfds.builder_from_directory` opens a dataset that `write` made; no TensorFlow is needed to write or to read it. The shards are written here
and not by a TFDS builder, which wants TensorFlow to shuffle more than 1 GB; data.py reads them.
"""

import contextlib
import functools
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_jax.errors import UserError
from alexnet_jax.locks import locked
from alexnet_jax.prepare.images import ImageError
from alexnet_jax.prepare.pixel_stats import Moments
from alexnet_jax.prepare.workers import worker_map
from alexnet_jax.progress import ImageBar

VERSION = "1.0.0"
SEED = 0  # of the records' order and of the held-out examples: the same source always gives the same bytes
JPEG_QUALITY = 95
SHARD_RECORDS = 4096  # array_record's time to read one record grows with its shard: 15 us here, 115 us in a shard of 55,000
CORRUPT_LIST = "corrupt.txt"
CHUNK = 32  # images a worker takes at a time


@dataclass(frozen=True)
class RawDataset:
    """Raw images that are to become a dataset: all that is known of them before the first is decoded."""

    classes: Sequence[str]
    shape: tuple[int, int, int]
    splits: Mapping[str, Sequence[Any]]  # split -> items
    load: Callable[[Any], tuple[np.ndarray, int]]  # item -> (uint8 image of `shape`, label); pickled to the worker processes
    encoding: str  # raw, jpeg or png: how an image lies in its record
    source: str  # where the images came from; no path, since the dataset may move to another machine
    protocol: str  # how they came to their size


# Encoding, in parallel


@dataclass
class Chunk:
    """What a worker makes of some items."""

    records: list[bytes]
    moments: Moments
    corrupt: list[str]  # the messages of the images left out


def _encode_chunk(load: Callable[[Any], tuple[np.ndarray, int]], encoding: str, skip_corrupt: bool, items: Sequence[Any]) -> Chunk:
    chunk = Chunk([], Moments(), [])
    for item in items:
        try:
            image, label = load(item)
        except ImageError as error:
            if not skip_corrupt:
                raise
            chunk.corrupt.append(str(error))
        else:
            chunk.records.append(_record(_encode_image(image, encoding), label))
            chunk.moments += Moments.of(image)
    return chunk


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
    """Encode and write every split, in a fixed shuffled order that mixes the classes in each shard. Returns `target`.

    The same raw dataset gives the same bytes, whatever the number of workers. `target` appears whole or not at all.

    Raises:
      ImageError: an image could not be decoded, and `skip_corrupt` is false.
      UserError: the dataset exists already and `overwrite` is false; the disk is full; a split has no image.
    """
    encode = functools.partial(_encode_chunk, raw.load, raw.encoding, skip_corrupt)
    with _building(target, overwrite) as folder, worker_map(workers) as map_in_order:
        infos, statistics, corrupt = [], {}, []
        for split, items in raw.splits.items():
            order = np.random.default_rng(SEED).permutation(len(items)).tolist()
            chunks = ([items[i] for i in order[start : start + CHUNK]] for start in range(0, len(order), CHUNK))
            moments, shards = Moments(), _Shards(folder, target.parent.name, split)
            with ImageBar(len(items), split, every=10) as bar:
                bar.add(0)
                for chunk in map_in_order(encode, chunks):
                    shards.write(chunk.records)
                    moments += chunk.moments
                    corrupt += chunk.corrupt
                    bar.add(len(chunk.records) + len(chunk.corrupt))
            infos.append(shards.close())
            if split == "train":
                statistics = moments.statistics()
        _write_metadata(raw, folder, infos, statistics, corrupt)
    return target


def _write_metadata(raw: RawDataset, folder: Path, infos: list[Any], statistics: dict[str, Any], corrupt: list[str]) -> None:
    import tensorflow_datasets as tfds

    if raw.encoding == "raw":  # as bytes: by default TFDS would make each pixel an int64
        image = tfds.features.Tensor(shape=raw.shape, dtype=np.uint8, encoding="bytes")
    else:
        image = tfds.features.Image(shape=raw.shape, encoding_format=raw.encoding)
    stored = f"JPEG of quality {JPEG_QUALITY}" if raw.encoding == "jpeg" else raw.encoding
    with _disk_errors(folder):
        if corrupt:
            (folder / CORRUPT_LIST).write_text("\n".join(corrupt) + "\n")
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(names=list(raw.classes))}),
            split_infos=infos,
            version=VERSION,
            check_data=False,  # it would read with TensorFlow
            description=raw.source,
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(**statistics, source=raw.source, protocol=f"{raw.protocol}; stored as {stored}"),
        )


class _Shards:
    """Writes one split's records to NAME-SPLIT.array_record-00000-of-00002 and so on, SHARD_RECORDS in each."""

    def __init__(self, folder: Path, name: str, split: str):
        self.split, self.stem = split, folder / f"{name}-{split}.array_record"
        self.writer: Any = None
        self.lengths: list[int] = []  # records in each shard
        self.bytes = 0

    def write(self, records: list[bytes]) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        with _disk_errors(self.stem):
            for record in records:
                if self.writer is None:
                    # Uncompressed: JPEG and PNG are compressed, and raw pixels of 256x256 read three times as fast.
                    self.writer = ArrayRecordWriter(f"{self.stem}-{len(self.lengths):05d}", "group_size:1,uncompressed")
                    self.lengths.append(0)
                self.writer.write(record)
                self.lengths[-1] += 1
                self.bytes += len(record)
                if self.lengths[-1] == SHARD_RECORDS:
                    self.writer.close()
                    self.writer = None

    def close(self) -> Any:
        """Give the shards their final names, now that their number is known; returns the tfds.core.SplitInfo."""
        import tensorflow_datasets as tfds

        if not self.lengths:
            raise UserError(f"no image of the {self.split} split could be decoded; nothing is written")
        with _disk_errors(self.stem):
            if self.writer is not None:
                self.writer.close()
            for shard in range(len(self.lengths)):
                os.rename(f"{self.stem}-{shard:05d}", f"{self.stem}-{shard:05d}-of-{len(self.lengths):05d}")
        return tfds.core.SplitInfo(name=self.split, shard_lengths=self.lengths, num_bytes=self.bytes)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError("write() failed: No space left on device; ...")
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        raise UserError(f"cannot write {path}: {reason}; make room or choose another --data-dir") from None


def refuse_existing(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists already; delete it or pass --overwrite")


@contextlib.contextmanager
def _building(target: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary directory beside `target` that takes its place when all went well, so that a killed run leaves nothing half done there.

    A lock keeps a second process from the same dataset: it waits, then finds it finished.
    """
    folder, replaced = target.with_name(f".incomplete-{VERSION}"), target.with_name(f".replaced-{VERSION}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(target.with_name(".lock"), f"waiting for another process that prepares {target}", wait=True))
        refuse_existing(target, overwrite)
        with _disk_errors(target):
            for stale in (folder, replaced):
                shutil.rmtree(stale, ignore_errors=True)
            folder.mkdir()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder
        with _disk_errors(target):
            if target.exists():
                target.rename(replaced)
            folder.rename(target)
            shutil.rmtree(replaced, ignore_errors=True)
