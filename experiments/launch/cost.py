"""What a program costs: its steps and floating-point operations, and from these the time that programs will take."""

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

SECONDS = 1.0  # for which a matrix product is timed


class Cost(NamedTuple):
    """The work of one program."""

    steps: int
    flops: float  # of all steps and members; two a multiply-accumulate
    dtype: str  # in which they are done


def check(programs: Sequence[Program]) -> list[Cost]:
    """Build every program's config, network and plan against its dataset, as the training will, and count its work.

    Raises:
      UserError: what the training would refuse.
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
        if not arch.lrn:
            _without_lrn(program)
        per_image = step_flops(arch, len(dataset.classes), dataset.image_shape[2])
        costs.append(Cost(steps, float(per_image) * steps * config.train.batch_size * program.members, config.model.dtype))
    return costs


def _without_lrn(program: Program) -> None:
    """Refuse points that set LRN in a network that has none: they would all be the same.

    Raises:
      UserError: naming the first.
    """
    from experiments.launch.points import setting_name

    for point in program.points:
        for key, text in point.settings.items():
            if setting_name(key) in ("lrn", "lrn_k", "lrn_alpha", "lrn_beta"):
                raise UserError(
                    f"{point.name}: {key}={text} has no effect, the network has no LRN (model.lrn is off); leave one of them out"
                )


class Estimate(NamedTuple):
    """How long programs will take, one after another, and what that was taken from."""

    seconds: float
    basis: str
    lower_bound: bool

    def __str__(self) -> str:
        return f"{'at least' if self.lower_bound else 'about'} {duration(self.seconds)}, {self.basis}"


def estimate(programs: Sequence[Program], costs: Mapping[Path, Cost], measure: bool, retry: bool = False) -> Estimate | None:
    """The time of what is left to do of some programs: by the pace of runs of theirs that have ended, or else of a matrix product here.

    Args:
      measure: whether the programs will run on this machine, so that its pace may be measured where no run has ended.
      retry: whether those that failed will be done too.

    Returns:
      None where there is nothing to take it from.
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
    basis = f"{_engineering(rest)}FLOPs at {_rate(measured.flops)}, what {measured.product} reached just now on {measured.device}"
    on_top = "compilation, evaluation and all that isn't a product come on top"
    if measured.busy:
        on_top += "; but the machine is busy with other work, without which it would be faster"
    return Estimate(rest / measured.flops, f"{basis}; {on_top}", not measured.busy)


def left(directory: Path, steps: int, retry: bool = False) -> float:
    """The share of a run's steps that is to be done: none of a finished one, unless it shall go on for longer than it did."""
    found = status(directory)
    if (found.state == "finished" and found.steps >= steps) or (found.state == "failed" and not retry):
        return 0.0
    return 1 - min(1.0, found.step / steps)


class Pace(NamedTuple):
    """What the devices of this machine do."""

    flops: float  # a second, of all devices together
    product: str  # that was timed, in words
    device: str  # in words
    busy: bool  # whether other processes keep half of the processor or more


def _measured_here(dtype: str) -> Pace | None:
    """`matrix_rate` in a process of its own, which gives the devices back; None where they are not to be had."""
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # another process may be training on them
    done = subprocess.run(
        [sys.executable, "-m", "experiments.launch.cost", dtype], capture_output=True, text=True, check=False, env=environment
    )
    return Pace(*json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None


def matrix_rate(dtype: str) -> Pace:
    """The pace of a matrix product on one of this machine's devices, times their number."""
    import jax
    import jax.numpy as jnp

    from alexnet_jax import parallel

    load = os.getloadavg()[0] / (os.cpu_count() or 1)  # of the last minute, before this process adds to it
    parallel.start()
    cpu = jax.default_backend() == "cpu"
    size = 2048 if cpu else 8192  # some milliseconds, so that starting it doesn't count
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
