"""What the run says of members that don't learn, of errors that contradict each other, of data that come too late."""

import re
import time
from concurrent import futures
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from alexnet_jax import checkpoint, data, history
from alexnet_jax.errors import UserError
from alexnet_jax.model.alexnet import LAST
from alexnet_jax.train import __main__ as command
from alexnet_jax.train.diagnosis import examine
from alexnet_jax.train.feed import Feed
from alexnet_jax.train.loop import train
from alexnet_jax.train.meter import NEVER, Meter
from alexnet_jax.train.sentinels import Sentinels
from alexnet_jax.train.setup import prepare
from experiments.prove_resume.compare import arrays

SHORT = ("train.epochs=0.9", "eval.every_epochs=0.2546", "plateau.patience=1", "plateau.min_delta=1")  # 28 steps, evaluated every 8


def told(workdir, sentinel):
    return [event for event in history.load(workdir).warnings if event.get("sentinel") == sentinel]


def test_a_diverging_member_is_frozen_and_the_other_goes_on_as_if_alone(tiny_config, tmp_path):
    rates = "ensemble.members=learning_rate=[.01,1e9], seed=0"
    test = train(tiny_config(*SHORT, rates), tmp_path / "both")
    train(tiny_config(*SHORT, "ensemble.members=learning_rate=[.01], seed=0"), tmp_path / "alone")
    (warning,) = told(tmp_path / "both", "frozen")
    assert (warning["member"], warning["step"]) == (1, 5)
    found = re.search(r"gradient of step (\d+) is not finite; the output of (\w+) is the first that isn't finite, for", warning["message"])
    assert warning["message"].endswith("Lower its learning rate, 1e+09")
    both, alone = arrays(tmp_path / "both"), arrays(tmp_path / "alone")
    assert both["['training']['meter']['frozen']"].tolist() == [NEVER, int(found[1])]
    parameters = [path for path in both if ".params" in path]
    for path in parameters:
        assert np.array_equal(both[path][0], alone[path][0]), path
        assert np.isfinite(both[path][1]).all() or LAST in path  # what it was before that step
    assert np.isnan(both[f"['networks'].params['{LAST}']['bias']"][1]).all()
    losses = np.array([event["loss"] for event in history.load(tmp_path / "both").trains])
    assert np.isfinite(losses[:, 0]).all()
    assert np.isnan(losses[:, 1]).all()
    assert test["diverged"] == ["learning_rate=1e+09"]
    assert test["ensemble_top1_error"] == test["top1_error"][0]
    assert {event["member"] for event in history.load(tmp_path / "both").drops if event["step"] > 8} == {0}


@pytest.mark.slow
def test_a_run_of_diverged_members_ends_with_an_error_however_often_it_is_repeated(digits_dir, tmp_path, capsys):
    overrides = [f"--config.{override}" for override in (f"data.dir={digits_dir}", "model.width=0.04", "train.log_every_steps=5")]
    line = ["--config", "configs/digits.py:members=1", "--workdir", str(tmp_path), *overrides, "--config.optimizer.learning_rate=1e9"]
    for _ in range(2):
        with pytest.raises(UserError, match="every member has diverged"):
            command.main(line)
        end = history.load(tmp_path).end
        assert end["reason"] == "diverged"
        assert end["step"] == 5
        assert end["test"]["top1_error"] == [1]
    assert len(told(tmp_path, "frozen")) == 1


@pytest.mark.slow
def test_a_stalled_member_is_told_once_and_may_stop_the_run(tiny_config, tmp_path):
    config = ("train.epochs=3.5", "ensemble.members=learning_rate=[.02,0], seed=0", "model.init=paper", "model.pixel_scale=1e6")
    with pytest.raises(UserError, match=r"stopped at step 100 and saved: not learning, member .*1 \(train.on_stall=stop\)"):
        train(tiny_config(*config, "train.on_stall=stop"), tmp_path)
    assert history.load(tmp_path).end["reason"] == "stalled"
    assert checkpoint.steps(tmp_path)[-1] == 100
    assert train(tiny_config(*config, "train.on_stall=warn"), tmp_path)["count"] == 360
    stalled = [(event["member"], event["step"]) for event in told(tmp_path, "stalled")]
    assert len(stalled) == len({member for member, _ in stalled})
    assert (1, 100) in stalled
    message = told(tmp_path, "stalled")[-1]["message"]
    assert "guessing gives ln(classes) = 2.303; units that are the same for every image: conv1 " in message
    assert "Likely cause: the signal fades from" in message


@pytest.fixture(scope="module")
def small(digits_dir):
    """A setup of one member, its parameters and hyperparameters, and a batch of eight images."""
    from alexnet_jax import config as config_lib

    overrides = [f"data.dir={digits_dir}", "model.width=0.04", "train.batch_size=8", "augment.whitening=0"]
    setup, _ = prepare(config_lib.load("configs/digits.py:members=1", overrides))
    params, hyper = (jax.tree.map(lambda leaf: leaf[0], tree) for tree in (setup.network.init_state().params, setup.network.hyper))
    stream = data.train_batches(setup.sources["train"], batch_size=8, seed=0, position=0, threads=1)
    return setup, params, hyper, next(stream)


