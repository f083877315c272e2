"""When things happen in a run, and how the learning rate depends on the step alone.

The plateau (plateau.py) and people (control.py) lower rates by what they see, a schedule by the step; the factors multiply.
`setup.validate` makes the timeline; the loop and the step use both:

    timeline = make_timeline(config, examples=1_281_167)
    factor = make_schedule(config, timeline)(step)
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from alexnet_jax.errors import UserError, did_you_mean

SCHEDULES = ("constant", "fixed", "poly")
POSITIVE = (
    "train.batch_size",
    "train.accumulate",
    "train.epochs",
    "train.log_every_steps",
    "train.checkpoint_every_epochs",
    "eval.every_epochs",
    "eval.batch_size",
    "plateau.patience",
)
NOT_NEGATIVE = (
    "data.seed",
    "data.threads",
    "train.members_per_program",
    "train.disk_patience",
    "optimizer.warmup_epochs",
    "optimizer.poly_power",
    "plateau.min_delta",
    "plateau.max_drops",
    "plateau.cooldown",
)
LARGEST = 2**31 - 1  # of whole numbers on the devices: a run counts its steps there
MOST = {"data.seed": 2**63 - 1, "data.threads": 1000}


class Timeline(NamedTuple):
    """When things happen, in optimiser steps."""

    steps_per_epoch: float
    total: int
    evaluate_every: int
    checkpoint_every: int
    log_every: int
    warmup: int  # steps over which the rate rises linearly
    drops: tuple[int, ...]  # of the `fixed` schedule: the steps from which the rate is a factor lower


def make_timeline(config: ConfigDict, examples: int) -> Timeline:
    """The timeline of a config for a training split of so many examples.

    Raises:
      UserError: a number that makes no sense, or an unknown schedule.
    """
    for field in (*POSITIVE, *NOT_NEGATIVE):
        section, name = field.split(".")
        value, most = config[section][name], MOST.get(field, LARGEST)
        if not 0 <= value <= most or (value == 0 and field in POSITIVE):
            end = "finite" if not math.isfinite(value) else f"at most {most:,}"
            raise UserError(f"{field} is {value}; it must be {'positive' if field in POSITIVE else '0 or more'}, and {end}")
    if not 0 < config.plateau.factor < 1:
        raise UserError(f"plateau.factor is {config.plateau.factor:g}; it must lie between 0 and 1")
    if not all(0 < epoch < math.inf for epoch in config.optimizer.drop_epochs):
        raise UserError(f"optimizer.drop_epochs is {config.optimizer.drop_epochs}; each must be positive, and finite")
    if config.optimizer.schedule not in SCHEDULES:
        raise UserError(f"optimizer.schedule is {config.optimizer.schedule!r}{did_you_mean(config.optimizer.schedule, SCHEDULES)}")
    per_epoch = examples / config.train.batch_size

    def steps(epochs: float) -> int:
        count = max(1, round(epochs * per_epoch))
        if count > LARGEST:
            raise UserError(f"{epochs:g} epochs are {count:,} steps; a run has at most {LARGEST:,}")
        return count

    return Timeline(
        steps_per_epoch=per_epoch,
        total=steps(config.train.epochs),
        evaluate_every=steps(config.eval.every_epochs),
        checkpoint_every=steps(config.train.checkpoint_every_epochs),
        log_every=config.train.log_every_steps,
        warmup=steps(config.optimizer.warmup_epochs) if config.optimizer.warmup_epochs * per_epoch >= 0.5 else 0,
        drops=tuple(map(steps, config.optimizer.drop_epochs)) if config.optimizer.schedule == "fixed" else (),
    )


def make_schedule(config: ConfigDict, timeline: Timeline) -> Callable:
    """`factor(step)` of the learning rate, float32 (), for a traced step.

    constant    1
    fixed       `plateau.factor` to the power of the drops so far: the 2012 run's came after epochs 25, 51 and 79
    poly        (1 - step / total) ^ `optimizer.poly_power`, as in the large-batch runs of the LARS paper (arXiv 1708.03888)

    The first `optimizer.warmup_epochs` multiply it by a line from 0 to 1.
    """
    factor, power = config.plateau.factor, config.optimizer.poly_power

    def schedule(step):
        scale = jnp.ones((), jnp.float32)
        if timeline.drops:
            scale = jnp.float32(factor) ** jnp.sum(step >= jnp.array(timeline.drops))
        elif config.optimizer.schedule == "poly":
            scale = jnp.maximum(1 - step / timeline.total, 0) ** power
        return scale * jnp.minimum(1, (step + 1) / timeline.warmup) if timeline.warmup else scale

    return schedule
