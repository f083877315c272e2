"""The hand on a running run: what it does, once ever, and what it refuses."""

import json
import math
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from alexnet_jax import control, data, history, hyper, run
from alexnet_jax.errors import UserError
from alexnet_jax.runlog import RunLog
from alexnet_jax.train import inbox, plateau
from alexnet_jax.train.inbox import Inbox, is_running
from alexnet_jax.train.loop import train
from alexnet_jax.train.rates import Rates, make_policy

# No evaluation before the end, so that no machine touches the rates.
QUIET = ("train.epochs=0.7", "eval.every_epochs=9", "train.checkpoint_every_epochs=0.32", "train.log_every_steps=1")


def at_steps(patch, actions):
    """Run `actions[step]()` when the loop asks for the batch that follows that step."""
    train_batches = data.train_batches
    patch.setattr(inbox, "POLL", 0)

    def watched(*args, position, batch_size, **kwargs):
        for i, batch in enumerate(train_batches(*args, position=position, batch_size=batch_size, **kwargs)):
            actions.get(position // batch_size + i, lambda: None)()
            yield batch

    patch.setattr(data, "train_batches", watched)


def events_of(workdir, kind):
    return history.load(workdir).of_kind(kind)


def rates(workdir):
    return {event["step"]: event["learning_rate"] for event in events_of(workdir, "train")}


def test_drop_set_save_stop_and_resume(tiny_config, tmp_path, monkeypatch):
    at_steps(
        monkeypatch,
        {
            3: lambda: control.main([str(tmp_path), "drop", "--member", "1"]),
            5: lambda: control.main([str(tmp_path), "set", "learning_rate=.004", "--member", "0"]),
            7: lambda: control.main([str(tmp_path), "set", "weight_decay=0"]),
            8: lambda: control.main([str(tmp_path), "save"]),
            11: lambda: control.main([str(tmp_path), "stop"]),
        },
    )
    monkeypatch.setattr(control, "PATIENCE", 0)  # the loop that would answer is this very process
    assert train(tiny_config(*QUIET), tmp_path) is None
    assert rates(tmp_path)[4] == pytest.approx([0.02, 0.02])
    assert rates(tmp_path)[5] == pytest.approx([0.02, 0.002])  # sent at 3, taken up before the step from 4 to 5
    assert rates(tmp_path)[7] == pytest.approx([0.004, 0.002])
    answers = events_of(tmp_path, "control")
    assert [(event["step"], event["command"]) for event in answers] == [(4, "drop"), (6, "set"), (8, "set"), (9, "save"), (12, "stop")]
    assert answers[0]["outcome"] == "learning rate of member 1 is now 0.002"
    assert "@" in answers[0]["by"]
    assert [(event["step"], event["member"], event["reason"]) for event in events_of(tmp_path, "drop")] == [(4, 1, "control")]
    assert events_of(tmp_path, "end")[-1]["step"] == 12
    assert np.array_equal(run.load(tmp_path).state.hyper.weight_decay, [0, 0])

    monkeypatch.undo()
    train(tiny_config(*QUIET), tmp_path)
    assert len(events_of(tmp_path, "control")) == 5
    assert rates(tmp_path)[22] == pytest.approx([0.004, 0.002])


def test_a_command_takes_effect_once_also_when_the_run_is_killed_after_it(tiny_config, tmp_path):
    with pytest.MonkeyPatch.context() as patch:

        def die():
            raise MemoryError

        at_steps(patch, {3: lambda: control.send(tmp_path, "drop", factor=0.1), 6: die})
        with pytest.raises(MemoryError):
            train(tiny_config(*QUIET), tmp_path)
    train(tiny_config(*QUIET), tmp_path)
    assert [event["step"] for event in events_of(tmp_path, "resume")] == [4]  # saved when the command was taken up
    assert [event["step"] for event in events_of(tmp_path, "control")] == [4]
    assert rates(tmp_path)[22] == pytest.approx([0.002, 0.002])


def test_commands_to_a_run_that_is_not_running_wait(tiny_config, tmp_path, capsys):
    short = [item for item in QUIET if "train.epochs" not in item]
    train(tiny_config(*short, "train.epochs=0.2"), tmp_path)
    control.main([str(tmp_path), "drop", "--factor", "0.5"])
    assert "isn't running; it executes the command when it resumes" in capsys.readouterr().out
    train(tiny_config(*QUIET), tmp_path)
    assert rates(tmp_path)[22] == pytest.approx([0.01, 0.01])


def test_saved_is_said_when_it_is(tiny_config, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        at_steps(patch, {3: lambda: control.send(tmp_path, "save")})
        train(tiny_config(*QUIET), tmp_path)
    kinds = [event["event"] for event in history.load(tmp_path).events if event["step"] == 4 and event["event"] != "train"]
    assert kinds == ["checkpoint", "control"]


def test_a_drop_tells_the_rate_that_the_schedule_leaves(tiny_config, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        at_steps(patch, {10: lambda: control.send(tmp_path, "drop", factor=0.5)})
        train(tiny_config(*QUIET, "optimizer.schedule=poly", "optimizer.poly_power=1"), tmp_path)
    (first, _) = events_of(tmp_path, "drop")
    assert first["learning_rate"] == pytest.approx(0.02 * 0.5 * (1 - 11 / 22))
    assert events_of(tmp_path, "control")[0]["outcome"] == "learning rate of all members is now 0.005"


def test_a_member_that_is_done_is_not_moved(tiny_config, tmp_path):
    state = replace(plateau.init(2), done=np.array([False, True]))
    hyperparameters, _ = hyper.from_config(tiny_config())
    with RunLog(tmp_path, 10) as log:
        owned = Rates(make_policy(tiny_config().plateau, 2), hyperparameters, state, lambda step: 1.0, lambda controls: [controls], log)
        command = {"command": "set", "name": "learning_rate", "value": 0.5}
        before = owned.controls
        answer = owned.obey(3, {**command, "member": 1})
        assert owned.controls is before  # nothing was put on the devices anew
        assert answer["outcome"] == "refused: member 1 is done: after the last plateau nothing is learnt any more"
        answer = owned.obey(3, command)
        assert answer["outcome"] == "learning_rate of all members but 1 that are done is now 0.5"
        assert owned.hyper.learning_rate == pytest.approx([0.5, 0.02])
        assert owned.controls[0].hyper.learning_rate == pytest.approx([0.5, 0.02])


def test_a_rate_that_is_set_restarts_the_plateau_and_is_logged_like_a_drop(tiny_config, tmp_path):
    hyperparameters, _ = hyper.from_config(tiny_config())
    state = replace(plateau.init(2), scale=np.float32([0.1, 0.1]), stale=np.int32([2, 2]), drops=np.int32([1, 1]))
    policy = make_policy(tiny_config("plateau.cooldown=3").plateau, 2)
    with RunLog(tmp_path, 10) as log:
        owned = Rates(policy, hyperparameters, state, lambda step: 0.5, lambda controls: [controls], log)
        owned.obey(4, {"command": "set", "name": "learning_rate", "value": 0.03, "member": 1})
    assert owned.in_force(4) == pytest.approx([0.02 * 0.1 * 0.5, 0.03 * 0.5])
    assert (owned.plateau.stale.tolist(), owned.plateau.cooldown.tolist(), owned.plateau.drops.tolist()) == ([2, 0], [0, 3], [1, 1])
    (event,) = events_of(tmp_path, "rate")
    assert (event["step"], event["member"], event["value"], event["reason"]) == (4, 1, pytest.approx(0.03), "control")
    assert event["learning_rate"] == pytest.approx(0.015)


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


@pytest.fixture(scope="module")
def finished(digits_dir, tmp_path_factory):
    from alexnet_jax import config as config_lib

    workdir = tmp_path_factory.mktemp("control")
    tiny = [f"data.dir={digits_dir}", "model.width=0.04", "train.batch_size=40", "train.log_every_steps=5", "train.epochs=0.2"]
    train(config_lib.load("configs/digits.py:members=2", [*tiny, "eval.batch_size=64"]), workdir)
    return workdir


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drop", "--member", "2"], "has no member 2; its members are 0 to 1"),
        (["drop", "--factor", "10"], "factor 10 is no drop"),
        (["drop", "--factor", "-1"], "is no drop"),
        (["set", "learning_rate=-1"], "learning_rate = -1 is outside"),
        (["set", "learning_rate=nan"], "learning_rate = nan is outside"),
        (["set", "learning_rate=fast"], "is not a number"),
        (["set", "lerning_rate=1"], r"did you mean learning_rate\?"),
        (["set", "seed=1"], "can't set 'seed'"),
    ],
)
def test_refusals_change_nothing(arguments, message, finished):
    with pytest.raises(UserError, match=message):
        control.main([str(finished), *arguments])
    assert not (finished / "control.jsonl").exists()


def test_no_such_run(tmp_path):
    with pytest.raises(UserError, match="is not a run directory"):
        control.main([str(tmp_path / "nowhere"), "drop"])


def test_status(finished, capsys):
    control.main([str(finished), "status"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("not running, step 6 of 6, epoch 0.19")
    assert lines[2].startswith("1  seed=1  learning rate 0.02  0 drops  validation error ")


def test_a_line_by_another_hand_is_answered_or_skipped(tiny_config, tmp_path):
    def write():
        lines = ["not json", json.dumps({"command": "dance"}), json.dumps({"command": "set", "name": "learning_rate", "value": math.inf})]
        lines += [json.dumps({"command": "drop", "factor": 0.1, "member": 9}), json.dumps({"command": "drop", "factor": 2})]
        lines += [json.dumps({"command": "set", "name": name, "value": 0.1}) for name in ("dropuot", "seed")]
        (tmp_path / "control.jsonl").write_text("\n".join(lines) + "\n" + '{"command": "stop"')  # the last line is still being written

    with pytest.MonkeyPatch.context() as patch:
        at_steps(patch, {2: write})
        assert train(tiny_config(*QUIET), tmp_path) is not None
    outcomes = [event["outcome"] for event in events_of(tmp_path, "control")]
    assert outcomes[:4] == [
        "refused: unknown command 'dance'",
        "refused: learning_rate = inf is outside [0, inf)",
        "refused: no member 9; members are 0 to 1",
        "refused: factor 2 is no drop; it must lie between 0 and 1",
    ]
    assert outcomes[4].startswith("refused: can't set 'dropuot'; did you mean dropout?")
    assert outcomes[5].startswith("refused: can't set 'seed'; known: learning_rate, ")
    assert rates(tmp_path)[22] == pytest.approx([0.02, 0.02])


def test_two_processes_cannot_train_in_one_directory(tiny_config, tmp_path):
    with Inbox(tmp_path):
        assert is_running(tmp_path)
        with pytest.raises(UserError, match="another process is training"):
            train(tiny_config(*QUIET), tmp_path)
    assert not is_running(tmp_path)
