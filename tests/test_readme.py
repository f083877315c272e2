"""Every command of the README runs, in its order, in an empty folder: on small data and briefly, but as written.

Those that start trainings, and those that need their runs, are slow, but for `make train`. Of each the arguments are read in any case.
"""

import gzip
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import hyper
from alexnet_jax.report import write
from alexnet_jax.train import loop

TRAININGS = ("alexnet_jax.train", "experiments.sweep", "experiments.ablate", "experiments.reproduce")
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
PREPARATIONS = [command for command in COMMANDS if "alexnet_jax.prepare" in command]
BRIEF = [
    "--config.train.epochs=0.1",
    "--config.train.batch_size=8",
    "--config.train.members_per_program=1",  # a program of seven takes three times as long to compile
    "--config.model.width=0.04",
    "--config.eval.batch_size=32",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder with the repository's configs and experiments, four small IDX files, and a few pictures in ILSVRC2012/."""
    folder, rng = tmp_path_factory.mktemp("readme"), np.random.default_rng(0)
    for name in ("configs", "experiments", "alexnet_jax"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "fashion-mnist").mkdir()
    for split, count in (("train", 5400), ("t10k", 60)):
        header = bytes([0, 0, 8, 3]) + np.array([count, 28, 28], ">i4").tobytes()
        images = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        (folder / "fashion-mnist" / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes(), 1))
        header = bytes([0, 0, 8, 1]) + np.array([count], ">i4").tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / "fashion-mnist" / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes(), 1))
    for split, count in (("train", 80), ("val", 8)):
        for label in ("n02119789", "n02123045"):
            directory = folder / "ILSVRC2012" / split / label
            directory.mkdir(parents=True)
            for i in range(count // 2):
                Image.fromarray(rng.integers(0, 256, (260, 300, 3)).astype(np.uint8)).save(directory / f"{i}.jpg")
    return folder


def recipe_of(target, prerequisite):
    """The lines that make would run. Its variables are left out of the environment: these tests may run under make themselves."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    make = ["make", "-n", "-o", prerequisite, target]
    return subprocess.run(make, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.strip().splitlines()


def brief(command):
    """The command with what makes it short appended; `make train` as the command that it runs."""
    if command == "make train":
        command = recipe_of("train", ".venv/.installed")[-1].replace(".venv/bin/", "")
    words = shlex.split(command)
    assert words[0] == "python"
    more = BRIEF if words[2] in TRAININGS else ["--allow-incomplete"] if words[2:4] == ["alexnet_jax.prepare", "imagenet"] else []
    return [sys.executable, *words[1:], *more]


def is_slow(command):
    """It starts a training, or needs a run that only such a command makes; or it is the report, which takes longest of the others."""
    return any(name in command for name in (*TRAININGS, "experiments.report")) or bool(re.search(r"runs/(?!digits\b)", command))


def test_commands_are_found():
    assert COMMANDS[:2] == ["make train", "make test"]
    assert len(COMMANDS) >= 12


def run(command, folder):
    """On two devices, and `make train` with the compiler's settings that users have."""
    quick = "" if command == "make train" else os.environ["XLA_FLAGS"].partition(" ")[2]
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {quick}"}
    process = subprocess.run(brief(command), cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.fixture(scope="module")
def prepared(folder):
    """The folder after the README's `prepare` commands, which quick and slow commands need."""
    for command in PREPARATIONS:
        run(command, folder)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.slow] * is_slow(command))
        for command in COMMANDS
        if command not in ("make test", *PREPARATIONS)
    ],
)
def test_command_runs(command, prepared):
    run(command, prepared)


@pytest.mark.parametrize("command", [command for command in COMMANDS if any(name in command for name in TRAININGS)])
def test_the_arguments_of_a_training_are_understood(command, digits_dir, tmp_path, monkeypatch, capsys):
    """A training's make a config, a study's a plan."""
    module, *words = brief(command)[2:]
    main = importlib.import_module(f"{module}.__main__").main
    if module == "alexnet_jax.train":
        configs = []
        monkeypatch.setattr(loop, "train", lambda config, *_: configs.append(config) or {})
        monkeypatch.setattr(write, "write_report", lambda workdir: sys.exit())
        with pytest.raises(SystemExit):
            main(words)
        assert hyper.from_config(configs[0])
    else:
        main([*words, f"--config.data.dir={digits_dir}", "--dry-run"])
        assert "members" in capsys.readouterr().out


def test_make_test_is_lint_types_and_tests():
    assert [line.split("/")[-1].split()[0] for line in recipe_of("test", ".venv/.dev")] == ["ruff", "ruff", "mypy", "python"]
