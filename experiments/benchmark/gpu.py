"""The part `gpu`: does everything work on one accelerator, and how fast? Tests and parts, one after the other, within some minutes.

    python -m experiments.benchmark gpu --out benchmarks/h100
    python -m experiments.benchmark gpu --quick              tiny sizes; on CPUs it shows that nothing fails for a silly reason

Each item of `PLAN` is a process of its own with a time limit, so one that fails or hangs costs only itself, and none finds memory that
another has taken. What is most in doubt comes first. What no longer fits into the time is named and left out. DIR/gpu.json says how each
ended, DIR/PART.json has what it measured, row by row, DIR/gpu.log what the processes printed. JAX's compilation cache is off: reading it
has crashed JAX 0.11.
"""

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, TextIO

import jax

from alexnet_jax import parallel
from alexnet_jax.errors import UserError
from experiments.benchmark.settings import QUICK, Settings
from experiments.benchmark.startup import ROOT
from experiments.benchmark.table import Table

COLUMNS = {"item": "<8", "result": "<60", "seconds": "8.0f", "limit s": "8.0f"}
PLATFORMS = {"gpu": "cuda,cpu"}  # the names that JAX_PLATFORMS has for a backend, where it isn't the backend's own
DONE = "done"
LEAST = 20  # seconds; an item isn't started when fewer are left


class Item(NamedTuple):
    """A child process: the words of its command after `python -m`, its limit in seconds, and the words for its sizes."""

    words: str
    limit: float
    full: str = ""
    quick: str = "--quick"

    @property
    def name(self) -> str:
        return "tests" if self.words.startswith("pytest") else self.words.split()[1]


TESTS = f"pytest -q -m accelerator -n {min(6, parallel.cores())} -p no:cacheprovider -W default --tb short --durations 5"
ONE_TOWER = "--networks one_tower --dtype bfloat16"
PLAN = (
    Item(TESTS, 150, "tests", quick="tests/test_train_program.py"),
    Item(f"experiments.benchmark train {ONE_TOWER} float32", 230, "--batch 1024 128 512 --turn 0.25"),
    Item(f"experiments.benchmark members {ONE_TOWER}", 110, "--members 7 --batch 128 --turn 0.25"),
    Item(f"experiments.benchmark feed {ONE_TOWER}", 80, "--batch 1024"),
    Item("experiments.benchmark digits", 60),
    Item(f"experiments.benchmark memory {ONE_TOWER}", 50, "--batch 1024"),
    Item(f"experiments.benchmark eval {ONE_TOWER}", 60, "--batch 1024 --turn 0.25"),
)


def run(settings: Settings, out: Path) -> None:
    """Run the plan.

    Raises:
      UserError: a setting that the items have themselves; or, at the end, that some of them didn't finish.
    """
    quick = settings.turn == 0
    if settings != dataclasses.replace(QUICK if quick else Settings(), minutes=settings.minutes):
        raise UserError("gpu has settings of its own: it takes --minutes, --quick and --out; measure single parts with other settings")
    title = f"Tests and measurements on one accelerator, each in a process of its own, within {settings.minutes:g} minutes"
    table = Table("gpu", title, COLUMNS, settings, out)
    started, unfinished = time.monotonic(), []
    with (out / "gpu.log").open("w+") as log:
        for item in PLAN:
            left = 60 * settings.minutes - (time.monotonic() - started)
            limit = min(item.limit, left)
            began = time.monotonic()
            result = _run(item, quick, limit, out, log) if left > LEAST else f"left out, {max(0, left):.0f} s were left"
            table.row(item=item.name, result=result, seconds=time.monotonic() - began, limit_s=limit)
            if not result.startswith(DONE):
                unfinished.append(item.name)
    if unfinished:
        raise UserError(f"not finished: {', '.join(unfinished)}; {out / 'gpu.log'} says why")


def _run(item: Item, quick: bool, limit: float, out: Path, log: TextIO) -> str:
    """Run an item, and show and log what it prints; returns how it ended."""
    words = [sys.executable, "-m", *item.words.split(), *(item.quick if quick else item.full).split()]
    if item.name != "tests":
        words += ["--out", str(out.resolve())]
    print(f"\n$ python {shlex.join(words[1:])}", file=log, flush=True)
    before = log.tell()
    with subprocess.Popen(words, cwd=ROOT, env=_environment(), stdout=log, stderr=log, start_new_session=True) as process:
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what it has started
    log.seek(before)
    printed = log.read().rstrip()
    print(f"\n{printed}", flush=True)
    ended = DONE if code == 0 else "ended at its limit" if code is None else f"failed, exit code {code}"
    last = printed.splitlines()[-1].strip("= ") if printed else ""
    return f"{ended}: {last}" if item.name == "tests" and code is not None else ended


def _environment() -> dict[str, str]:
    """The tests would use CPUs unless they are told otherwise."""
    backend = jax.default_backend()
    return {
        **os.environ,
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS") or PLATFORMS.get(backend, backend),
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