def test_the_first_layer_that_is_not_finite_and_its_examples(small):
    setup, params, hyper, batch = small
    images = np.full_like(batch["image"], round(float(setup.dataset.stats.mean[0])))  # mean-subtracted, nearly 0
    images[[2, 5]] = 255
    kernel = np.full_like(params["conv3"]["kernel"], 1e38)
    broken = {**params, "conv3": {"kernel": kernel, "bias": params["conv3"]["bias"]}}
    found = examine(setup.network.model, setup.dataset.stats, broken, hyper, {**batch, "image": images})
    assert found.bad["conv2"].sum() == 0
    assert found.not_finite(np.arange(100, 108)).startswith("the output of conv3 is the first that isn't finite, for")
    assert "102, 105" in found.not_finite(np.arange(100, 108))
    in_pieces = examine(setup.network.model, setup.dataset.stats, broken, hyper, {**batch, "image": images}, pieces=4)
    assert in_pieces.not_finite(np.arange(100, 108)) == found.not_finite(np.arange(100, 108))


def test_a_gradient_that_is_not_finite_where_all_outputs_are(small):
    setup, params, hyper, batch = small
    huge = {**params, LAST: {"kernel": params[LAST]["kernel"] * 1e38, "bias": np.full_like(params[LAST]["bias"], np.nan)}}
    huge["fc7"] = {"kernel": params["fc7"]["kernel"] * 1e-30, "bias": params["fc7"]["bias"] * 0}
    huge["fc6"] = {"kernel": params["fc6"]["kernel"] * 1e30, "bias": params["fc6"]["bias"]}
    found = examine(setup.network.model, setup.dataset.stats, huge, hyper, batch)
    assert not any(bad.any() for bad in found.bad.values())
    assert re.match(
        r"all outputs are finite; the gradient of fc7 is the first that isn't, of examples 0, 1", found.not_finite(np.arange(8))
    )


def test_why_a_network_does_not_learn(small):
    setup, params, hyper, batch = small
    dead = {**params, "fc6": {"kernel": params["fc6"]["kernel"], "bias": params["fc6"]["bias"] - 1e6}}
    found = examine(setup.network.model, setup.dataset.stats, dead, hyper, batch)
    assert found.dead["fc6"] == pytest.approx(1)
    assert found.dead["conv1"] < 0.5
    assert re.search(r"fc6 100%, fc7 100%\. Likely cause: fc6 is dead; lower optimizer.learning_rate", found.not_learning())
    assert "its layers work" in examine(setup.network.model, setup.dataset.stats, params, hyper, batch).not_learning()


@pytest.mark.parametrize(
    ("training", "validation", "says"),
    [
        (0.1, 0.89, "that of guessing: either its labels don't match"),
        (0.89, 0.1, "augmentation or dropout leave"),
        (0.1, 0.5, None),  # overfitting
        (0.8, 0.6, None),
    ],
)
def test_errors_that_contradict_each_other(training, validation, says):
    setup = SimpleNamespace(network=SimpleNamespace(hyper=SimpleNamespace(members=1)), dataset=SimpleNamespace(classes=range(10)))
    watch, never = Sentinels(setup, ()), np.array([NEVER])
    values = {"loss": np.array([1.0]), "error": np.array([training]), "waiting": 0.0}
    assert watch.after_training(50, 0.5, values, never, None) == []
    events = watch.after_evaluation(np.array([validation]), never, None)
    assert [says in event["message"] for event in events] == ([True] if says else [])
    assert watch.after_evaluation(np.array([validation]), never, None) == []  # once


def test_the_feed_counts_the_time_for_which_idle_devices_wait():
    def slow():
        for index in range(3):
            time.sleep(0.2)
            yield {"index": np.full(4, index)}

    with Feed(slow()) as feed:
        assert feed.take(busy=lambda: True)["index"].shape[0] == jax.local_device_count()
        assert feed.waited() == 0  # they had work
        feed.take(busy=lambda: False)
        assert 0.1 < feed.waited() < 1
        futures.wait([feed._next], timeout=60)
        feed.take(busy=lambda: False)
        assert feed.waited() == 0  # it was there already


def test_data_that_come_too_late_are_told(tiny_config, tmp_path, monkeypatch):
    train_batches = data.train_batches

    def slow(*args, **kwargs):
        for batch in train_batches(*args, **kwargs):
            time.sleep(0.5)
            yield batch

    monkeypatch.setattr(data, "train_batches", slow)
    monkeypatch.setattr(Meter, "busy", False)  # whatever else the machine does
    train(tiny_config("train.epochs=0.127", "train.log_every_steps=2", members=1), tmp_path)  # 4 steps
    past = history.load(tmp_path)
    assert past.trains[1]["waiting"] > past.waiting > 0.05
    (warning,) = told(tmp_path, "waiting")
    assert warning["step"] == 4
    assert re.match(r"the devices wait for data \d\d% of the time; raise data.threads=", warning["message"])


def test_an_unknown_choice_is_refused(tiny_config, tmp_path):
    with pytest.raises(UserError, match=r"train.on_stall is 'stopp'; did you mean stop\?"):
        train(tiny_config("train.on_stall=stopp"), tmp_path)
