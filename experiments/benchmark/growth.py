"""The part `growth`: how the input's time grows with the dataset, and the training step's time with the members and with the batch.

python -m experiments.benchmark growth    # also draws growth.png and growth.svg
"""

import tempfile
from pathlib import Path
from unittest import mock

from alexnet_jax import examples as examples_lib
from experiments.benchmark import growth_figure, measure, ours
from experiments.benchmark.growth_figure import BATCHES, MEMBERS, MEMORY, RECORDS
from experiments.benchmark.input import BATCHES as STRETCH
from experiments.benchmark.input import make_dataset, stretch
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {"what": "<28", "size": "9,d", "ms/batch": "10,.2f", "quartiles": ">17", "images x members/s": "18,.0f", "compile s": "10.1f"}
BATCH = 128
GROWTH = (0.1, 1, 10, 50)  # dataset sizes, as multiples of --images
MEMBER_COUNTS, BATCH_SIZES = (1, 2, 4, 7, 16), (16, 32, 64, 128, 256, 512)


def run(settings: Settings, out: Path) -> None:
    title = (
        f"Growth; the batch has {settings.batch(BATCH)} images, except in the rows `images a batch`; the input has no members, so its "
        "rows count images a second"
    )
    table = Table("growth", title, COLUMNS, settings, out)
    points: dict[str, list[tuple[int, measure.Timing]]] = {}
    _datasets(table, points, settings)
    _steps(table, points, settings, MEMBERS, {count: (count, settings.batch(BATCH)) for count in settings.members or MEMBER_COUNTS})
    sizes = BATCH_SIZES if settings.batches is None else (settings.batches[0], 2 * settings.batches[0])
    _steps(table, points, settings, BATCHES, {size: (1, size) for size in sizes})
    for path in growth_figure.write(points, settings.batch(BATCH), out):
        print(f"  figure: {path}")


def _datasets(table: Table, points: dict, settings: Settings) -> None:
    """Times the input of images of 28 x 28 pixels, from datasets of several sizes, in turn."""
    sizes = [max(1, round(factor * settings.images)) for factor in GROWTH]
    batch = min(settings.batch(BATCH), sizes[0])
    sides: dict[tuple[str, int], measure.Side] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            measure.progress(f"preparing {size:,} images")
            dataset = make_dataset(Path(folder), (28, 28, 1), "raw", size)
            with mock.patch.object(examples_lib, "CACHE_BYTES", 0):
                sides[RECORDS, size] = stretch(dataset, batch)
            sides[MEMORY, size] = stretch(dataset, batch, passes=1)
        timings = measure.alternately({f"{what} {size}": side for (what, size), side in sides.items()}, settings.rounds, settings.turn)
    for what, size in sorted(sides, key=lambda key: key[0] == MEMORY):
        _add(table, points, what, size, timings[f"{what} {size}"].each(STRETCH), batch)


def _steps(table: Table, points: dict, settings: Settings, what: str, sizes: dict[int, tuple[int, int]]) -> None:
    """Times the small network's training step. `sizes` maps the size that grows to (members, batch)."""
    model, sides = ours.network("small", settings.width), {}
    for size, (members, batch) in sizes.items():
        measure.progress(f"{what}: compiling {size}")
        sides[size] = ours.TrainStep("small", model, f"augment=off, seeds={members}", ours.random_batch("small", batch))
    timings = measure.alternately({f"{what} {size}": side for size, side in sides.items()}, settings.rounds, settings.turn)
    for size, side in sides.items():
        _add(table, points, what, size, timings[f"{what} {size}"], side.images, compile_s=side.compile_seconds)


def _add(table: Table, points: dict, what: str, size: int, timing: measure.Timing, images: int, **values: float) -> None:
    points.setdefault(what, []).append((size, timing))
    lower, upper = (1e3 * seconds for seconds in timing.quartiles)
    ms, quartiles = 1e3 * timing.median, measure.span(lower, upper)
    table.timed(timing, what=what, size=size, ms_batch=ms, quartiles=quartiles, images_x_members_s=timing.rate(images), **values)
