"""The list of commands, that each is there and explains itself quickly, and that Ctrl-C ends them at any moment."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

import alexnet_jax
from alexnet_jax.__main__ import COMMANDS
from alexnet_jax.errors import run_cli

MODULES = re.findall(r"python -m ([\w.]+)  ", COMMANDS)


def test_list_is_printed():
    process = subprocess.run([sys.executable, "-m", "alexnet_jax"], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == COMMANDS


@pytest.mark.parametrize("module", MODULES)
def test_help_is_complete_and_needs_no_jax(module):
    started = time.perf_counter()
    process = subprocess.run([sys.executable, "-X", "importtime", "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert process.stdout.startswith("usage: ")
    assert len(process.stdout) > 200
    assert " jax\n" not in process.stderr, "--help imports jax"
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    ("module", "installed", "message"),
    [
        ("alexnet_jax", False, "error: alexnet_jax is not installed in "),
        ("alexnet_jax.train", False, "error: alexnet_jax is not installed in "),
        ("experiments.sweep", False, "error: alexnet_jax is not installed in "),
        ("alexnet_jax.train", True, "error: the package ml_collections, which alexnet_jax needs, is not installed in "),
        ("experiments.sweep", True, "error: the package ml_collections, which alexnet_jax needs, is not installed in "),
    ],
)
def test_a_python_without_the_project_or_its_packages_is_one_line(module, installed, message, tmp_path):
    root = Path(alexnet_jax.__file__).resolve().parent.parent
    for package in ("alexnet_jax", "experiments"):
        (tmp_path / package).symlink_to(root / package)
    if installed:
        (tmp_path / "alexnet_jax-0.dist-info").mkdir()
        (tmp_path / "alexnet_jax-0.dist-info" / "METADATA").write_text("Name: alexnet_jax\nVersion: 0\n")
    command = [sys.executable, "-S", "-m", module]  # -S: the standard library alone
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith(message)
    assert process.stderr.endswith(f"in {root} run `pip install -e .`, or `source .venv/bin/activate` if `make train` has made it\n")
    assert process.stderr.count("\n") == 1


def test_an_interrupt_that_python_drops_comes_again():
    script = """
import gc, time
from alexnet_jax.errors import run_cli

def interrupted_collection(phase, info):
    gc.callbacks.remove(interrupted_collection)
    raise KeyboardInterrupt

def main():
    gc.callbacks.append(interrupted_collection)
    gc.collect()
    time.sleep(30)

run_cli(main)
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (process.returncode, process.stderr) == (130, "interrupted\n")


def test_memory_that_runs_out_on_a_device_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        run_cli(lambda: jnp.zeros((1 << 22, 1 << 22)).sum().item())  # 64 TiB
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("error: a device's memory is full (RESOURCE_EXHAUSTED: Out of memory allocating ")


def test_other_errors_are_not_the_users():
    def fail():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_cli(fail)


def test_a_console_that_cannot_print_a_letter_prints_its_code():
    script = "from alexnet_jax.errors import run_cli; run_cli(lambda: print('1.03 ± 0.45 %'))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (process.returncode, process.stdout, process.stderr) == (0, "1.03 \\xb1 0.45 %\n", "")


def test_a_console_that_went_away_is_no_error_of_what_was_done():
    script = "from alexnet_jax.errors import run_cli, say; run_cli(lambda: say('done'))"
    with open("/dev/full", "w") as full:
        process = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_a_full_disk_does_not_take_is_an_error(unbuffered):
    script = "from alexnet_jax.errors import run_cli; run_cli(lambda: print('an answer'))"
    with open("/dev/full", "w") as full:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        process = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert (process.returncode, process.stderr) == (1, "error: what was to be written is cut off: No space left on device\n")


def test_what_is_closed_from_the_start_takes_no_file(tmp_path):
    """What is written to number 2 by a library doesn't come into the file that was opened first."""
    script = f"""
import os, sys
from alexnet_jax.errors import run_cli

def main():
    with open({str(tmp_path / "log")!r}, "w") as log:
        os.write(2, b"a library's warning")
        print("a line", file=log)
    print("said", sys.stderr.isatty(), file=sys.stderr)

run_cli(main)
"""
    process = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", script])
    assert (process.returncode, (tmp_path / "log").read_text()) == (0, "a line\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(36, "File name too long", "x" * 300), f"error: {'x' * 300}: File name too long\n"),
        (
            MemoryError("Unable to allocate 784. GiB"),
            "error: the machine's memory is full (Unable to allocate 784. GiB); lower the batch size",
        ),
        (MemoryError(), "error: the machine's memory is full; lower"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, said, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        run_cli(main)
    assert caught.value.code == 1
    found = capsys.readouterr().err
    assert found.startswith(said)
    assert found.count("\n") == 1


def test_figures_do_not_depend_on_somebodys_settings_of_matplotlib(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.format: pgf\n")
    script = "from alexnet_jax.errors import run_cli; run_cli(lambda: print(__import__('matplotlib').rcParams['text.usetex']))"
    environment = {**os.environ, "MPLBACKEND": "none_such", "MATPLOTLIBRC": str(tmp_path)}
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (process.returncode, process.stdout, process.stderr) == (0, "False\n", "")
