"""The part `gpu`: does everything work on one accelerator, and how fast? Tests and parts, one after the other, within some minutes.

    python -m experiments.benchmark gpu --out benchmarks/h100
    python -m experiments.benchmark gpu --quick              tiny sizes; on CPUs it shows that nothing fails for a silly reason

Each item of `PLAN` is a process of its own with a time limit, so one that fails or hangs costs only itself, and none finds memory that
another has taken. What is most in doubt comes first. An item that no longer fits into the time is named and left out. DIR/gpu.json says how
each ended, DIR/ITEM/PART.json has what it measured, row by row, DIR/gpu.log what the processes printed. JAX's compilation cache is off:
reading it has crashed JAX 0.11.
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

from alexnet_jax import host
from alexnet_jax.errors import UserError
from experiments.benchmark.settings import QUICK, Settings
from experiments.benchmark.startup import ROOT
from experiments.benchmark.table import Table

COLUMNS = {"item": "<10", "result": "<60", "seconds": "8.0f", "limit s": "8.0f"}
PLATFORMS = {"gpu": "cuda,cpu"}  # the names that JAX_PLATFORMS has for a backend, where it isn't the backend's own
DONE = "done"
PATIENCE = 1.5  # an item is ended after so many times the seconds that it should take


class Item(NamedTuple):
    """A child process: its name, the words of its command after `python -m`, how long it should take, and the words for its sizes."""

    name: str
    words: str
    seconds: float  # it is started only if so many are left
    full: str = ""
    quick: str = "--quick"


TESTS = f"pytest -q -m accelerator -n {min(12, host.cores())} -p no:cacheprovider -W default --tb short --durations 5"
ONE_TOWER = "--networks one_tower --dtype"
TRAIN = f"experiments.benchmark train --variations {ONE_TOWER}"  # without variations
# Seconds on an H100 with 16 cores. Six workers took 125 for the tests. The others are estimates: 15 to 20 for a start, most of the rest for
# compiling. There the training step took 50 up to the end of its first call with batch 1024, 21 with batch 128; PyTorch's compiled one 30.
# So the first five fit into 8 minutes, or six where more workers are quicker, and all into 14.
PLAN = (
    Item("tests", TESTS, 125, "tests", quick="tests/test_train_program.py"),
    Item("train_1024", f"{TRAIN} bfloat16", 115, "--batch 1024 --turn 0.25"),
    Item("members", f"experiments.benchmark members {ONE_TOWER} bfloat16", 75, "--members 7 --batch 128 --turn 0.25"),
    Item("train_128", f"{TRAIN} bfloat16", 80, "--batch 128 --turn 0.25"),
    Item("digits", "experiments.benchmark digits", 55),
    Item("feed", f"experiments.benchmark feed {ONE_TOWER} bfloat16", 60, "--batch 128 --images 512 --turn 0.25"),
    Item("eval", f"experiments.benchmark eval {ONE_TOWER} bfloat16", 75, "--batch 256 --turn 0.25"),
    Item("memory", f"experiments.benchmark memory {ONE_TOWER} bfloat16", 60, "--batch 128"),
    Item("float32", f"{TRAIN} float32", 80, "--batch 128 --turn 0.25"),
    Item("train_512", f"{TRAIN} bfloat16", 95, "--batch 512 --turn 0.25"),
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
            if item.seconds <= left:
                limit, began = min(PATIENCE * item.seconds, left), time.monotonic()
                result = _run(item, quick, limit, out, log)
                table.row(item=item.name, result=result, seconds=time.monotonic() - began, limit_s=limit)
            else:
                result = f"left out: it may take {item.seconds:.0f} s, and {max(0, left):.0f} s were left"
                table.row(item=item.name, result=result)
            if not result.startswith(DONE):
                unfinished.append(item.name)
    if unfinished:
        raise UserError(f"not finished: {', '.join(unfinished)}; {out / 'gpu.log'} says why")


def _run(item: Item, quick: bool, limit: float, out: Path, log: TextIO) -> str:
    """Run an item, and show and log what it prints; returns how it ended."""
    words = [sys.executable, "-m", *item.words.split(), *(item.quick if quick else item.full).split()]
    if item.name != "tests":
        words += ["--out", str(out.resolve() / item.name)]
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
