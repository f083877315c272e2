"""Programs -> finished runs: which of them are to be trained, and where: on this machine (processes.py) or in Slurm (slurm.py).

Every command that trains programs calls it, with what they cost (cost.py):

    errors = launch(programs, costs, jobs=2)    # {directory: None, or why the run did not finish}

Finished runs are skipped, interrupted ones go on, failed ones are left alone unless `retry` says otherwise; one failure doesn't stop the
rest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_jax.errors import UserError
from alexnet_jax.locks import locked
from experiments.launch.cost import Cost
from experiments.launch.points import Program
from experiments.launch.processes import run_here
from experiments.launch.progress import Progress
from experiments.launch.results import status

if TYPE_CHECKING:
    from experiments.launch.slurm import Slurm

LOCK = ".launching"


def launch(
    programs: Sequence[Program],
    costs: Mapping[Path, Cost],
    jobs: int | None = None,
    retry: bool = False,
    slurm: "Slurm | None" = None,
) -> dict[Path, str | None]:
    """Run every program to its end, each as `python -m alexnet_jax.train` in a process of its own, and show the progress on stderr.

    Args:
      costs: by directory: the steps by which a run has ended, and its work, for the progress.
      jobs: at most so many at once, each with its share of the machine's GPUs; by default one here, and all of them in Slurm.
      retry: also those that failed before.
      slurm: what to ask Slurm for; None: they run here.

    Returns:
      By directory, in the order of the programs, the error of a run that failed or was stopped, None for the others.

    Raises:
      UserError: a directory holds a run of another config, or another process is launching there.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, when every process has saved and stopped.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"jobs is {jobs}; it must be at least 1")
    errors: dict[Path, str | None] = {}
    todo = []
    for program in programs:
        found = status(program.directory)
        if found.state == "running" and not (slurm and _is_submitted(program)):
            errors[program.directory] = "another process is training it"
        elif found.state == "failed" and not retry:
            errors[program.directory] = found.error
        elif found.state == "finished" and _has_ended(program, found.steps, costs[program.directory].steps):
            errors[program.directory] = None
        else:
            todo.append(program)
    if not todo:
        return errors
    finished = [program.directory for program in programs if errors.get(program.directory, "") is None]
    shares = {p.directory: costs[p.directory].flops for p in programs if not errors.get(p.directory)}
    root = todo[0].directory.parent
    busy = f"another process is launching runs in {root}; wait for it, or use another directory"
    with locked(root / LOCK, busy), Progress(shares, finished) as shown:
        if slurm:
            from experiments.launch.slurm import run_on_slurm

            errors |= run_on_slurm(todo, slurm, shown, jobs or len(todo))
        else:
            errors |= run_here(todo, jobs or 1, shown)
    return {program.directory: errors[program.directory] or _ended_early(program, costs) for program in programs}


def _is_submitted(program: Program) -> bool:
    """Whether a job in Slurm, which may be running, is there to train a program."""
    from experiments.launch.slurm import known_job

    return known_job(program.directory) is not None


def _has_ended(program: Program, done: int, steps: int) -> bool:
    """Whether a finished run is as long as its program; by the steps in its log, since config.json may already say more epochs.

    Raises:
      UserError: it is a run of another config, or of more epochs.
    """
    from alexnet_jax import config as config_lib
    from alexnet_jax import run

    different = run.check_config(program.directory, config_lib.load(program.config, program.overrides))
    before, after = different.get("train.epochs", (0, 0))
    if after < before:
        raise UserError(f"{program.directory} holds a run of {before:g} epochs, now it is {after:g}; use another directory")
    return done >= steps


def _ended_early(program: Program, costs: Mapping[Path, Cost]) -> str | None:
    """The error of a program whose run ended without one, but before all of its steps: a job in Slurm knew of fewer epochs."""
    found, steps = status(program.directory), costs[program.directory].steps
    if found.state != "finished" or found.steps >= steps:
        return None
    return f"ended after {found.steps:,} of {steps:,} steps, as its job, submitted before, was told; the same command goes on"
