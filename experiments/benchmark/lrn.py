"""The part `lrn`: times local response normalisation with its gradient, PyTorch's layer, and plain memory traffic; its share of a step.

python -m experiments.benchmark lrn
"""

from pathlib import Path

import jax
import numpy as np

from alexnet_jax.model.lrn import lrn
from experiments.benchmark import measure, ours
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {"what": "<24", "dtype": "<9", "side": "<36", "ms": "9,.2f", "quartiles": ">17", "GB/s": "7,.1f", "x streaming": "11.2f"}
SIZES = (27, 55)  # pixels of the one-tower network's maps after its first pool, and before it
CHANNELS, BATCH, STEP_BATCH = 96, 128, 64


def run(settings: Settings, out: Path) -> None:
    title = "Local response normalisation, forward and backward; `streaming` reads and writes two arrays, the least possible memory traffic"
    table = Table("lrn", title, COLUMNS, settings, out)
    for size in SIZES:
        for dtype in ("float32", "bfloat16"):
            _layer(table, settings, (settings.batch(BATCH), size, size, CHANNELS), dtype)
    if "one_tower" in settings.networks:
        _share_of_step(table, settings)


def _layer(table: Table, settings: Settings, shape: tuple[int, ...], dtype: str) -> None:
    arrays = (50 * np.random.default_rng(0).normal(size=(2, *shape))).astype(np.float32)
    x, gradient = (jax.device_put(array.astype(dtype)) for array in arrays)

    @jax.jit
    def layer(x, gradient, k, alpha, beta):  # the constants are arguments, as in a run
        y, pullback = jax.vjp(lambda x: lrn(x, k, alpha, beta), x)
        return y, pullback(gradient)[0]

    scale = jax.jit(lambda x, gradient, factor: (x * factor, gradient * factor))
    sides: dict[str, measure.Side] = {
        "ours": lambda: jax.block_until_ready(layer(x, gradient, 2.0, 1e-4, 0.75)),
        "streaming, JAX": lambda: jax.block_until_ready(scale(x, gradient, np.asarray(1.5, x.dtype))),
    }
    if measure.has_torch():
        from experiments.peers import torch_train

        sides["streaming, PyTorch"] = torch_train.stream(arrays[0], arrays[1], dtype)
        for compiled in (False, True) if settings.compile and torch_train.compiles() else (False,):
            for layout in torch_train.LAYOUTS:
                side = f"PyTorch {'compiled' if compiled else 'eager'}, {layout}"
                sides[side] = torch_train.normalisation(arrays[0], arrays[1], dtype, layout, compiled)

    timings = measure.alternately(sides, settings.rounds, settings.turn)
    best = min(timing.median for side, timing in timings.items() if "streaming" in side)
    moved = 4 * x.nbytes
    for side, timing in timings.items():
        _row(table, timing, what=str(shape), dtype=dtype, side=side, GB_s=moved / timing.median / 1e9, x_streaming=timing.median / best)


def _share_of_step(table: Table, settings: Settings) -> None:
    """Times the one-tower network's training step with and without LRN, ours and PyTorch's."""
    batch = settings.batch(STEP_BATCH)
    data = ours.random_batch("one_tower", batch)
    sides: dict[str, measure.Side] = {}
    for lrn_on in (True, False):
        name = "with LRN" if lrn_on else "without"
        measure.progress(f"training step {name}: compiling ours")
        sides[f"ours, {name}"] = ours.TrainStep(
            "one_tower", ours.network("one_tower", settings.width, lrn=lrn_on), "augment=off, seeds=1", data
        )
        if measure.has_torch():
            from experiments.peers import torch_train

            sides[f"PyTorch eager, {name}"] = torch_train.Training(
                "one_tower", batch, settings.width, ours.CHANNELS["one_tower"], ours.CLASSES["one_tower"], lrn=lrn_on
            )
    timings = measure.alternately(sides, settings.rounds, settings.turn)
    for side, timing in timings.items():
        _row(table, timing, what=f"training step, batch {batch}", dtype="float32", side=side)
    for side in ("ours", "PyTorch eager"):
        if f"{side}, without" in timings:
            on, off = timings[f"{side}, with LRN"].median, timings[f"{side}, without"].median
            table.note(f"{side}: LRN takes {1 - off / on:.1%} of the one-tower network's training step")


def _row(table: Table, timing: measure.Timing, **values) -> None:
    lower, upper = timing.quartiles
    table.timed(timing, **values, ms=1e3 * timing.median, quartiles=measure.span(1e3 * lower, 1e3 * upper))
