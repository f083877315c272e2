"""When a training process is killed, and with which signal. The command (__main__.py) plans and carries out one kill after the other:

for kill in plan(20, random.Random(0)):
    carry_out(kill, "configs/digits.py", [], workdir, dice)
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.errors import UserError
from alexnet_jax.history import EVENTS, Follower, History, load

LATE = ("last evaluation", "test", "report")  # moments that come once, at the end
EARLY = ("start", "compilation", "step", "evaluation", "checkpoint write", "log write")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
PATIENCE = 600.0  # seconds that a process gets to come to its moment
POLL = 0.002


class Kill(NamedTuple):
    """A moment, and what comes then."""

    moment: str
    share: float  # of the run's steps that are done at least
    signal: signal.Signals


def plan(count: int, dice: random.Random) -> list[Kill]:
    """So many kills: the moments in turn, later and later in the run; the last of them at the moments that come at its end."""
    late = LATE[-min(len(LATE), count // 3) :] if count >= 3 else ()
    early = [EARLY[i % len(EARLY)] for i in range(count - len(late))]
    dice.shuffle(early)
    kills = [Kill(moment, (i + dice.random()) / (len(early) + 1), dice.choice(SIGNALS)) for i, moment in enumerate(early)]
    return kills + [Kill(moment, 1.0, dice.choice(SIGNALS)) for moment in late]


def start(config: str, overrides: Sequence[str], workdir: Path) -> subprocess.Popen:
    """The training command in a process of its own; what it prints is appended to a file beside the run."""
    workdir.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "alexnet_jax.train", "--config", config, "--workdir", str(workdir)]
    with open(output_of(workdir), "ab") as output:
        return subprocess.Popen(
            [*command, *(f"--config.{override}" for override in overrides)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def output_of(workdir: Path) -> Path:
    return workdir.with_name(f"{workdir.name}.txt")


def carry_out(kill: Kill, config: str, overrides: Sequence[str], workdir: Path, dice: random.Random) -> str:
    """Start the run, kill it at the moment, and wait for its end; returns in words what happened.

    Raises:
      UserError: it ended by itself before the moment came, with an error; or the moment never came.
    """
    process = start(config, overrides, workdir)
    try:
        came = _wait_for(kill, process, workdir, dice)
        process.send_signal(kill.signal)
    finally:
        if process.poll() is None and kill.signal != signal.SIGTERM:
            process.kill()
    code = process.wait(PATIENCE)
    if code not in (0, 75, -signal.SIGKILL, -signal.SIGTERM):
        raise UserError(f"the run ended with exit code {code}; its output is in {output_of(workdir)}")
    step = load(workdir, missing_ok=True).step
    how = f"{kill.signal.name} in the {kill.moment}" if came else "it had ended before the moment came"
    return f"{how}, step {step:,}, exit code {code}"


def _wait_for(kill: Kill, process: subprocess.Popen, workdir: Path, dice: random.Random) -> bool:
    """Return at the moment; False where the process ended before."""
    log = Follower(workdir, skip=True)
    seen: list[History] = []

    def has(kind: str) -> bool:
        return any(new.of_kind(kind) for new in seen)

    def tail() -> int:
        return (workdir / EVENTS).stat().st_size if (workdir / EVENTS).exists() else 0

    def writes() -> bool:
        return any(".orbax-checkpoint-tmp" in path.name for path in (workdir / "checkpoints").glob("*"))

    size = tail()
    moments: dict[str, Callable[[], bool]] = {
        "start": lambda: True,
        "compilation": lambda: has("start"),
        "step": lambda: has("memory"),
        "evaluation": lambda: has("eval"),
        "checkpoint write": writes,
        "log write": lambda: tail() > size and has("train"),
        "last evaluation": lambda: False,
        "test": lambda: has("checkpoint"),
        "report": lambda: has("end"),
    }
    delays = {"start": 4.0, "compilation": 3.0, "step": 1.0, "evaluation": 0.2, "report": 1.0, "test": 0.2}
    share = kill.share if kill.moment not in ("start", "compilation") else 0.0
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if process.poll() is not None:
            return False
        seen.append(log.read())
        if kill.moment == "last evaluation":
            ready = log.steps > 0 and any(event["step"] >= log.steps for new in seen for event in new.trains)
        else:
            done = log.step / log.steps if log.steps else 0.0
            ready = done >= min(share, 0.98 if kill.moment in EARLY else 1.0) and moments[kill.moment]()
        if ready:
            time.sleep(dice.random() * delays.get(kill.moment, 0.0))
            return process.poll() is None
        time.sleep(POLL)
    process.send_signal(signal.SIGKILL)
    raise UserError(f"the moment `{kill.moment}` didn't come in {PATIENCE:,.0f} s; the run's output is in {output_of(workdir)}")
