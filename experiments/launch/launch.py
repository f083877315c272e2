"""Programs -> finished runs: one after another or several at once on this machine, or as a Slurm array job.

Finished runs are skipped, interrupted ones go on, failed ones are left alone unless `retry` says otherwise; one failure doesn't stop the
rest.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_jax.errors import UserError
from alexnet_jax.history import Follower
from alexnet_jax.runlog import writing
from alexnet_jax.train.inbox import StopSignal
from experiments.launch.cost import Cost
from experiments.launch.points import Program
from experiments.launch.progress import Progress
from experiments.launch.results import LOG, status
from experiments.launch.task import GRACE, Task

if TYPE_CHECKING:
    from experiments.launch.slurm import Slurm

LOCK = ".launching"
POLL = 0.3  # seconds between two looks at the processes


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
    with _alone(todo[0].directory.parent), Progress(shares, finished) as shown:
        if slurm:
            from experiments.launch.slurm import run_on_slurm

            errors |= run_on_slurm(todo, slurm, shown, jobs or len(todo))
        else:
            errors |= _run_here(todo, jobs or 1, shown)
    return {program.directory: errors[program.directory] or _ended_early(program, costs) for program in programs}


def _run_here(programs: Sequence[Program], jobs: int, shown: Progress) -> dict[Path, str | None]:
    """Run programs in processes of this machine, at most `jobs` at once."""
    errors: dict[Path, str | None] = {}
    waiting, logs = list(programs), {program.directory: Follower(program.directory) for program in programs}
    running: dict[int, Task] = {}  # by slot
    slots = devices(min(jobs, len(programs)))
    with StopSignal() as stop:
        try:
            while running or (waiting and not stop.requested):
                while waiting and not stop.requested and len(running) < len(slots):
                    slot = next(i for i in range(len(slots)) if i not in running)
                    running[slot] = task = Task(waiting.pop(0), slots[slot])
                    task.start()
                    shown.say(f"{task.program.directory.name}: starts; its output is in {task.program.directory / LOG}")
                if stop.requested:
                    _stop_all(running.values(), shown)
                for slot, task in list(running.items()):
                    directory = task.program.directory
                    shown.update(directory, logs[directory].progress())
                    if task.poll():
                        del running[slot]
                        errors[directory] = task.outcome()
                        shown.finished(directory, errors[directory])
                time.sleep(POLL)
        finally:  # also when a second Ctrl-C cuts the wait short: nothing may go on behind the user's back
            for task in running.values():
                task.stop(signal.SIGTERM)
            for task in running.values():
                _end(task)
        if stop.requested:
            raise KeyboardInterrupt
    return errors


def _stop_all(tasks: Iterable[Task], shown: Progress) -> None:
    """Tell every process once to save and stop."""
    told = [task for task in tasks if not task.stopping]
    for task in told:
        task.stop(signal.SIGTERM)
    if told:
        shown.say(f"stopping: {len(told)} running save and stop; Ctrl-C again doesn't wait")


def _end(task: Task) -> None:
    """Wait a little for a process that was told twice to stop, then end it."""
    assert task.process is not None
    try:
        task.process.wait(GRACE / 10)
    except subprocess.TimeoutExpired:
        task.process.kill()
        task.process.wait()


def devices(jobs: int, environment: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """For each of several simultaneous processes, the environment variables that give it its share of the machine's NVIDIA GPUs.

    One process alone has all devices. Where there are more processes than GPUs, several share one, and its memory.
    """
    environment = os.environ if environment is None else environment
    if jobs == 1:
        return [{}]
    gpus = environment.get("CUDA_VISIBLE_DEVICES", ",".join(_gpus())).split(",")
    gpus = [gpu.strip() for gpu in gpus if gpu.strip() not in ("", "-1")]
    if not gpus:
        return [{} for _ in range(jobs)]
    if jobs <= len(gpus):
        share = len(gpus) // jobs  # as many for each, though some be left: a batch is divided evenly over a process's devices
        return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot * share : (slot + 1) * share])} for slot in range(jobs)]
    memory = 0.9 / -(-jobs // len(gpus))  # JAX takes three quarters of a GPU's memory at its start unless it is told how much
    return [{"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)], "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{memory:.2f}"} for slot in range(jobs)]


def _gpus() -> list[str]:
    """The numbers of the NVIDIA GPUs of this machine."""
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


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


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the lock of a directory in which programs are launched; the system frees it when its holder dies."""
    with writing(root / LOCK):
        root.mkdir(parents=True, exist_ok=True)
        lock = open(root / LOCK, "w")  # noqa: SIM115
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is launching runs in {root}; wait for it, or use another directory") from None
        yield
