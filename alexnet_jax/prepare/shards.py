"""The files of a dataset while it is made: array_record shards, a journal of those that are finished, and a directory that appears at once.

A prepare that was killed, or ran out of disk, goes on behind its last finished shard where its source can be recognised (`plan`): the
journal holds, for each shard, where in the source it ended and all that the dataset's metadata will want of it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.locks import locked
from alexnet_jax.prepare.pixel_stats import Moments

VERSION = "1.0.0"
SHARD_RECORDS = 4096  # array_record's time to read one record grows with its shard: 15 us here, 115 us in a shard of 55,000
JOURNAL, PLAN = ".journal.jsonl", ".plan"


class LeftOut(NamedTuple):
    """A file, or a folder of files, that isn't part of the dataset."""

    reason: str  # for the summary, which counts by it
    what: str  # on one line


@dataclass
class Tally:
    """What is known of some items that were encoded."""

    moments: Moments = field(default_factory=Moments)
    labels: Counter[int] = field(default_factory=Counter)  # images of each label
    left_out: list[LeftOut] = field(default_factory=list)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.moments + other.moments, self.labels + other.labels, self.left_out + other.left_out)

    def to_json(self) -> dict[str, Any]:
        total, products = self.moments.total.tolist(), self.moments.products.tolist()
        return {"moments": [self.moments.count, total, products], "labels": list(self.labels.items()), "left_out": self.left_out}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Tally":
        count, total, products = record["moments"]
        moments = Moments(count, np.array(total, np.int64), np.array(products, np.int64))
        return cls(moments, Counter(dict(record["labels"])), [LeftOut(*one) for one in record["left_out"]])


class Shards:
    """Writes one split's records to NAME-SPLIT.array_record-00000-of-00002 and so on.

    A shard takes what can be decoded of SHARD_RECORDS items of the source, so that what it holds depends on no other. `items`, `tally`,
    `place` tell of the finished shards, of an earlier process too, `size` of their records in bytes.
    """

    def __init__(self, folder: Path, name: str, split: str):
        self.split, self.stem = split, folder / f"{name}-{split}.array_record"
        self._journal = folder / JOURNAL
        self._writer: Any = None
        self._lengths: list[int] = []  # records in each shard
        self._digests: list[str] = []  # of each shard's records
        self._begin()
        self.items, self.size, self.tally, self.place = 0, 0, Tally(), None
        for record in _read_journal(self._journal):
            if record["split"] == split and not self._take(record):
                break

    def _begin(self) -> None:
        """Begin a shard."""
        self._records = [0, 0]  # records, and their bytes
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """Of the records of the finished shards, their images and their labels: it tells whether two splits are the same."""
        return hashlib.blake2b("".join(self._digests).encode(), digest_size=16).hexdigest()

    def write(self, records: list[bytes]) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        with disk_errors(self.stem):
            for record in records:
                if self._writer is None:
                    # Uncompressed: JPEG and PNG are compressed, and raw pixels of 256x256 read three times as fast.
                    self._writer = ArrayRecordWriter(self._path(len(self._lengths)), "group_size:1,uncompressed")
                self._writer.write(record)
                self._records[0] += 1
                self._records[1] += len(record)
                self._digest.update(len(record).to_bytes(8, "little") + record)

    def finish(self, items: int, tally: Tally, place: Any) -> None:
        """The shard is complete: it was made of so many items, the last of them from `place` of the source."""
        with disk_errors(self.stem):
            size = 0
            if self._writer is not None:
                self._writer.close()
                self._writer = None
                size = os.path.getsize(self._path(len(self._lengths)))
            written = {"records": self._records, "size": size, "digest": self._digest.hexdigest()}
            record = {"split": self.split, "items": items, **written, "place": place, **tally.to_json()}
            with self._journal.open("a") as journal:
                journal.write(json.dumps(record) + "\n")
        self._begin()
        self._take(json.loads(json.dumps(record)))

    def close(self) -> Any:
        """Give the shards their final names, now that their number is known; returns the tfds.core.SplitInfo."""
        import tensorflow_datasets as tfds

        if not self._lengths:
            raise UserError(f"no image of the {self.split} split could be decoded; nothing is written")
        with disk_errors(self.stem):
            for shard in range(len(self._lengths)):
                os.rename(self._path(shard), f"{self._path(shard)}-of-{len(self._lengths):05d}")
        return tfds.core.SplitInfo(name=self.split, shard_lengths=self._lengths, num_bytes=self.size)

    def _take(self, record: dict[str, Any]) -> bool:
        """Count a finished shard in; False where its file isn't there as it was written."""
        count, size = record["records"]
        path = self._path(len(self._lengths))
        if count and not (os.path.isfile(path) and os.path.getsize(path) == record["size"]):
            return False
        if count:  # a shard of broken images alone has no file
            self._lengths.append(count)
            self._digests.append(record["digest"])
            self.size += size
        self.items += record["items"]
        self.tally += Tally.from_json(record)
        self.place = record["place"]
        return True

    def _path(self, shard: int) -> str:
        return f"{self.stem}-{shard:05d}"


def _read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Its whole lines: a kill may have cut the last one off."""
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError("write() failed: No space left on device; ...")
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        raise UserError(f"cannot write {path}: {reason}; make room or choose another --data-dir") from None


def refuse_existing(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists already; delete it or pass --overwrite")


@contextlib.contextmanager
def building(target: Path, overwrite: bool, plan: str = "") -> Iterator[Path]:
    """A temporary directory beside `target` that takes its place when all went well, so that a killed run leaves nothing half done there.

    A lock keeps a second process from the same dataset: it waits, then finds it finished. With a `plan`, which says all that decides about
    the dataset's bytes, the directory is kept where it didn't go well, and found again by the next one of the same plan.
    """
    folder, replaced = target.with_name(f".incomplete-{VERSION}"), target.with_name(f".replaced-{VERSION}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(target.with_name(".lock"), f"waiting for another process that prepares {target}", wait=True))
        refuse_existing(target, overwrite)
        with disk_errors(target):
            shutil.rmtree(replaced, ignore_errors=True)
            if not plan or not (folder / PLAN).exists() or (folder / PLAN).read_text() != plan:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                (folder / PLAN).write_text(plan)
        if not plan:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            yield folder
        except BaseException:
            if plan and (folder / JOURNAL).exists():
                print("what is finished is kept: the same command goes on from there", file=sys.stderr)
            raise
        with disk_errors(target):
            for name in (JOURNAL, PLAN):
                (folder / name).unlink()
            if target.exists():
                target.rename(replaced)
            folder.rename(target)
            shutil.rmtree(replaced, ignore_errors=True)
