"""Colour, orientation and frequency of gratings are found; towers that specialise are told from those that don't."""

import json

import jax
import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import network as network_lib
from alexnet_jax import run
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.data import Dataset
from alexnet_jax.errors import UserError
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.state import Networks
from experiments.towers import main, measure, specialisation


def grating(degrees, frequency, colour=(1, 1, 1)):
    """Stripes under so many degrees: 0 horizontal, 90 vertical."""
    y, x = np.mgrid[:11, :11] - 5.0
    across = np.deg2rad(degrees + 90)
    wave = np.cos(2 * np.pi * frequency * (x * np.cos(across) + y * np.sin(across))) * np.exp(-(x**2 + y**2) / 18)
    return wave[..., None] * np.array(colour)


def test_gratings_are_found():
    found = measure(np.stack([grating(0, 0.25), grating(90, 0.2, (1, -1, 0)), grating(30, 0.3, (1, 0, 0))], -1))
    np.testing.assert_allclose(found.colour, [0, 1, 2 / 3], atol=1e-9)
    assert abs((found.orientation[0] + 90) % 180 - 90) < 2
    np.testing.assert_allclose(found.orientation[1:], [90, 30], atol=2)
    np.testing.assert_allclose(found.frequency, [0.25, 0.2, 0.3], atol=0.02)
    assert found.selectivity.min() > 0.8
    y, x = np.mgrid[:11, :11] - 5.0
    blob = np.exp(-(x**2 + y**2) / 8)[..., None, None] * np.ones((1, 1, 3, 1))
    assert measure(blob).selectivity[0] < 0.05


def test_towers_that_specialise_are_told_from_those_that_do_not():
    rng = np.random.default_rng(0)
    agnostic, specific = rng.uniform(0, 0.2, 48), rng.uniform(0.5, 1, 48)
    both = np.concatenate([agnostic, specific])
    (test,), p = specialisation([both])
    assert test.difference == pytest.approx(specific.mean() - agnostic.mean())
    assert test.p == p < 0.001
    assert 0 < test.chance < test.difference / 2
    mixed, _ = specialisation([rng.permutation(both) for _ in range(20)])
    assert np.mean([test.p < 0.05 for test in mixed]) <= 0.2
    # One network leaves it open; six that all differ as much don't.
    slight = np.concatenate([agnostic, agnostic + 0.02])
    (alone,), _ = specialisation([slight])
    assert specialisation([slight] * 6)[1] < 0.01 < 0.05 < alone.p


def colour_run(workdir, groups, added=0.0, init_from=""):
    overrides = ["model.width=0.0625", f"model.groups={groups}", "model.input_size=67", f"train.init_from={init_from}"]
    config = config_lib.load("configs/imagenet.py:members=2,variant=caffenet", overrides)
    stats = PixelStats(*(np.ones(3, np.float32) for _ in range(3)), np.eye(3, dtype=np.float32))
    dataset = Dataset("colours", ("a", "b"), (67, 67, 3), {"train": 1}, stats, None)
    network = network_lib.build(config, dataset.image_shape, 2)
    state = jax.tree.map(np.asarray, network.init_state())
    state.params["conv1"]["kernel"] = state.params["conv1"]["kernel"] + added
    run.write_config(workdir, config, dataset)
    (workdir / "events.jsonl").touch()  # without it, the run counts as imported
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, {"networks": Networks(state.step, state.params, network.hyper)}, {})
        checkpoints.wait()


@pytest.mark.parametrize("groups", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_command(tmp_path, capsys, groups):
    colour_run(tmp_path / "run", groups)
    main(["--run", str(tmp_path / "run"), "--note", "the weights are random", "--out", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert ("differ by" in out, "This network has one tower." in out) == (groups == 2, groups == 1)
    record = json.loads((tmp_path / "out" / "towers.json").read_text())
    assert len(record["p"]) == (2 if groups == 2 else 0)
    figures = {"filters", "measures", "towers"} if groups == 2 else {"filters", "measures"}
    assert {path.stem for path in (tmp_path / "out").glob("*.svg")} == {path.stem for path in (tmp_path / "out").glob("*.png")} == figures


def test_what_training_has_added(tmp_path):
    learnt = np.stack([grating(90, 0.2, colour) for colour in [(1, 1, 1)] * 3 + [(1, -1, 0)] * 3], -1).astype(np.float32)
    colour_run(tmp_path / "run", 2, added=0.01 * learnt)
    main(["--run", str(tmp_path / "run"), "--learnt", "--out", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "towers.json").read_text())
    np.testing.assert_allclose([one["colour"] for one in record["networks"].values()], [[0, 0, 0, 1, 1, 1]] * 2, atol=1e-3)
    colour_run(tmp_path / "tuned", 2, init_from="elsewhere")
    with pytest.raises(UserError, match="didn't begin with random weights, so what it has learnt can't be told"):
        main(["--run", str(tmp_path / "tuned"), "--learnt", "--out", str(tmp_path / "out")])


def test_grey_images_have_no_colour(untrained_run, tmp_path):
    with pytest.raises(UserError, match=r"is for images of 1 channel\(s\), which have no colour"):
        main(["--run", str(untrained_run), "--out", str(tmp_path)])
