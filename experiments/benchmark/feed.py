"""The part `feed`: the real training loop of the one-tower network, which reads, decodes and copies every batch to the device.

    python -m experiments.benchmark feed --batch 1024 --dtype bfloat16

The dataset has random images of 256 x 256 pixels in raw records, which are read from their files at every epoch, as ImageNet's would be,
but from the operating system's cache. Three sides run one after the other: the compiled step alone, on images that lie on the device; the
input alone; and the real loop, which does both at the same time. The slower of the two should be all that the loop takes.
"""

import math
import tempfile
from pathlib import Path
from unittest import mock

from ml_collections import ConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax import data, host
from alexnet_jax import examples as examples_lib
from experiments.benchmark import measure
from experiments.benchmark.input import make_dataset
from experiments.benchmark.overhead import ROOT, in_loop, step_alone
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {"batch": "5d", "dtype": "<8", "what": "<34", "ms/step": "10,.2f", "images/s": "10,.0f", "quartiles": ">17"}
BATCH = 128
ALONE, INPUT, LOOP = "compiled step alone", "input alone, from raw records", "real loop"
LEAST = 2  # steps of a stretch


def run(settings: Settings, out: Path) -> None:
    batch = settings.batch(BATCH)
    title = "The one-tower network fed from raw records of 256 x 256 x 3, configs/imagenet.py with one member"
    table = Table("feed", title, COLUMNS, settings, out)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(examples_lib, "CACHE_BYTES", 0):
        measure.progress(f"preparing {settings.images:,} images")
        dataset = make_dataset(Path(folder), (256, 256, 3), "raw", settings.images)
        for dtype in settings.dtypes:
            timings = _measure(settings, dataset, _config(settings, folder, dataset, batch, dtype))
            for what, timing in timings.items():
                rate, quartiles = timing.rate(batch), timing.rate_quartiles(batch)
                table.timed(timing, batch=batch, dtype=dtype, what=what, ms_step=1e3 * timing.median, images_s=rate, quartiles=quartiles)
            rates = {what: timing.rate(batch) for what, timing in timings.items()}
            share = rates[LOOP] / min(rates[ALONE], rates[INPUT])
            table.note(f"{dtype}: the loop reaches {share:.0%} of the slower of the two, with {host.cores()} cores")


def _measure(settings: Settings, dataset: data.Dataset, config: ConfigDict) -> dict[str, measure.Timing]:
    """Seconds of a step of each side, in stretches of at least `settings.turn` seconds of the step alone."""
    measure.progress(f"{ALONE}: compiling")
    steps = step_alone(config)
    count = max(LEAST, math.ceil(settings.turn / (measure.seconds_of(lambda: steps(LEAST)) / LEAST)))
    alone = [measure.seconds_of(lambda: steps(count)) / count for _ in range(settings.rounds)]
    del steps  # and with it the state on the device
    measure.progress(INPUT)
    fed = _input_alone(dataset, config, count, settings.rounds)
    measure.progress(f"{LOOP}: compiling")
    total = count * (1 + settings.rounds)  # the first stretch compiles
    config = config.copy_and_resolve_references()
    config.train.update({"log_every_steps": count, "epochs": total * config.train.batch_size / len(dataset.source("train"))})
    looped = in_loop(config.lock())
    return {what: measure.Timing(tuple(seconds)) for what, seconds in ((ALONE, alone), (INPUT, fed), (LOOP, looped))}


def _input_alone(dataset: data.Dataset, config: ConfigDict, count: int, rounds: int) -> list[float]:
    """Seconds of a batch in each stretch, when the batches that the threads had made ahead are used up."""
    batch = config.train.batch_size
    stream = data.train_batches(dataset.source("train"), batch_size=batch, seed=0, position=0, threads=config.data.threads)
    for _ in range(2 * config.data.threads):  # more than are made ahead
        next(stream)
    seconds = [measure.seconds_of(lambda: next(stream), count) for _ in range(rounds)]
    stream.close()  # type: ignore[attr-defined]  # grain's iterator
    return seconds


def _config(settings: Settings, folder: str, dataset: data.Dataset, batch: int, dtype: str) -> ConfigDict:
    """configs/imagenet.py for this dataset, without evaluations and checkpoints but at its end."""
    changes = {"data.dir": folder, "data.name": dataset.name, "model.dtype": dtype, "model.width": settings.width}
    changes |= {"train.batch_size": batch, "train.checkpoint_every_epochs": 1e6, "eval.every_epochs": 1e6, "eval.batch_size": 8}
    return config_lib.load(str(ROOT / "configs/imagenet.py"), [f"{name}={value}" for name, value in changes.items()])
