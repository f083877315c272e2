"""The cost of a program: its steps and floating-point operations, and from these the time that programs will take.

`train` (train.py) and `sweep` call it before they start any training:

    costs = {program.directory: cost for program, cost in zip(programs, check(programs))}
    print(estimate(programs, costs, measure=True))    # about 12 min, at the pace of ...
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax import history
from alexnet_jax.errors import UserError
from experiments.launch.points import Program
from experiments.launch.progress import duration
from experiments.launch.results import status

SECONDS = 1.0  # a matrix product is timed for so long


class Cost(NamedTuple):
    """The work of one program."""

    steps: int
    flops: float  # of all steps and members; a multiply-accumulate counts as two
    dtype: str  # of the operations


def check(programs: Sequence[Program]) -> list[Cost]:
    """Check every program's config against its dataset, with the same check as the training, and count its work.

    Raises:
      UserError: the training would fail with the same error.
    """
    from alexnet_jax import config as config_lib
    from alexnet_jax import data, run
    from alexnet_jax.model.layers import step_flops
    from alexnet_jax.train.setup import validate

    datasets: dict[tuple, data.Dataset] = {}
    costs = []
    for program in programs:
        config = config_lib.load(program.config, program.overrides)
        where = (config.data.dir, config.data.name, config.model.pixel_mean)
        if where not in datasets:
            datasets[where] = data.load(config.data, config.model.pixel_mean)
        dataset = datasets[where]
        setup = validate(config, dataset)
        if (program.directory / run.CONFIG).exists():
            run.check_same(program.directory, config, dataset)
        arch, steps = setup.network.model.arch, setup.timeline.total
        done = status(program.directory)
        if done.state in ("interrupted", "failed") and done.step > steps:  # before a process fails there, and marks the run as failed
            epochs = f"train.epochs={config.train.epochs:g} ends at step {steps:,}"
            raise UserError(f"{program.directory} holds a run at step {done.step:,}, {epochs}; use another directory, or more epochs")
        if not arch.lrn:
            _without_lrn(program)
        per_image = step_flops(arch, len(dataset.classes), dataset.image_shape[2])
        costs.append(Cost(steps, float(per_image) * steps * config.train.batch_size * program.members, config.model.dtype))
    return costs


def _without_lrn(program: Program) -> None:
    """Refuse points that set LRN in a network without LRN: the setting would have no effect.

    Raises:
      UserError: it names the first such point.
    """
    from experiments.launch.points import setting_name

    for point in program.points:
        for key, text in point.settings.items():
            if setting_name(key) in ("lrn", "lrn_k", "lrn_alpha", "lrn_beta"):
                raise UserError(
                    f"{point.name}: {key}={text} has no effect, since model.lrn is off and the network has no LRN; leave one of the two out"
                )


class Estimate(NamedTuple):
    """How long programs will take, one after another."""

    seconds: float
    basis: str  # how it was estimated, in words
    lower_bound: bool  # the programs take at least so long

    def __str__(self) -> str:
        return f"{'at least' if self.lower_bound else 'about'} {duration(self.seconds)}, {self.basis}"


def estimate(programs: Sequence[Program], costs: Mapping[Path, Cost], measure: bool, retry: bool = False) -> Estimate | None:
    """The time that the remaining work of some programs will take.

    It comes from the pace of those programs that have already trained, or else from the pace of a matrix product on this machine.

    Args:
      measure: the programs will run on this machine, so its matrix products may be timed if no run has ended.
      retry: the programs that failed will be trained again.

    Returns:
      None if there is nothing to estimate it from.
    """
    rest = sum(costs[p.directory].flops * left(p.directory, costs[p.directory].steps, retry) for p in programs)
    work = seconds = 0.0
    counted = 0
    for program in programs:
        steps, spent = history.load(program.directory, missing_ok=True).pace
        if steps:
            work, seconds, counted = (
                work + costs[program.directory].flops * steps / costs[program.directory].steps,
                seconds + spent,
                counted + 1,
            )
    if counted and rest:
        runs = "the run of this sweep that has" if counted == 1 else f"the {counted} runs of this sweep that have"
        return Estimate(
            rest * seconds / work, f"at the pace of {runs} ended, {_rate(work / seconds)} with compilation and evaluation", False
        )
    if not rest:
        return Estimate(0.0, "since nothing is left to do", False)
    if not measure:
        return None
    fastest = "bfloat16" if any(cost.dtype == "bfloat16" for cost in costs.values()) else "float32"
    measured = _measured_here(fastest)
    if measured is None:
        return None
    basis = f"{_engineering(rest)}FLOPs at {_rate(measured.flops)}, the pace of {measured.product} measured just now on {measured.device}"
    on_top = "compilation, evaluation and operations other than matrix products take additional time"
    if measured.busy:
        on_top += "; but other programs are using this machine now, and without them it would be faster"
    return Estimate(rest / measured.flops, f"{basis}; {on_top}", not measured.busy)


def left(directory: Path, steps: int, retry: bool = False) -> float:
    """The share of a run's steps that remains: 0 for a finished run, unless it is to be trained for more steps than it has done."""
    found = status(directory)
    if (found.state == "finished" and found.steps >= steps) or (found.state == "failed" and not retry):
        return 0.0
    return 1 - min(1.0, found.step / steps)


class Pace(NamedTuple):
    """How fast the devices of this machine compute."""

    flops: float  # operations a second of all devices together
    product: str  # the matrix product that was timed, in words
    device: str  # in words
    busy: bool  # other processes use half of the processor or more


def _measured_here(dtype: str) -> Pace | None:
    """`matrix_rate` in a separate process, which frees the devices when it ends; None if the devices aren't available."""
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # another process may be training on them
    done = subprocess.run(
        [sys.executable, "-m", "experiments.launch.cost", dtype], capture_output=True, text=True, check=False, env=environment
    )
    return Pace(*json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None


def matrix_rate(dtype: str) -> Pace:
    """The pace of a matrix product on one device of this machine, multiplied by the number of devices."""
    import jax
    import jax.numpy as jnp

    from alexnet_jax import parallel

    load = os.getloadavg()[0] / (os.cpu_count() or 1)  # of the last minute; read first, before this process adds to it
    parallel.start()
    cpu = jax.default_backend() == "cpu"
    size = 2048 if cpu else 8192  # takes some milliseconds, so the time to start it is negligible
    product = jax.jit(lambda a: a @ a / size)
    x = jnp.ones((size, size), dtype)
    product(x).block_until_ready()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - started)
    flops = 2 * size**3 / best * jax.device_count()
    return Pace(flops, f"a {size} x {size} {dtype} product", ", ".join(parallel.describe()), cpu and load > 0.5)


def _rate(flops: float) -> str:
    return f"{_engineering(flops)}FLOP/s"


def _engineering(value: float) -> str:
    """`1.23 T`, `456 G`."""
    for factor, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}"
    return f"{value / 1e6:.3g} M"


if __name__ == "__main__":
    print(json.dumps(matrix_rate(sys.argv[1])))
