"""What a run directory remembers of how it was trained, and what it refuses to go on with."""

import json

import jax
import pytest

from alexnet_jax import run
from alexnet_jax.errors import UserError
from alexnet_jax.train.loop import train

SHORT = ("train.epochs=0.2", "eval.every_epochs=9")


@pytest.fixture(scope="module")
def finished(digits_dir, tmp_path_factory):
    from alexnet_jax import config as config_lib

    workdir = tmp_path_factory.mktemp("run") / "run"
    tiny = [f"data.dir={digits_dir}", "model.width=0.04", "train.batch_size=40", "train.log_every_steps=5", "eval.batch_size=64", *SHORT]
    train(config_lib.load("configs/digits.py:members=2", tiny), workdir)
    return workdir


def test_the_settings_that_change_numbers_are_part_of_a_run(finished, tiny_config):
    recorded = run.read_config(finished)["numerics"]
    assert recorded == {
        "enable_x64": False,
        "default_prng_impl": "threefry2x32",
        "threefry_partitionable": True,
        "default_matmul_precision": None,
    }
    with jax.default_matmul_precision("highest"), pytest.raises(UserError, match=r"default_matmul_precision=None, now it is .*=highest"):
        train(tiny_config(*SHORT, "train.epochs=0.3"), finished)


def test_the_processes_of_a_run_are_remembered(finished, tiny_config):
    train(tiny_config(*SHORT), finished)
    (first,) = run.read_config(finished)["processes"]
    assert set(first) == {"versions", "devices", "command"}


def test_a_run_without_its_config_is_not_guessed(finished, tiny_config):
    (finished / "config.json").rename(finished / "away.json")
    try:
        with pytest.raises(UserError, match=r"has checkpoints and no config\.json: how they were trained is unknown"):
            train(tiny_config(*SHORT), finished)
    finally:
        (finished / "away.json").rename(finished / "config.json")
    assert json.loads((finished / "config.json").read_text())["config"]
