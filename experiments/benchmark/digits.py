"""The part `digits`: the whole training of configs/digits.py, as `make train` starts it: how long it takes, and how well it ends.

python -m experiments.benchmark digits
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alexnet_jax import history
from alexnet_jax.history import Follower
from experiments.benchmark.settings import Settings
from experiments.benchmark.startup import ROOT
from experiments.benchmark.table import Table

COLUMNS = {"what": "<58", "value": "20"}
WORST = 0.02  # the members' mean error; README.md's run has 0.0103, with a standard deviation of 0.0045 between members


def run(settings: Settings, out: Path) -> None:
    table = Table("digits", "configs/digits.py, seven networks at once, in a process of its own", COLUMNS, settings, out)
    with tempfile.TemporaryDirectory() as folder:
        options = ["--config.train.epochs=0.5"] if settings.turn == 0 else []  # --quick
        first, whole = _train(Path(folder), options)
        past = history.load(Path(folder) / "run")
    test = past.test
    errors = f"{100 * test['mean_top1_error']:.2f} ± {100 * test['std_top1_error']:.2f} %"
    table.row(what="seconds from the command to its tenth step, which is logged", value=f"{first:.1f}")
    table.row(what="seconds from the command to the end", value=f"{whole:.1f}")
    speeds = [event["member_images_per_second"] for event in past.trains]
    table.row(what="images x members/s, median of the log", value=f"{statistics.median(speeds):,.0f}")
    table.row(what=f"test error, {test['count']} images, mean ± std of members", value=errors, error=test["mean_top1_error"])
    table.row(what="test error of the ensemble", value=f"{100 * test['ensemble_top1_error']:.2f} %")
    if not options and test["mean_top1_error"] > WORST:
        raise RuntimeError(f"the networks err on {errors} of the test images; at most {WORST:.0%} was expected")


def _train(folder: Path, options: list[str]) -> tuple[float, float]:
    """Seconds to the first line of the log and to the end of the run in `folder`/run; the digits are prepared before."""
    from alexnet_jax.prepare.datasets import prepare_digits

    prepare_digits(folder / "data")
    words = ["-m", "alexnet_jax.train", "--config", "configs/digits.py", "--workdir", str(folder / "run"), *options]
    words += [f"--config.data.dir={folder / 'data'}"]
    training, logged, started = Follower(folder / "run"), None, time.perf_counter()
    with open(folder / "log", "w+") as log, subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=log, stderr=log) as process:
        while process.poll() is None:
            if logged is None and training.read().trains:
                logged = time.perf_counter() - started
            time.sleep(0.01)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"python {' '.join(words)} failed:\n{log.read()}")
    whole = time.perf_counter() - started
    return whole if logged is None else logged, whole
