"""The part `input`: times preparing photographs and Pillow alone; batches from a prepared dataset and PyTorch's DataLoader over the same
images.

    python -m experiments.benchmark input

PyTorch's side reads its images from one file that is mapped into memory, and decodes JPEG with the same library as ours. So it has less
work than torchvision's ImageFolder would have.
"""

import contextlib
import functools
import math
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from alexnet_jax import data, host
from alexnet_jax import examples as examples_lib
from alexnet_jax.images import Resize, load_resized
from alexnet_jax.prepare import datasets, records
from alexnet_jax.prepare.workers import MapInOrder, worker_map
from experiments.benchmark import measure
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table
from experiments.peers import pillow_prepare

COLUMNS = {"images": "<30", "side": "<30", "images/s": "10,.0f", "quartiles": ">17", "of PyTorch": "10.2f"}
BATCH = 128
THREADS = {28: 2, 256: 16}  # image size in pixels -> threads, as in configs/digits.py and configs/imagenet.py
WORKERS = (0, 2)
BATCHES = 100  # batches of one call
PHOTOGRAPH, PREPARED = (375, 500, 3), 256  # the commonest size of ImageNet's pictures, and what is made of them
ACCELERATORS = (1_000, 3_000, 10_000)  # images/s that an accelerator may take


def run(settings: Settings, out: Path) -> None:
    batch = min(settings.batch(BATCH), settings.images)
    table = Table("input", f"Input pipeline, {settings.images:,} images, batches of {batch}, shuffled", COLUMNS, settings, out)
    with tempfile.TemporaryDirectory() as folder:
        _run_prepare(settings, Path(folder), table)
        for shape, encoding in (((28, 28, 1), "raw"), ((256, 256, 3), "raw"), ((256, 256, 3), "jpeg")):
            name = f"{shape[0]} x {shape[1]} x {shape[2]}, {encoding}"
            measure.progress(f"{name}: preparing {settings.images:,} images")
            source = make_dataset(Path(folder), shape, encoding, settings.images)
            with _sides(source, Path(folder), encoding, batch) as sides:
                timings = measure.alternately(sides, settings.rounds, settings.turn)
            images = BATCHES * batch
            best = max((timing.rate(images) for side, timing in timings.items() if "DataLoader" in side), default=None)
            for side, timing in timings.items():
                rate, quartiles = timing.rate(images), timing.rate_quartiles(images)
                ratio = rate / best if best else None
                table.timed(timing, images=name, side=side, images_s=rate, quartiles=quartiles, of_PyTorch=ratio)
            rate = timings["ours, from the records"].rate(images) / host.cores()
            needs = ", ".join(f"{math.ceil(speed / rate):,} for {speed:,}" for speed in ACCELERATORS)
            table.note(f"{name}: {rate:,.0f} images/s a core; so many cores keep an accelerator busy: {needs} images/s")


def _run_prepare(settings: Settings, folder: Path, table: Table) -> None:
    """Photographs to the records of a dataset, in as many processes as there are cores, which have started; the peers in the same ones."""
    measure.progress(f"making {settings.images:,} photographs")
    paths = [str(_save_photograph(folder / "photographs", number)) for number in range(settings.images)]
    chunks = [paths[start : start + records.CHUNK] for start in range(0, len(paths), records.CHUNK)]
    encode = functools.partial(records.encode_chunk, functools.partial(_load_photograph, Resize(PREPARED)), "jpeg", False)
    functions: dict[str, Callable[[Any], Any]] = {
        "ours": encode,
        "Pillow alone": functools.partial(pillow_prepare.centre_in_one_step, PREPARED),
        "Pillow as torchvision": functools.partial(pillow_prepare.as_torchvision, PREPARED),
    }
    height, width, _ = PHOTOGRAPH
    with worker_map(host.cores()) as map_in_order:
        sides = {name: functools.partial(_exhaust, map_in_order, function, chunks) for name, function in functions.items()}
        timings = measure.alternately(sides, settings.rounds, settings.turn)
    for side, timing in timings.items():
        rate, quartiles = timing.rate(len(paths)), timing.rate_quartiles(len(paths))
        table.timed(timing, images=f"prepare {width} x {height} to {PREPARED}", side=side, images_s=rate, quartiles=quartiles)
    ratios = ", ".join(f"{timing.median / timings['ours'].median:.2f} of {side}" for side, timing in timings.items() if side != "ours")
    table.note(f"prepare, with statistics and records, which Pillow's sides lack, makes {ratios}; the processes' start is not counted")


