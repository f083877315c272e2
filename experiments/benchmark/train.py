"""The part `train`: times the whole training step on random images, PyTorch's step, and the machine's fastest matrix product.

    python -m experiments.benchmark train

Our side runs the real step on uint8 images. With augmentation off, its strengths are 0, but the resampling is still computed. PyTorch gets
prepared float images in its own layout, so it has less work.
"""

from pathlib import Path
from typing import Any

from alexnet_jax.model.layers import step_flops
from experiments.benchmark import measure, ours
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {
    "network": "<21",
    "side": "<32",
    "images x members/s": "18,.1f",
    "quartiles": ">17",
    "GFLOP/s": "8,.0f",
    "of peak": "8.0%",
    "of PyTorch": "10.2f",
}
BATCH = 128


def run(settings: Settings, out: Path) -> None:
    batch = settings.batch or BATCH
    table = Table("train", f"Training step, batch {batch}, float32", COLUMNS, settings, out)
    peak = matrix_rate(table, settings)
    for variant in settings.networks:
        if variant == "one_tower":
            _compare(table, settings, peak, "one_tower", "one_tower", batch)
            _compare(table, settings, peak, "one_tower without LRN", "one_tower", batch, lrn=False)
        else:
            for members in settings.members or (1, 7):
                _compare(table, settings, peak, f"small, M = {members}", "small", batch, members)


def matrix_rate(table: Table, settings: Settings) -> float:
    """Floating-point operations a second of a float32 matrix product: the best of two sizes and of both libraries."""
    import jax
    import numpy as np

    peak = 0.0
    for size in (256,) if settings.turn == 0 else (2048, 4096):
        a, b = np.random.default_rng(0).normal(size=(2, size, size)).astype(np.float32)
        product, x, y = jax.jit(lambda a, b: a @ b), jax.device_put(a), jax.device_put(b)
        sides: dict[str, measure.Side] = {"JAX": lambda f=product, x=x, y=y: f(x, y).block_until_ready()}  # type: ignore[misc]
        if measure.has_torch():
            from experiments.peers import torch_train

            sides["PyTorch"] = torch_train.matrix_product(a, b)
        for side, timing in measure.alternately(sides, settings.rounds, settings.turn).items():
            rate = timing.rate(2 * size**3)
            peak = max(peak, rate)
            table.timed(timing, network="matrix product", side=f"{side}, {size} x {size}", GFLOP_s=rate / 1e9)
    table.note(f"`of peak` is the share of {peak / 1e9:,.0f} GFLOP/s, the fastest matrix product above")
    return peak


def _compare(
    table: Table, settings: Settings, peak: float, name: str, variant: str, batch: int, members: int = 1, lrn: bool = True
) -> None:
    model, data = ours.network(variant, settings.width, lrn=lrn), ours.random_batch(variant, batch)
    measure.progress(f"{name}: compiling ours")
    off = ours.TrainStep(variant, model, f"augment=off, seeds={members}", data)
    on = off.with_members(f"{ours.AUGMENTED[variant]}seeds={members}")
    lean = ours.TrainStep(variant, model.clone(remat=True), f"{ours.AUGMENTED[variant]}seeds={members}", data)
    sides: dict[str, measure.Side] = {
        f"{name}, ours, augmentation off": off,
        f"{name}, ours, augmentation on": on,
        f"{name}, ours, on, train.remat": lean,
    }
    sides |= {f"{name}, PyTorch {side}": step for side, step in peers(settings, variant, batch, members, lrn).items()}
    timings = measure.alternately(sides, settings.rounds, settings.turn)
    images, flops = off.images, step_flops(model.arch, model.classes, ours.CHANNELS[variant])
    best = max((timing.rate(images) for side, timing in timings.items() if "PyTorch" in side), default=None)
    for side, timing in timings.items():
        rate = timing.rate(images)
        table.timed(
            timing,
            network=name,
            side=side.removeprefix(f"{name}, "),
            images_x_members_s=rate,
            quartiles=timing.rate_quartiles(images),
            GFLOP_s=rate * flops / 1e9,
            of_peak=rate * flops / peak,
            of_PyTorch=rate / best if best else None,
        )


def peers(settings: Settings, variant: str, batch: int, members: int, lrn: bool) -> dict[str, Any]:
    """PyTorch's training steps by name: the layouts that may be the fastest, eager and compiled."""
    if not measure.has_torch():
        return {}
    from experiments.peers import torch_train

    layouts = ("channels_last",) if variant == "one_tower" else ("channels_last", "contiguous")
    compiled = (False, True) if settings.compile and torch_train.compiles() else (False,)
    return {
        f"{'compiled' if graph else 'eager'}, {layout}": torch_train.Training(
            variant,
            batch,
            settings.width,
            ours.CHANNELS[variant],
            ours.CLASSES[variant],
            members=members,
            lrn=lrn,
            layout=layout,
            compiled=graph,
        )
        for graph in compiled
        for layout in layouts
    }
