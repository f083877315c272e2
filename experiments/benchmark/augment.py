"""The part `augment`: times the augmentation on the device, with all operations on, in both forms, and the same operations in PyTorch.

    python -m experiments.benchmark augment

There are two peers. torchvision's transforms work on one image at a time, since a batch would get the same random numbers for all images.
affine_grid and grid_sample work on a whole batch, which is faster; peers/torch_train.py has that code.
"""

from functools import partial
from pathlib import Path

import jax

from alexnet_jax.augment import augment
from alexnet_jax.resample import shear_to
from experiments.benchmark import measure, ours
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {"images": "<22", "side": "<34", "views/s": "10,.0f", "quartiles": ">17", "of PyTorch": "10.2f"}
BATCH = 128
IMAGES = {"one_tower": "256 -> 227, colour", "small": "28 -> 28, grey"}


def run(settings: Settings, out: Path) -> None:
    batch = settings.batch(BATCH)
    title = f"Augmentation of {batch} images: crop, flip, rotation, shift, whitening, colour"
    table = Table("augment", title, COLUMNS, settings, out)
    for variant in settings.networks:
        timings = measure.alternately(_sides(variant, batch), settings.rounds, settings.turn)
        best = max((timing.rate(batch) for side, timing in timings.items() if not side.startswith("ours")), default=None)
        for side, timing in timings.items():
            rate, quartiles = timing.rate(batch), timing.rate_quartiles(batch)
            ratio = rate / best if best else None
            table.timed(timing, images=IMAGES[variant], side=side, views_s=rate, quartiles=quartiles, of_PyTorch=ratio)


def _sides(variant: str, batch: int) -> dict[str, measure.Side]:
    images, member = ours.random_batch(variant, batch)["image"], jax.tree.map(lambda leaf: leaf[0], ours.members("seed=0"))
    size, stats = ours.network(variant).arch.input_size, ours.pixel_stats(ours.CHANNELS[variant])

    @partial(jax.jit, static_argnums=3)
    def views(keys, images, hyper, largest):
        return jax.vmap(lambda key, image: augment(key, image, hyper, stats, size, largest))(keys, images)

    keys, ready = jax.random.split(jax.random.key(0), batch), jax.device_put(images)
    degrees = shear_to("shear", member.rotation)
    sides: dict[str, measure.Side] = {
        "ours, gather": lambda: views(keys, ready, member, None).block_until_ready(),
        "ours, shear": lambda: views(keys, ready, member, degrees).block_until_ready(),
    }
    if measure.has_torch():
        from experiments.peers import torch_train

        strengths = {name: float(getattr(member, name)) for name in torch_train.STRENGTHS}
        sides["PyTorch, grid_sample of a batch"] = torch_train.batch_augmentation(images, size, strengths, float(stats.std))
        if (by_image := torch_train.torchvision_augmentation(images, size, strengths, float(stats.std))) is not None:
            sides["torchvision v2, image by image"] = by_image
    return sides
