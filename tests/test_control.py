"""The hand on a running run: what it does, once ever, and what it refuses."""

import json
import math

import numpy as np
import pytest

from alexnet_jax import control, history, run
from alexnet_jax.errors import UserError
from alexnet_jax.train import inbox, loop
from alexnet_jax.train.inbox import Inbox, is_running
from alexnet_jax.train.loop import train

# No evaluation before the end, so that no machine touches the rates.
QUIET = ("train.epochs=0.7", "eval.every_epochs=9", "train.checkpoint_every_epochs=0.32", "train.log_every_steps=1")


class Killed(BaseException):
    """Ends a run without giving it a chance to save."""


def at_steps(patch, actions):
    """Run `actions[step]()` when the loop asks for the batch that follows that step."""
    next_batch = loop.Loop.next_batch
    patch.setattr(inbox, "POLL", 0)

    def watched(self, feed):
        actions.get(self.step, lambda: None)()
        return next_batch(self, feed)

    patch.setattr(loop.Loop, "next_batch", watched)


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
            raise Killed

        at_steps(patch, {3: lambda: control.send(tmp_path, "drop", factor=0.1), 6: die})
        with pytest.raises(Killed):
            train(tiny_config(*QUIET), tmp_path)
    train(tiny_config(*QUIET), tmp_path)
    assert [event["step"] for event in events_of(tmp_path, "resume")] == [4]  # saved when the command was taken up
    assert [event["step"] for event in events_of(tmp_path, "control")] == [4]
    assert rates(tmp_path)[22] == pytest.approx([0.002, 0.002])


def test_commands_to_a_run_that_is_not_running_wait(tiny_config, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        at_steps(patch, {5: lambda: control.send(tmp_path, "stop")})
        assert train(tiny_config(*QUIET), tmp_path) is None
    control.main([str(tmp_path), "drop", "--factor", "0.5"])
    assert "isn't running; it executes the command when it resumes" in capsys.readouterr().out
    train(tiny_config(*QUIET), tmp_path)
    assert rates(tmp_path)[22] == pytest.approx([0.01, 0.01])


@pytest.mark.slow
def test_a_command_that_comes_too_late_is_told_and_waits_for_no_prolongation(tiny_config, tmp_path, monkeypatch):
    short = [item for item in QUIET if "train.epochs" not in item]
    test = loop.Loop.test
    monkeypatch.setattr(loop.Loop, "test", lambda self: (control.send(tmp_path, "drop", factor=0.5), test(self))[1])
    train(tiny_config(*short, "train.epochs=0.2"), tmp_path)
    monkeypatch.undo()
    assert events_of(tmp_path, "control")[0]["outcome"] == "refused: the run had made its last step"
    with pytest.raises(UserError, match="has finished: there is no step left"):
        control.main([str(tmp_path), "drop"])
    train(tiny_config(*QUIET), tmp_path)
    assert rates(tmp_path)[22] == pytest.approx([0.02, 0.02])
    assert len(events_of(tmp_path, "control")) == 1


def test_a_control_file_that_is_deleted_or_poisoned_silences_no_command(tiny_config, tmp_path):
    poison = [b"[" * 100_000, bytes(range(256)), b'{"command": null}', b'{"command": "drop", "id": 7}', b'"x"', b"x" * 1_000_000]

    def delete():
        (tmp_path / "control.jsonl").unlink()
        control.send(tmp_path, "drop", factor=0.1, member=1)

    def spoil():
        with open(tmp_path / "control.jsonl", "ab") as file:
            file.write(b"\n".join(poison) + b"\n")
        control.send(tmp_path, "drop", factor=0.1, member=0)

    with pytest.MonkeyPatch.context() as patch:
        at_steps(patch, {3: lambda: control.send(tmp_path, "set", name="momentum", value=0.8), 6: delete, 9: spoil})
        train(tiny_config(*QUIET), tmp_path)
    assert [(event["step"], event["member"]) for event in events_of(tmp_path, "drop")] == [(7, 1), (10, 0)]
    assert [event["command"] for event in events_of(tmp_path, "control")] == ["set", "drop", "drop", "drop"]


def test_saved_is_said_when_it_is(tiny_config, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        at_steps(patch, {3: lambda: control.send(tmp_path, "save")})
        train(tiny_config(*QUIET), tmp_path)
    kinds = [event["event"] for event in history.load(tmp_path).events if event["step"] == 4 and event["event"] != "train"]
    assert kinds == ["checkpoint", "control"]


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
        (["stop"], "isn't running, so there is nothing to stop"),
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
