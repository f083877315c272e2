"""Trains programs as one Slurm array job, with one element for each program, of one task on each node. Uses submitit.

`launch` (launch.py) calls `run_on_slurm` with --launcher slurm:

    errors = run_on_slurm(programs, Slurm(partition="gpu"), shown=Progress(weights), parallel=4)

When the time limit of a task is near, or Slurm preempts the task, it saves, goes back into the queue and later continues. So a training may
take longer than --time. The process that submitted the job waits and shows the progress. Ctrl-C ends this process but not the jobs; if you
repeat the command, it finds them and waits again.
"""

import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alexnet_jax.errors import UserError
from alexnet_jax.history import Follower
from alexnet_jax.runlog import writing
from alexnet_jax.train.inbox import StopSignal
from experiments.launch.points import Program
from experiments.launch.progress import Progress
from experiments.launch.task import Task

if TYPE_CHECKING:
    import submitit

FOLDER = "slurm"  # below the experiment's directory: sbatch scripts, pickles and the tasks' own output
JOB = "job.json"  # in a run's directory: the job that trains it
TIMEOUTS = 100  # a task goes back into the queue at most so often because its time was up
POLL = 5.0  # seconds between two checks of the jobs


class Slurm(NamedTuple):
    """What a program requests from Slurm; for an empty field the cluster's default holds."""

    partition: str = ""
    nodes: int = 1  # a process on each; they train together (alexnet_jax/cluster.py)
    gpus: int = 1  # of each node
    minutes: int = 24 * 60
    cpus: int = 8
    memory_gb: float = 0.0
    account: str = ""
    qos: str = ""
    constraint: str = ""
    setup: tuple[str, ...] = ()  # shell lines before the training, such as `module load cuda`
    extra: tuple[str, ...] = ()  # further options of sbatch, NAME=VALUE

    def parameters(self, parallel: int) -> dict[str, Any]:
        """The arguments of `update_parameters` of submitit's AutoExecutor.

        Raises:
          UserError: an extra option isn't NAME=VALUE, or there is no node.
        """
        if self.nodes < 1:
            raise UserError(f"--nodes {self.nodes}: a program needs at least one")
        extra = {}
        for option in self.extra:
            name, equals, value = option.removeprefix("--").partition("=")
            if not equals or not name:
                raise UserError(f"--sbatch {option}: write it as NAME=VALUE, such as --sbatch nodelist=node7")
            extra[name] = value
        chosen = {
            "mem_gb": self.memory_gb,
            "gpus_per_node": self.gpus,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_constraint": self.constraint,
            "slurm_setup": list(self.setup),
            "slurm_additional_parameters": extra,
        }
        return {
            "name": "alexnet_jax",
            "timeout_min": self.minutes,
            "cpus_per_task": self.cpus,
            "nodes": self.nodes,
            "tasks_per_node": 1,
            "slurm_array_parallelism": parallel,
            **{name: value for name, value in chosen.items() if value},
        }


def minutes(text: str) -> int:
    """Minutes from a time in Slurm's notation: `90`, `90:00`, `12:00:00`, `2-0`, `1-12:30`, `1-12:30:00`.

    Raises:
      UserError: the text isn't in this notation, or the time is zero.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise UserError(f"--time {text}: write minutes, HH:MM:SS or DAYS-HH:MM:SS")
    days, first, second, third = (int(group) if group else 0 for group in match.groups())
    if match[1]:
        seconds = ((days * 24 + first) * 60 + second) * 60 + third
    elif match[4]:
        seconds = (first * 60 + second) * 60 + third
    else:
        seconds = first * 60 + second
    if not seconds:
        raise UserError(f"--time {text}: the time of a task must be longer than zero")
    return -(-seconds // 60)


def run_on_slurm(
    programs: Sequence[Program], slurm: Slurm, shown: Progress, parallel: int, cluster: str = "slurm"
) -> dict[Path, str | None]:
    """Submit the programs that have no job yet, and wait for all programs.

    Args:
      parallel: tasks of the array that may run at once.
      cluster: `slurm`, or `local`, with which submitit runs the tasks on this machine, for tests.

    Raises:
      UserError: this machine has no Slurm, or Slurm refuses the job.
      KeyboardInterrupt: after Ctrl-C; the jobs go on.
    """
    known = {program.directory: job for program in programs if (job := known_job(program.directory))}
    new = [program for program in programs if program.directory not in known]
    jobs = {**known, **_submit(new, slurm, parallel, cluster)}
    for directory, job in jobs.items():
        shown.say(f"{directory.name}: job {job.job_id}{', submitted before' if directory in known else ''}")
    errors: dict[Path, str | None] = {}
    logs = {directory: Follower(directory) for directory in jobs}
    with StopSignal() as stop:
        while len(errors) < len(jobs):
            for directory, job in jobs.items():
                if directory in errors:
                    continue
                shown.update(directory, logs[directory].progress())
                if job.done():
                    errors[directory] = _outcome(job)
                    shown.finished(directory, errors[directory])
            if stop.requested:
                left = " ".join(job.job_id for directory, job in jobs.items() if directory not in errors)
                shown.say(f"the jobs go on; repeat the command to wait for them again. To end them: scancel {left}")
                raise KeyboardInterrupt
            if len(errors) < len(jobs):
                time.sleep(POLL if cluster == "slurm" else POLL / 20)
    return errors


def _submit(programs: Sequence[Program], slurm: Slurm, parallel: int, cluster: str) -> dict[Path, "submitit.Job"]:
    import submitit

    if not programs:
        return {}
    if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError("this machine has no Slurm: sbatch and srun are not in PATH; log in to the cluster, or use --launcher local")
    folder = programs[0].directory.parent.resolve() / FOLDER
    executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=TIMEOUTS)
    executor.update_parameters(**slurm.parameters(parallel))
    try:
        with executor.batch():
            jobs = [executor.submit(Task(program)) for program in programs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(f"Slurm refuses the job: {str(error).strip().splitlines()[-1]}") from None
    for program, job in zip(programs, jobs, strict=True):
        with writing(program.directory / JOB):
            program.directory.mkdir(parents=True, exist_ok=True)
            (program.directory / JOB).write_text(json.dumps({"id": job.job_id, "folder": str(folder), "cluster": cluster}) + "\n")
    return {program.directory: job for program, job in zip(programs, jobs, strict=True)}


def known_job(directory: Path) -> "submitit.Job | None":
    """The job that was submitted for a run before and hasn't ended; None if there is none."""
    import submitit

    try:
        record = json.loads((directory / JOB).read_text())
    except (OSError, ValueError):
        return None
    kind = submitit.SlurmJob if record["cluster"] == "slurm" else submitit.LocalJob
    job: submitit.Job = kind(record["folder"], record["id"])
    return None if job.done() else job


def _outcome(job: "submitit.Job") -> str | None:
    """What the task returned; if it returned nothing, how its job ended."""
    import submitit

    try:
        return job.results()[0]  # of the first node's task, which has the run
    except (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"job {job.job_id} ended as {job.state}: {lines[0] if lines else 'no reason given'}; its output: {job.paths.stderr}"
