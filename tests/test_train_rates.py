"""The rates of a running run: what moves them, a plateau, a command or the record of another run, and what a log says of it."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from alexnet_jax import control, hyper, run
from alexnet_jax.errors import UserError
from alexnet_jax.train import plateau
from alexnet_jax.train.loop import train
from alexnet_jax.train.rates import Rates, make_policy
from tests.test_control import QUIET, at_steps, events_of, rates


def test_a_drop_tells_the_rate_that_the_schedule_leaves(tiny_config, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        at_steps(patch, {10: lambda: control.send(tmp_path, "drop", factor=0.5)})
        train(tiny_config(*QUIET, "optimizer.schedule=poly", "optimizer.poly_power=1"), tmp_path)
    (first, _) = events_of(tmp_path, "drop")
    assert first["learning_rate"] == pytest.approx(0.02 * 0.5 * (1 - 11 / 22))
    assert events_of(tmp_path, "control")[0]["outcome"] == "learning rate of all members is now 0.005"


def test_a_member_that_is_done_is_not_moved(tiny_config):
    state = replace(plateau.init(2), done=np.array([False, True]))
    hyperparameters, _ = hyper.from_config(tiny_config())
    owned = Rates(make_policy(tiny_config().plateau, 2), hyperparameters, state, lambda step: 1.0, lambda controls: [controls])
    command = {"command": "set", "name": "learning_rate", "value": 0.5}
    before = owned.controls
    (answer,) = owned.obey(3, {**command, "member": 1})
    assert owned.controls is before  # nothing was put on the devices anew
    assert answer["outcome"] == "refused: member 1 is done: nothing is learnt any more after the last plateau, or once frozen"
    *_, answer = owned.obey(3, command)
    assert answer["outcome"] == "learning_rate of all members but 1 that are done is now 0.5"
    assert owned.hyper.learning_rate == pytest.approx([0.5, 0.02])
    assert owned.controls[0].hyper.learning_rate == pytest.approx([0.5, 0.02])


@pytest.mark.parametrize(
    "command",
    [
        {"command": "drop", "factor": 0.5, "member": True},
        {"command": "drop", "factor": 0.5, "member": 10**400},
        {"command": "drop", "factor": [0.5]},
        {"command": "set", "name": "learning_rate", "value": True},
        {"command": "set", "name": "learning_rate", "value": 1e300},
        {"command": "drop"},
        {"command": "set", "name": ["a"], "value": 1},
        {"command": "set", "name": "learning_rate", "value": float("nan")},
        {"command": "set", "name": "learning_rate", "value": 10**400},
        {"command": "dance"},
    ],
)
def test_a_command_that_makes_no_sense_changes_nothing(command, tiny_config):
    hyperparameters, _ = hyper.from_config(tiny_config())
    owned = Rates(make_policy(tiny_config().plateau, 2), hyperparameters, plateau.init(2), lambda step: 1.0, lambda controls: [controls])
    before = owned.controls
    (answer,) = owned.obey(3, command)
    assert answer["outcome"].startswith("refused: ")
    assert owned.controls is before


def test_a_rate_that_is_set_restarts_the_plateau_and_is_logged_like_a_drop(tiny_config):
    hyperparameters, _ = hyper.from_config(tiny_config())
    state = replace(plateau.init(2), scale=np.float32([0.1, 0.1]), stale=np.int32([2, 2]), drops=np.int32([1, 1]))
    policy = make_policy(tiny_config("plateau.cooldown=3").plateau, 2)
    owned = Rates(policy, hyperparameters, state, lambda step: 0.5, lambda controls: [controls])
    event, _ = owned.obey(4, {"command": "set", "name": "learning_rate", "value": 0.03, "member": 1})
    assert owned.in_force(4) == pytest.approx([0.02 * 0.1 * 0.5, 0.03 * 0.5])
    assert (owned.plateau.stale.tolist(), owned.plateau.cooldown.tolist(), owned.plateau.drops.tolist()) == ([2, 0], [0, 3], [1, 1])
    assert (event["event"], event["member"], event["value"], event["reason"]) == ("rate", 1, pytest.approx(0.03), "control")
    assert event["learning_rate"] == pytest.approx(0.015)


@pytest.mark.slow
def test_replay_repeats_a_run_done_by_hand_to_the_bit(tiny_config, tmp_path):
    by_hand, replayed = tmp_path / "by_hand", tmp_path / "replayed"
    with pytest.MonkeyPatch.context() as patch:
        at_steps(
            patch, {4: lambda: control.send(by_hand, "drop", factor=0.3), 9: lambda: control.send(by_hand, "drop", factor=0.1, member=1)}
        )
        train(tiny_config(*QUIET, "plateau.mode=manual"), by_hand)
    assert rates(by_hand)[22] == pytest.approx([0.006, 0.0006])

    config = tiny_config(*QUIET, f"plateau.mode=replay:{by_hand}")
    with pytest.MonkeyPatch.context() as patch:
        at_steps(patch, {7: lambda: control.send(replayed, "stop")})
        train(config, replayed)
    train(config, replayed)
    one, other = run.load(by_hand).state, run.load(replayed).state
    assert jax.tree.all(jax.tree.map(np.array_equal, one.params, other.params))
    assert rates(by_hand) == rates(replayed)
    assert [event["reason"] for event in events_of(replayed, "drop")] == ["replay"] * 3


@pytest.mark.slow
def test_a_run_of_other_members_is_replayed_only_by_all_of_one(tiny_config, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for workdir, members in ((one, 1), (two, 2)):
        with pytest.MonkeyPatch.context() as patch:
            at_steps(patch, {4: partial(control.send, workdir, "drop", factor=0.5)})
            train(tiny_config(*QUIET, members=members), workdir)
    train(tiny_config(*QUIET, f"plateau.mode=replay:{one}", members=3), tmp_path / "three")
    assert [event["member"] for event in events_of(tmp_path / "three", "drop")] == [0, 1, 2]
    with pytest.raises(UserError, match=r"that run has 2 members, this one 3: it must have as many, or one"):
        train(tiny_config(*QUIET, f"plateau.mode=replay:{two}", members=3), tmp_path / "none")


def test_suggest_says_so_once_and_waits(tiny_config, tmp_path):
    settings = ("train.epochs=0.7", "eval.every_epochs=0.0955", "plateau.patience=2", "plateau.min_delta=1")  # evaluated every 3 steps
    train(tiny_config(*settings, "plateau.mode=suggest"), tmp_path)
    said = [(event["step"], event["member"]) for event in events_of(tmp_path, "warning") if "plateaued" in event["message"]]
    assert said == [(9, 0), (9, 1)]
    assert not events_of(tmp_path, "drop")
    assert rates(tmp_path)[20] == pytest.approx([0.02, 0.02])
