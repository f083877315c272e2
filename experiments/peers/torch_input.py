"""PyTorch's DataLoader, which `benchmark input` compares with our input pipeline.

stored = store(records, path, "raw")
with loading(stored, batch=128, workers=2) as batches:
    images, labels = next(batches)    # uint8 (128, height, width, channels), int64 (128,)
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from alexnet_jax.examples import Records
from alexnet_jax.prepare.records import JPEG_QUALITY


class Stored(NamedTuple):
    """Images that are stored one after another in a file."""

    path: Path
    ends: list[int]  # where each image ends in the file, in bytes
    shape: tuple[int, int, int]  # of an image: height, width, channels
    encoding: str  # raw or jpeg
    labels: list[int]


class Images(Dataset):
    """Stored images as a PyTorch dataset. The file is mapped into memory, so apart from decoding a read costs almost nothing."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._bytes: Any = None  # each worker maps the file itself

    def __len__(self) -> int:
        return len(self._stored.ends)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self._bytes is None:
            self._bytes = np.memmap(self._stored.path, np.uint8, "c")  # copy on write, since PyTorch warns about read-only arrays
        start = self._stored.ends[index - 1] if index else 0
        data = self._bytes[start : self._stored.ends[index]]
        image = simplejpeg.decode_jpeg(data, "RGB") if self._stored.encoding == "jpeg" else data.reshape(self._stored.shape)
        return torch.from_numpy(image), self._stored.labels[index]


def store(records: Records, path: Path, encoding: str) -> Stored:
    """Copy the images of a prepared split one after another into a file, in the same encoding (raw or jpeg)."""
    ends, labels = [0], []
    with open(path, "wb") as file:
        for index in range(len(records)):
            image, label = records[index]
            data = simplejpeg.encode_jpeg(image, JPEG_QUALITY, "RGB", "420") if encoding == "jpeg" else image.tobytes()
            ends.append(ends[-1] + file.write(data))
            labels.append(label)
    return Stored(path, ends[1:], image.shape, encoding, labels)


@contextlib.contextmanager
def loading(stored: Stored, batch: int, workers: int) -> Iterator[Iterator[Any]]:
    """The endless batches of a DataLoader; its workers end with the context.

    The sampler draws images without end. At the end of an epoch the workers would have no work for a moment, which would cost time.
    """
    images = Images(stored)
    sampler = RandomSampler(images, replacement=True, num_samples=1 << 40)
    context = "spawn" if workers else None  # a fork would copy the locks of JAX's threads
    stream = iter(DataLoader(images, batch, sampler=sampler, num_workers=workers, multiprocessing_context=context))
    try:
        yield stream
    finally:
        del stream
