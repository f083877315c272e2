"""Trains programs in processes on this machine, one after another or several at once. Each process gets a share of the GPUs.

`launch` (launch.py) calls `run_here` unless Slurm was requested:

    errors = run_here(programs, jobs=2, shown=Progress(weights))
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from alexnet_jax.history import Follower
from alexnet_jax.train.inbox import StopSignal
from experiments.launch.points import Program
from experiments.launch.progress import Progress
from experiments.launch.results import LOG
from experiments.launch.task import GRACE, Task

POLL = 0.3  # seconds between two checks of the processes


def run_here(programs: Sequence[Program], jobs: int, shown: Progress) -> dict[Path, str | None]:
    """Run programs in processes on this machine, at most `jobs` at once, and report their progress to `shown`.

    Returns:
      By directory: the error of a run that failed or was stopped, None for the others.

    Raises:
      KeyboardInterrupt: after Ctrl-C or SIGTERM, when every process has saved and stopped.
    """
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
        finally:  # also after a second Ctrl-C, which ends the wait: no process may stay alive without the user knowing
            for task in running.values():
                task.stop(signal.SIGTERM)
            for task in running.values():
                _end(task)
        if stop.requested:
            raise KeyboardInterrupt
    return errors


def _stop_all(tasks: Iterable[Task], shown: Progress) -> None:
    """Ask every process to save and stop; each is asked once."""
    told = [task for task in tasks if not task.stopping]
    for task in told:
        task.stop(signal.SIGTERM)
    if told:
        shown.say(f"stopping; running programs that save now: {len(told)}; press Ctrl-C again to end them without waiting")


def _end(task: Task) -> None:
    """Wait a few seconds for a process that was asked twice to stop, then kill it."""
    assert task.process is not None
    try:
        task.process.wait(GRACE / 10)
    except subprocess.TimeoutExpired:
        task.process.kill()
        task.process.wait()


def devices(jobs: int, environment: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """For each of several simultaneous processes, the environment variables that give it a share of the machine's NVIDIA GPUs.

    A single process gets all devices. If there are more processes than GPUs, several processes share a GPU and its memory.
    """
    environment = os.environ if environment is None else environment
    if jobs == 1:
        return [{}]
    gpus = environment.get("CUDA_VISIBLE_DEVICES", ",".join(_gpus())).split(",")
    gpus = [gpu.strip() for gpu in gpus if gpu.strip() not in ("", "-1")]
    if not gpus:
        return [{} for _ in range(jobs)]
    if jobs <= len(gpus):
        share = len(gpus) // jobs  # the same number for each, even if some GPUs stay unused: a batch is divided evenly over them
        return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot * share : (slot + 1) * share])} for slot in range(jobs)]
    memory = 0.9 / -(-jobs // len(gpus))  # without this, each JAX process reserves three quarters of a GPU's memory when it starts
    return [{"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)], "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{memory:.2f}"} for slot in range(jobs)]


def _gpus() -> list[str]:
    """The numbers of the NVIDIA GPUs of this machine."""
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]
