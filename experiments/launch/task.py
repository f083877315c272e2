"""The training process of one program: starts it, stops it, and stores its error.

processes.py uses it in this process; slurm.py pickles it, and the Slurm job calls it:

    task = Task(program)
    task.start()
    while not task.poll():
        time.sleep(0.2)
    error = task.outcome()    # None if the run is finished
"""

import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

from alexnet_jax.history import Follower
from alexnet_jax.runlog import writing
from experiments.launch.points import Program
from experiments.launch.results import FAILURE, LOG

STOPPED = "stopped; repeat the command to continue"
WARNING = 60.0  # seconds that a Slurm task whose training was stopped waits for Slurm's warning signal
GRACE = 60.0  # seconds that a process has to save; Slurm's warning comes 90 s before the end
# Slurm sends its warning signal, SIGUSR2, to every process of the job. submitit handles it; the training doesn't, and it would end. So a
# shell first ignores the signal and then becomes the training. A Python function between fork and exec would be unsafe with JAX's threads.
_IGNORE_WARNING = ("sh", "-c", "trap '' USR2; exec \"$@\"", "sh")
_STOPPED = (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes after these signals


def command(program: Program) -> list[str]:
    """The command line that trains a program."""
    overrides = [f"--config.{override}" for override in program.overrides]
    return [sys.executable, "-m", "alexnet_jax.train", "--config", program.config, "--workdir", str(program.directory), *overrides]


def _node() -> int:
    """Which of a Slurm job's tasks this is, one on each node. The first one's process has the run."""
    return int(os.environ.get("SLURM_PROCID", "0")) if os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1" else 0


class Task:
    """A program and, after `start`, its process; on several nodes, one of its processes."""

    def __init__(self, program: Program, environment: dict[str, str] | None = None) -> None:
        self.program, self._environment = program, environment or {}
        self.argv = command(program)
        self.process: subprocess.Popen | None = None
        self.stopping = False

    def start(self) -> None:
        """Start the process. Its output is appended to the log in its directory.

        The process has its own session, so Ctrl-C in the terminal reaches the launcher only, which sends the process one signal. A second
        signal would make the run exit without saving.
        """
        directory, node = self.program.directory, _node()
        self._log = directory / (f"node{node}-{LOG}" if node else LOG)
        with writing(self._log):
            directory.mkdir(parents=True, exist_ok=True)
            if not node:
                (directory / FAILURE).unlink(missing_ok=True)
            log = open(self._log, "ab")  # noqa: SIM115
        with log:
            self._log_start = log.tell()
            self._events = Follower(directory, skip=True)  # skips the events of earlier processes
            self.process = subprocess.Popen(
                [*_IGNORE_WARNING, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
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
        """None for a finished run, otherwise the reason in one line. The error of a failed run is also written into its directory."""
        assert self.process is not None
        code, directory = self.process.wait(), self.program.directory
        if code == 0:
            return None
        reason = self._events.read().end.get("reason")
        if reason == "diverged":
            return None  # which is a result
        if reason == "stopped" or self.stopping or code in _STOPPED:  # "stopped": as by alexnet_jax.control
            return STOPPED
        error = _last_error(self._log.read_bytes()[self._log_start :].decode(errors="replace"), code)
        if not _node():
            with writing(directory / FAILURE):
                (directory / FAILURE).write_text(error + "\n", encoding="utf-8")
        return error

    def __call__(self) -> str | None:
        """Run the program to its end. A Slurm job calls this."""
        self.start()
        while not self.poll():  # no wait(): during that, the signal handler that calls `checkpoint` could not see the process end
            time.sleep(0.2)
        outcome = self.outcome()
        if outcome == STOPPED and "SLURM_JOB_ID" in os.environ:
            time.sleep(WARNING)  # preempted: Slurm's SIGTERM stopped the training; the signal that queues the task again may follow
        return outcome

    def checkpoint(self) -> Any:
        """Save, stop and queue again. submitit calls this shortly before the time limit, and when Slurm preempts the job.

        It sends SIGINT: Slurm itself may have sent a SIGTERM already, and after a second SIGTERM the process would not wait for the save.
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
    """The line of a process's output that most likely says why it failed."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + ("; the system does this when memory runs out" if name == "SIGKILL" else "")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if re.match(r"error: |[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or [f"exit code {code}, without any output"])[-1]
