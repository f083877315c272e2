"""The part `eval`: times the forward pass of evaluation and PyTorch's, and compares ten crops with ten times one crop.

python -m experiments.benchmark eval
"""

from pathlib import Path

from alexnet_jax.model.layers import forward_flops
from experiments.benchmark import measure, ours
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {
    "network": "<9",
    "batch": "6d",
    "dtype": "<8",
    "side": "<32",
    "images/s": "10,.1f",
    "quartiles": ">17",
    "GFLOP/s": "8,.0f",
    "of PyTorch": "10.2f",
}
BATCH = {"one_tower": 64, "small": 512}
CROP_BATCH = {"one_tower": 16, "small": 128}


def run(settings: Settings, out: Path) -> None:
    title = "Forward pass of evaluation, one member; ours crops and whitens uint8 images, PyTorch gets prepared float images"
    table = Table("eval", title, COLUMNS, settings, out)
    for dtype in settings.dtypes:
        for variant in settings.networks:
            _against_peer(table, settings, variant, settings.batch(BATCH[variant]), dtype)
            _ten_crop(table, settings, variant, settings.batch(CROP_BATCH[variant]), dtype)


def _against_peer(table: Table, settings: Settings, variant: str, batch: int, dtype: str) -> None:
    model = ours.network(variant, settings.width, dtype=dtype)
    sides: dict[str, measure.Side] = {"ours": ours.Evaluation(variant, model, "seeds=1", ours.random_batch(variant, batch)["image"])}
    if measure.has_torch():
        from experiments.peers import torch_train

        for compiled in (False, True) if settings.compile and torch_train.compiles() else (False,):
            for layout in torch_train.layouts(variant):
                side = f"PyTorch {'compiled' if compiled else 'eager'}, {layout}"
                of_network = (variant, batch, settings.width, ours.CHANNELS[variant], ours.CLASSES[variant])
                sides[side] = torch_train.Evaluation(*of_network, layout=layout, compiled=compiled, dtype=dtype)
    timings = measure.alternately(sides, settings.rounds, settings.turn)
    best = max((timing.rate(batch) for side, timing in timings.items() if side != "ours"), default=None)
    flops = forward_flops(model.arch, model.classes, ours.CHANNELS[variant])
    for side, timing in timings.items():
        rate = timing.rate(batch)
        ratio = rate / best if best else None
        quartiles = timing.rate_quartiles(batch)
        table.timed(
            timing,
            network=variant,
            batch=batch,
            dtype=dtype,
            side=side,
            images_s=rate,
            quartiles=quartiles,
            GFLOP_s=rate * flops / 1e9,
            of_PyTorch=ratio,
        )


def _ten_crop(table: Table, settings: Settings, variant: str, batch: int, dtype: str) -> None:
    model, images = ours.network(variant, settings.width, dtype=dtype), ours.random_batch(variant, batch)["image"]
    sides: dict[str, measure.Side] = {
        name: ours.Evaluation(variant, model, "seeds=1", images, ten_crop=name == "ten crops") for name in ("one crop", "ten crops")
    }
    timings = measure.alternately(sides, settings.rounds, settings.turn)
    for side, timing in timings.items():
        rate, quartiles = timing.rate(batch), timing.rate_quartiles(batch)
        table.timed(timing, network=variant, batch=batch, dtype=dtype, side=f"ours, {side}", images_s=rate, quartiles=quartiles)
    ratio = timings["ten crops"].median / (10 * timings["one crop"].median)
    table.note(f"{variant}, batch {batch}: ten crops take {ratio:.2f} times as long as ten times one crop")
