"""The part `train`: times the whole training step on random images, PyTorch's step, and the machine's fastest matrix product.

    python -m experiments.benchmark train
    python -m experiments.benchmark train --networks one_tower --batch 1024 128 --dtype bfloat16 float32

Our side runs the real step on uint8 images. With augmentation off, its strengths are 0, but the resampling is still computed. PyTorch gets
prepared float images in its own layout, so it has less work. All images lie on the device.

For the first batch size and dtype, the variations of the step that --variations names are timed too: they show what LRN, the augmentation
and train.remat cost.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from alexnet_jax.augment import evaluation_view
from alexnet_jax.model.layers import step_flops
from alexnet_jax.train import step as train_step
from experiments.benchmark import measure, ours
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {
    "network": "<21",
    "batch": "5d",
    "dtype": "<8",
    "side": "<32",
    "images x members/s": "18,.1f",
    "quartiles": ">17",
    "GFLOP/s": "8,.0f",
    "of peak": "8.0%",
    "of PyTorch": "10.2f",
    "first step s": "12.1f",
}
BATCH = 128
OURS, OFF, CROPPED, LEAN = "ours", "ours, augmentation off", "ours, only centre crops", "ours, train.remat"


def run(settings: Settings, out: Path) -> None:
    title = "Training step on images that lie on the device; `first step s` is for building, compiling and the first step"
    table = Table("train", title, COLUMNS, settings, out)
    peaks = {dtype: matrix_rate(table, settings, dtype) for dtype in settings.dtypes}
    variations = settings.variations
    for dtype in settings.dtypes:
        for batch in settings.batches or (BATCH,):
            for variant in settings.networks:
                case = Case(variant, batch, dtype)
                if variant == "small":
                    for members in settings.members or (1, 7):
                        _compare(table, settings, peaks[dtype], f"small, M = {members}", case._replace(members=members), variations)
                    continue
                seconds = _compare(table, settings, peaks[dtype], "one_tower", case, variations)
                shares = {"augmentation": 1 - seconds[CROPPED] / seconds[OURS]} if "crops" in variations else {}
                if "lrn" in variations:
                    without = _compare(table, settings, peaks[dtype], "one_tower without LRN", case._replace(lrn=False))
                    shares["LRN"] = 1 - without[OURS] / seconds[OURS]
                if shares:
                    words = ", ".join(f"{what} {share:.1%}" for what, share in shares.items())
                    table.note(f"one_tower, batch {batch}, {dtype}: shares of our step's time: {words}")
            variations = ()


class Case(NamedTuple):
    """What is trained, and on how many images of a step."""

    variant: str
    batch: int
    dtype: str
    members: int = 1
    lrn: bool = True


def matrix_rate(table: Table, settings: Settings, dtype: str) -> float:
    """Floating-point operations a second of a matrix product in a dtype: the best of some sizes and of both libraries."""
    import jax
    import numpy as np

    peak = 0.0
    for size in (256,) if settings.turn == 0 else (2048, 4096):
        a, b = np.random.default_rng(0).normal(size=(2, size, size)).astype(np.float32)
        product, x, y = jax.jit(lambda a, b: a @ b), jax.device_put(a.astype(dtype)), jax.device_put(b.astype(dtype))
        sides: dict[str, measure.Side] = {"JAX": lambda f=product, x=x, y=y: f(x, y).block_until_ready()}  # type: ignore[misc]
        if measure.has_torch():
            from experiments.peers import torch_train

            sides["PyTorch"] = torch_train.matrix_product(a, b, dtype)
        for side, timing in measure.alternately(sides, settings.rounds, settings.turn).items():
            rate = timing.rate(2 * size**3)
            peak = max(peak, rate)
            table.timed(timing, network="matrix product", dtype=dtype, side=f"{side}, {size} x {size}", GFLOP_s=rate / 1e9)
    table.note(f"{dtype}: `of peak` is the share of {peak / 1e9:,.0f} GFLOP/s, the fastest matrix product above")
    return peak


def _centre_crop(key: Any, image: Any, hyper: Any, stats: Any, size: int, shear_to: Any) -> Any:
    """What `augment` would be without any draw."""
    return evaluation_view(image, hyper, stats, size)


def _compare(table: Table, settings: Settings, peak: float, name: str, case: Case, variations: tuple[str, ...] = ()) -> dict[str, float]:
    """Time one case, ours and PyTorch's, and add its rows; returns the median seconds of each side."""
    model = ours.network(case.variant, settings.width, lrn=case.lrn, dtype=case.dtype)
    data, spec = ours.random_batch(case.variant, case.batch), f"{ours.AUGMENTED[case.variant]}seeds={case.members}"
    measure.progress(f"{name}, batch {case.batch}, {case.dtype}: compiling")
    whole, first = _started(lambda: ours.TrainStep(case.variant, model, spec, data))
    sides: dict[str, measure.Side] = {OURS: whole}
    first_step = {OURS: first}
    if "off" in variations:
        sides[OFF] = whole.with_members(f"augment=off, seeds={case.members}")
    if "remat" in variations:
        sides[LEAN] = ours.TrainStep(case.variant, model.clone(remat=True), spec, data)
    if "crops" in variations:
        with mock.patch.object(train_step, "augment", _centre_crop):
            sides[CROPPED] = ours.TrainStep(case.variant, model, spec, data)
    for side, make in peers(settings, case).items():
        sides[f"PyTorch {side}"], first_step[f"PyTorch {side}"] = _started(make)
    timings = measure.alternately({f"{name}, {side}": call for side, call in sides.items()}, settings.rounds, settings.turn)
    images, flops = whole.images, step_flops(model.arch, model.classes, ours.CHANNELS[case.variant])
    found = {side: timings[f"{name}, {side}"] for side in sides}
    best = max((timing.rate(images) for side, timing in found.items() if "PyTorch" in side), default=None)
    for side, timing in found.items():
        rate = timing.rate(images)
        table.timed(
            timing,
            network=name,
            batch=case.batch,
            dtype=case.dtype,
            side=side,
            images_x_members_s=rate,
            quartiles=timing.rate_quartiles(images),
            GFLOP_s=rate * flops / 1e9,
            of_peak=rate * flops / peak,
            of_PyTorch=rate / best if best else None,
            first_step_s=first_step.get(side),
        )
    return {side: timing.median for side, timing in found.items()}


def _started(make: Callable[[], Any]) -> tuple[Any, float]:
    """A step, and the seconds that it took to make it and to call it for the first time."""
    started = time.perf_counter()
    step = make()
    step()
    return step, time.perf_counter() - started


def peers(settings: Settings, case: Case) -> dict[str, Callable[[], Any]]:
    """What makes PyTorch's training steps, by name: the layouts that may be the fastest, eager and compiled."""
    if not measure.has_torch():
        return {}
    from experiments.peers import torch_train

    of_network = (case.variant, case.batch, settings.width, ours.CHANNELS[case.variant], ours.CLASSES[case.variant])
    compiled = (False, True) if settings.compile and torch_train.compiles() else (False,)
    return {
        f"{'compiled' if graph else 'eager'}, {layout}": partial(
            torch_train.Training, *of_network, members=case.members, lrn=case.lrn, layout=layout, compiled=graph, dtype=case.dtype
        )
        for graph in compiled
        for layout in torch_train.layouts(case.variant)
    }
