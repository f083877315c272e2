"""Trains programs until their runs are finished, on this machine (processes.py) or with Slurm (slurm.py).

Every command that trains programs calls it, with the costs of the programs (cost.py):

    errors = launch(programs, costs, jobs=2)    # {directory: None, or why the run did not finish}

Finished runs are skipped. Interrupted runs continue. Failed runs are trained again only with `retry`. When a run fails, the others go on.
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
    """Run every program to its end, each as `python -m alexnet_jax.train` in its own process, and show the progress on stderr.

    Args:
      costs: by directory, the number of steps of the run, and its work, which weights the progress.
      jobs: programs that train at once, at most; each gets a share of the machine's GPUs. Default: 1 on this machine, all with Slurm.
      retry: also train the programs that failed before.
      slurm: what to request from Slurm; None: train on this machine.

    Returns:
      By directory, in the order of the programs: the error of a run that failed or was stopped, None for the others.

    Raises:
      UserError: a directory holds a run of another config, or another process is launching runs there.
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
    """Whether Slurm has a job, running or waiting, that trains a program."""
    from experiments.launch.slurm import known_job

    return known_job(program.directory) is not None


def _has_ended(program: Program, done: int, steps: int) -> bool:
    """Whether a finished run has done all steps of its program. The log counts: config.json may already have the new number of epochs.

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
    """The error of a program whose run ended normally but too early: its Slurm job was submitted when the config had fewer epochs."""
    found, steps = status(program.directory), costs[program.directory].steps
    if found.state != "finished" or found.steps >= steps:
        return None
    return f"ended after {found.steps:,} of {steps:,} steps, since its job was submitted with fewer epochs; repeat the command to continue"
