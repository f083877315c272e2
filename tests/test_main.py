"""The list of commands, that each is there and explains itself quickly, and that Ctrl-C ends them at any moment."""

import re
import subprocess
import sys
import time

import pytest

from alexnet_jax.__main__ import COMMANDS

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