def _exhaust(map_in_order: MapInOrder, function: Callable, chunks: list) -> None:
    for _ in map_in_order(function, chunks):
        pass


def _load_photograph(resize: Resize, path: str) -> tuple[np.ndarray, int]:
    return load_resized(path, resize), 0


def _save_photograph(folder: Path, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{number}.jpg"
    Image.fromarray(make_image(PHOTOGRAPH, number)[0]).save(path, quality=90)
    return path


def make_dataset(folder: Path, shape: tuple[int, int, int], encoding: str, count: int) -> data.Dataset:
    """A prepared dataset of `count` random training images, which JPEG compresses about as well as photographs."""
    from alexnet_jax.config import new_config

    name = f"random_{shape[0]}_{encoding}_{count}"
    load = functools.partial(make_image, shape)
    splits = {"train": range(count), "validation": range(1)}
    plan = records.RawDataset(("even", "odd"), shape, splits, load, encoding, "random", protocol="made in this size")
    records.write(plan, datasets.dataset_dir(folder, name), workers=host.cores() if encoding == "jpeg" else 1)
    section = new_config().data
    section.update({"dir": str(folder), "name": name, "prepare": ""})
    return data.load(section)


def make_image(shape: tuple[int, int, int], number: int) -> tuple[np.ndarray, int]:
    """A smooth random image with a little noise, and its label: whether its number is odd."""
    rng = np.random.default_rng(number)
    height, width, channels = shape
    coarse = rng.integers(0, 256, (height // 14 + 1, width // 14 + 1, channels)).repeat(14, 0).repeat(14, 1)
    return (0.9 * coarse[:height, :width] + rng.integers(0, 25, shape)).astype(np.uint8), number % 2


@contextlib.contextmanager
def _sides(dataset: data.Dataset, folder: Path, encoding: str, batch: int) -> Iterator[dict[str, measure.Side]]:
    """Our sides, from the records and from decoded images in memory, and PyTorch's."""
    with mock.patch.object(examples_lib, "CACHE_BYTES", 0):
        sides: dict[str, measure.Side] = {"ours, from the records": stretch(dataset, batch)}
    if encoding == "raw":
        sides["ours, from memory"] = stretch(dataset, batch, passes=1)
    if not measure.has_torch():
        yield sides
        return
    from experiments.peers import torch_input

    images = torch_input.store(examples_lib.Records(dataset.builder, "train"), folder / f"{dataset.name}.bin", encoding)
    with contextlib.ExitStack() as stack:
        for workers in WORKERS:
            loader = stack.enter_context(torch_input.loading(images, batch, workers))
            sides[f"DataLoader, {f'{workers} workers' if workers else 'in-process'}"] = _endlessly(loader)
        yield sides


def stretch(dataset: data.Dataset, batch: int, passes: int = 0) -> Callable[[], None]:
    """A function that reads `BATCHES` batches from the start of our input. First, `passes` passes over the split fill its memory cache.

    Each call makes a new stream, and at its end waits for the threads that read ahead. Otherwise a call would start with batches that were
    read during the other side's turn, and would slow that side down.
    """
    source = dataset.source("train")
    for _ in range(passes):
        for index in range(len(source)):
            source[index]

    def call() -> None:
        stream = data.train_batches(source, batch_size=batch, seed=0, position=0, threads=THREADS[dataset.image_shape[0]])
        for _ in range(BATCHES):
            next(stream)
        stream.close()  # type: ignore[attr-defined]  # grain's iterator
        for thread in threading.enumerate():
            if thread.name.startswith("grain-prefetch"):
                thread.join()

    return call


def _endlessly(loader: Iterator) -> Callable[[], None]:
    """A function that reads the next `BATCHES` batches of PyTorch. Its workers continue between calls, at most four batches ahead."""

    def call() -> None:
        for _ in range(BATCHES):
            next(loader)

    return call
