"""The part `startup`: the time from the command to the first training step, without and with compiled programs; imports; --help.

python -m experiments.benchmark startup
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alexnet_jax.history import Follower
from experiments.benchmark import measure
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {"what": "<58", "median s": "8.2f", "quartiles": ">15"}
ROOT = Path(__file__).parents[2]
COLD, WARM = "configs/digits.py to its first step, empty cache", "configs/digits.py to its first step, compiled before"


def run(settings: Settings, out: Path) -> None:
    table = Table("startup", "Start-up; each row is measured in new processes", COLUMNS, settings, out)
    sides: dict[str, measure.Side] = {
        "python -c pass": lambda: _python("-c", "pass"),
        "import jax": lambda: _python("-c", "import jax"),
        "import alexnet_jax.train.loop, which imports all of training": lambda: _python("-c", "import alexnet_jax.train.loop"),
        "python -m alexnet_jax.train --help": lambda: _python("-m", "alexnet_jax.train", "--help"),
    }
    if measure.has_torch():
        sides["import torch"] = lambda: _python("-c", "import torch")
    _report(table, measure.alternately(sides, settings.rounds, turn=0))
    with tempfile.TemporaryDirectory() as folder:
        seconds: dict[str, list[float]] = {COLD: [], WARM: []}
        _to_first_step(Path(folder), "discarded")  # not counted: prepares the digits, and loads the program's files into memory
        for number in range(1, settings.rounds + 1):
            for side, values in seconds.items():
                measure.progress(f"{side}: round {number} of {settings.rounds}")
                values.append(_to_first_step(Path(folder), f"round{number}"))  # the second call of a round finds the first one's cache
        _report(table, {side: measure.Timing(tuple(values)) for side, values in seconds.items()})
    if measure.has_torch():
        table.note(
            "PyTorch is hidden from the two runs of configs/digits.py: otherwise tensorboardX imports it, which takes as long as "
            "`import torch`"
        )


def _report(table: Table, timings: dict[str, measure.Timing]) -> None:
    for what, timing in timings.items():
        table.timed(timing, what=what, median_s=timing.median, quartiles=measure.span(*timing.quartiles))


def _python(*words: str) -> None:
    subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def _to_first_step(folder: Path, cache: str) -> float:
    """Seconds from the command until the log has the first training step; then the run is ended.

    PyTorch is hidden from the run: tensorboardX would import it, though a training doesn't need it.
    """
    workdir = folder / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    options = [f"--config.data.dir={folder / 'data'}", "--config.train.log_every_steps=1"]
    (hidden := folder / "hidden").mkdir(exist_ok=True)
    (hidden / "torch.py").write_text('raise ImportError("hidden")\n')
    command = [sys.executable, "-m", "alexnet_jax.train", "--config", "configs/digits.py", "--workdir", str(workdir), *options]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / cache), "PYTHONPATH": str(hidden)}
    training, started = Follower(workdir), time.perf_counter()
    with open(folder / "log", "w+") as log, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as process:
        try:
            while not training.read().trains:
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"{' '.join(command)} ended before its first step:\n{log.read()}")
                time.sleep(0.01)
            return time.perf_counter() - started
        finally:
            process.kill()
