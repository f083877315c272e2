"""The part `overhead`: the time that the training loop adds to the compiled step.

    python -m experiments.benchmark overhead

It times the compiled step alone, the real loop, and, for 1, 7 and 32 members (`--members`), the loop around a step that does nothing. The
real loop gives the device its next step while the device still computes the step before. So the host's work costs no time as long as it is
shorter than a step. The loop around nothing measures the host's work, including the input and the start of a program for each turn of
members. The second side minus the first is the time that this work really adds.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax import data, history, parallel, turns
from alexnet_jax.network import build
from alexnet_jax.prepare.datasets import prepare_digits
from alexnet_jax.state import Batch, Controls, TrainState
from alexnet_jax.train import loop
from alexnet_jax.train.step import make_train_step
from experiments.benchmark import measure, ours
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {"what": "<44", "ms/step": "10,.3f", "quartiles": ">17"}
ALONE, REAL, IDLE = "compiled step alone", "real loop", "loop around a step that does nothing"
MEMBERS = (1, 7, 32)  # of the loop around nothing
ROOT = Path(__file__).parents[2]
STEPS, STRETCHES = 10, 10  # steps of a stretch, from one log line to the next, which is one measurement; stretches of a round


def run(settings: Settings, out: Path) -> None:
    batch = settings.batch(64)
    title = f"The loop's overhead: configs/digits.py, batch {batch}; one member where M isn't said"
    table = Table("overhead", title, COLUMNS, settings, out)
    with tempfile.TemporaryDirectory() as folder:
        prepare_digits(folder)
        config = _config(folder, batch, 1)
        steps = step_alone(config)
        sides: dict[str, Callable[[], list[float]]] = {
            ALONE: lambda: [measure.seconds_of(lambda: steps(STEPS)) / STEPS for _ in range(STRETCHES)],
            REAL: lambda: in_loop(config),
        }
        for members in settings.members or MEMBERS:
            sides[f"{IDLE}, M = {members}"] = partial(in_loop, _config(folder, batch, members), _make_idle_step)
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(1, settings.rounds + 1):
            for side, measured in sides.items():
                measure.progress(f"{side}: round {number} of {settings.rounds}")
                seconds[side] += measured()
    timings = {side: measure.Timing(tuple(values)) for side, values in seconds.items()}
    for side, timing in timings.items():
        lower, upper = (1e3 * value for value in timing.quartiles)
        table.timed(timing, what=side, ms_step=1e3 * timing.median, quartiles=measure.span(lower, upper))
    added = timings[REAL].median - timings[ALONE].median
    table.note(f"the real loop adds {1e3 * added:.3f} ms to each step, {added / timings[ALONE].median:.1%} of the step's own time")


def _config(folder: str, batch: int, members: int) -> ConfigDict:
    epochs = (STRETCHES + 1) * STEPS * batch / 1257  # the digits have 1257 training images; the first stretch compiles
    changes = {"data.dir": folder, "train.batch_size": batch, "train.epochs": epochs, "train.log_every_steps": STEPS}
    changes |= {"eval.every_epochs": 1000, "train.checkpoint_every_epochs": 1000}
    return config_lib.load(f"{ROOT / 'configs/digits.py'}:members={members}", [f"{name}={value}" for name, value in changes.items()])


def in_loop(config: ConfigDict, make_step: Callable | None = None) -> list[float]:
    """Seconds of a step in each stretch of a whole run except the first, from the run's own log. `make_step` replaces `make_train_step`."""
    with tempfile.TemporaryDirectory() as workdir, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))  # the log's lines
        if make_step is not None:
            stack.enter_context(mock.patch.object(loop, "make_train_step", make_step))
        loop.train(config, Path(workdir))
        speeds = history.load(workdir).speeds
    return [config.train.batch_size / speed for speed in speeds[1:]]


def _make_idle_step(*_: Any) -> Callable:
    """A step that counts itself, and leaves the networks as they are."""

    def step(state: TrainState, controls: Controls, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        metrics = {name: jnp.zeros_like(controls.scale) for name in ("loss", "error", "learning_rate")}
        return replace(state, step=state.step + 1), metrics

    return step


def step_alone(config: ConfigDict) -> Callable[[int], None]:
    """A function that takes so many of the run's own steps, on one batch. As in the loop, the host waits only after the last of them."""
    dataset = data.load(config.data, config.model.pixel_mean)
    network = build(config, dataset.image_shape, len(dataset.classes))
    step = make_train_step(network.model, network.make_optimizer, dataset.stats, lambda step: 1.0, parallel.DEVICES)
    one = turns.plan(1, 0)
    batch = parallel.shard(data.blank_batch(config.train.batch_size, dataset.image_shape))
    held = {"parts": turns.place(network.init_state(), one)}
    controls = turns.place(ours.controls(network.hyper), one)
    program = turns.TrainProgram(step, one, held["parts"], controls, batch)
    batch = jax.device_put(batch, program.compiled.input_shardings[0][2])

    def steps(count: int) -> None:
        for _ in range(count):
            held["parts"], metrics = program(held["parts"], controls, batch)
        jax.block_until_ready((held["parts"], metrics))

    steps(STEPS)
    return steps
