"""The proof that a killed run is the undisturbed one: for two kills and for twenty, and it can fail; slow tests."""

import json
import random
import shutil

import pytest

from experiments.prove_resume import compare, kills
from experiments.prove_resume.__main__ import main

TINY = [
    *("--config", "configs/digits.py:members=2", "--config.model.width=0.04", "--config.train.batch_size=40"),
    *("--config.eval.batch_size=64", "--config.train.log_every_steps=5", "--config.train.epochs=1.5"),
    *("--config.eval.every_epochs=0.25", "--config.train.checkpoint_every_epochs=0.2"),
]


@pytest.fixture(scope="module")
def proved(digits_dir, tmp_path_factory):
    """The directory of a proof with two kills, whose exit code is 0."""
    out = tmp_path_factory.mktemp("proof") / "out"
    assert main([*TINY, f"--config.data.dir={digits_dir}", "--kills", "2", "--seed", "3", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_two_kills_change_nothing(proved):
    assert compare.differences(proved / "undisturbed", proved / "killed") == []


@pytest.mark.slow
def test_the_proof_can_fail(proved, tmp_path):
    """Whatever is changed in one of the two is found."""
    other = shutil.copytree(proved / "killed", tmp_path / "other")
    lines = (other / "events.jsonl").read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    place = max(i for i, event in enumerate(changed) if event["event"] == "train")  # earlier ones may be of steps that were run again
    changed[place]["loss"] = [0.0, 0.0]
    (other / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in changed))
    (other / "left.tmp").write_text("")
    for path in (other / "tensorboard").iterdir():
        path.unlink()
    found = compare.differences(proved / "undisturbed", other)
    for what in ("log: the killed run lacks", "files: the killed run has left left.tmp", "TensorBoard: "):
        assert any(line.startswith(what) for line in found), what


def test_every_moment_has_its_turn():
    planned = kills.plan(20, random.Random(0))
    assert {kill.moment for kill in planned} == {*kills.EARLY, *kills.LATE}
    assert [kill.moment for kill in planned[-3:]] == list(kills.LATE)
    assert {kill.signal for kill in planned} == set(kills.SIGNALS)
    shares = [kill.share for kill in planned]
    assert shares == sorted(shares)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_twenty_kills_change_nothing(seed, digits_dir, tmp_path):
    assert main([*TINY, f"--config.data.dir={digits_dir}", "--kills", "20", "--seed", seed, "--out", str(tmp_path / "out")]) == 0
