"""One program's training process: started, stopped, and its error kept. Used in this process and, pickled, in a Slurm job."""

import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

from alexnet_jax.cpu import HUGE_PAGES
from alexnet_jax.history import Follower
from alexnet_jax.runlog import writing
from experiments.launch.points import Program
from experiments.launch.results import FAILURE, LOG

STOPPED = "stopped; the same command goes on from there"
WARNING = 60.0  # seconds that a task in Slurm whose training was stopped waits for Slurm's warning
GRACE = 60.0  # seconds that a process gets to save; Slurm's warning comes 90 s before the end
# Slurm sends its warning, which is submitit's to answer, to every process of the job; unheeded it would end the training. A shell ignores
# it for what it becomes, since a function between fork and exec is unsafe beside JAX's threads.
_HEEDLESS = ("sh", "-c", "trap '' USR2; exec \"$@\"", "sh")
_STOPPED = (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a process that a signal ended


def command(program: Program) -> list[str]:
    """The command line that trains a program."""
    overrides = [f"--config.{override}" for override in program.overrides]
    return [sys.executable, "-m", "alexnet_jax.train", "--config", program.config, "--workdir", str(program.directory), *overrides]


class Task:
    """A program and, once started, its process."""

    def __init__(self, program: Program, environment: dict[str, str] | None = None) -> None:
        self.program, self._environment = program, environment or {}
        self.argv = command(program)
        self.process: subprocess.Popen | None = None
        self.stopping = False

    def start(self) -> None:
        """Start the process; what it prints is appended to the log in its directory.

        In a session of its own: a Ctrl-C in the terminal reaches the launcher alone, which passes it on once. (A second one would make
        the run leave without saving.)
        """
        directory = self.program.directory
        with writing(directory / LOG):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / FAILURE).unlink(missing_ok=True)
            log = open(directory / LOG, "ab")  # noqa: SIM115
        with log:
            self._log_start = log.tell()
            self._events = Follower(directory, skip=True)  # without what earlier processes left
            self.process = subprocess.Popen(
                [*_HEEDLESS, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**HUGE_PAGES, **os.environ, **self._environment},
                start_new_session=True,
            )

    def poll(self) -> bool:
        """Whether the process has ended."""
        assert self.process is not None
        return self.process.poll() is not None

    def stop(self, number: int) -> None:
        """Ask the process to save and stop."""
        self.stopping = True
        if self.process is not None and not self.poll():
            self.process.send_signal(number)

    def outcome(self) -> str | None:
        """None for a run that finished, else in one line why it did not. A failure, which is no stop, is kept in the directory."""
        assert self.process is not None
        code, directory = self.process.wait(), self.program.directory
        if code == 0:
            return None
        stopped = self._events.read().end.get("reason") == "stopped"  # as by alexnet_jax.control
        if stopped or self.stopping or code in _STOPPED:
            return STOPPED
        error = _last_error((directory / LOG).read_bytes()[self._log_start :].decode(errors="replace"), code)
        with writing(directory / FAILURE):
            (directory / FAILURE).write_text(error + "\n", encoding="utf-8")
        return error

    def __call__(self) -> str | None:
        """Run to the end: what a Slurm job does."""
        self.start()
        while not self.poll():  # no wait(): during that, the signal handler that calls `checkpoint` could not see the process end
            time.sleep(0.2)
        outcome = self.outcome()
        if outcome == STOPPED and "SLURM_JOB_ID" in os.environ:
            time.sleep(WARNING)  # preempted: the training has heeded Slurm's SIGTERM, the warning that queues the task again may follow
        return outcome

    def checkpoint(self) -> Any:
        """What submitit calls shortly before the time is up, or when the job is preempted: save, stop, and queue again.

        SIGINT, since Slurm itself may have sent the process its first SIGTERM, and a second one doesn't wait for the save.
        """
        from submitit.helpers import DelayedSubmission

        self.stop(signal.SIGINT)
        until = time.monotonic() + GRACE
        while self.process is not None and not self.poll() and time.monotonic() < until:
            time.sleep(0.1)
        if self.process is not None and not self.poll():
            self.process.kill()
        return DelayedSubmission(Task(self.program, self._environment))


def _last_error(log: str, code: int) -> str:
    """The line of a process's output that says best why it failed."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if re.match(r"error: |[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or [f"exit code {code}, without a word"])[-1]
