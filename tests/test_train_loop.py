"""The loop: several evaluations, checkpoints and drops at different intervals; stopped, killed and resumed to the same bits."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from alexnet_jax import checkpoint, data, evaluate, history, host, metrics, run
from alexnet_jax.errors import UserError
from alexnet_jax.runlog import RunLog
from alexnet_jax.train import loop
from alexnet_jax.train.loop import train
from alexnet_jax.train.schedule import make_timeline
from alexnet_jax.train.setup import validate
from experiments.prove_resume.compare import arrays

# 31.425 steps an epoch: 50 steps, evaluated every 8, saved every 6, logged every 5; a drop at every evaluation but the first.
LOOP = (
    "train.epochs=1.59",
    "eval.every_epochs=0.2546",
    "train.checkpoint_every_epochs=0.191",
    "plateau.patience=1",
    "plateau.min_delta=1",
    "plateau.max_drops=9",
)


@pytest.fixture(scope="module")
def reference(digits_dir, tmp_path_factory):
    """The run directory of an uninterrupted run, its test results, and how often the step was traced."""
    from alexnet_jax import config as config_lib

    directory = tmp_path_factory.mktemp("reference")
    overrides = [f"data.dir={digits_dir}", *TINY, *LOOP]
    with pytest.MonkeyPatch.context() as patch:
        traces = count_traces(patch)
        test = train(config_lib.load("configs/digits.py:members=2", overrides), directory)
    return directory, test, len(traces)


TIMES = ("images_per_second", "member_images_per_second", "waiting")
TINY = ("model.width=0.04", "train.batch_size=40", "train.log_every_steps=5", "eval.batch_size=64")


def count_traces(patch):
    traces, make_train_step = [], loop.make_train_step

    def counting(*args):
        inner = make_train_step(*args)

        def train_step(state, controls, batch):
            traces.append(1)
            return inner(state, controls, batch)

        return train_step

    patch.setattr(loop, "make_train_step", counting)
    return traces


def events_of(directory, kind):
    return history.load(directory).of_kind(kind)


def assert_same_bits(one, other):
    mine, theirs = arrays(one), arrays(other)
    assert mine.keys() == theirs.keys()
    for path, array in mine.items():
        assert np.array_equal(array, theirs[path]), f"{path} differs"


class Killed(BaseException):
    """Ends a run without giving it a chance to save."""


def interrupt(patch, at_step, action):
    """Do something when the loop takes the batch that follows `at_step`."""
    next_batch = loop.Loop.next_batch

    def interrupted(self, feed):
        if self.step == at_step:
            action()
        return next_batch(self, feed)

    patch.setattr(loop.Loop, "next_batch", interrupted)


@pytest.mark.accelerator
@pytest.mark.newest
def test_things_happen_at_their_own_steps(reference):
    directory, test, traces = reference
    assert [event["step"] for event in events_of(directory, "eval")] == [8, 16, 24, 32, 40, 48, 50]
    saved, regular = [event["step"] for event in events_of(directory, "checkpoint")], [6, 12, 18, 24, 30, 36, 42, 48, 50]
    assert set(regular) <= set(saved) <= {*regular, 8, 16, 32, 40}  # also after an evaluation that was the best so far
    assert len(saved) == len(set(saved))
    assert all(event["bytes"] > 1000 and event["seconds"] > 0 for event in events_of(directory, "checkpoint"))
    assert [event["step"] for event in events_of(directory, "train")] == list(range(5, 51, 5))
    drops = events_of(directory, "drop")
    assert [(event["step"], event["member"]) for event in drops] == [(s, m) for s in (16, 24, 32, 40, 48) for m in (0, 1)]
    assert [event["learning_rate"] for event in drops if event["member"] == 1] == pytest.approx([0.02 * 0.1**i for i in range(1, 6)])
    rates = {event["step"]: event["learning_rate"] for event in events_of(directory, "train")}
    assert rates[15] == pytest.approx([0.02, 0.02])
    assert rates[20] == pytest.approx([0.002, 0.002])
    assert traces == 1
    assert events_of(directory, "end")[-1]["reason"] == "epochs"
    assert test["count"] == 360


def test_evaluation_is_exact_on_a_split_that_no_batch_divides(reference, digits_dir):
    directory, test, _ = reference
    last = events_of(directory, "eval")[-1]
    assert last["count"] == 180  # batches of 64
    predictions, protocol = evaluate.predict_run(directory, "validation", batch_size=100)
    result = metrics.summarise(predictions)
    assert last["top1_error"] == pytest.approx(result["top1_error"])
    assert last["loss"] == pytest.approx(result["nll"], rel=1e-4)
    assert last["ensemble_top1_error"] == pytest.approx(result["ensemble_top1_error"])
    assert protocol["split"] == "validation"
    again = metrics.summarise(evaluate.predict_run(directory, "test", batch_size=36)[0])
    assert test["top1_error"] == again["top1_error"]


def test_predictions_that_were_cut_off_are_damaged(reference, tmp_path):
    for content in (b"", (reference[0] / "predictions-test.npz").read_bytes()[:100]):
        (tmp_path / "predictions-test.npz").write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            run.load_predictions(tmp_path)


def test_predictions_are_kept(reference):
    directory, test, _ = reference
    kept = run.load_predictions(directory)
    assert kept["answer"].shape == kept["confidence"].shape == (2, 360)
    np.testing.assert_allclose((kept["answer"] != kept["label"]).mean(1), test["top1_error"])
    np.testing.assert_allclose((kept["ensemble_answer"] != kept["label"]).mean(), test["ensemble_top1_error"])
    with pytest.raises(UserError, match="hasn't finished"):
        run.load_predictions(directory / "checkpoints")


def test_predictions_of_an_earlier_step_are_stale_whatever_their_time(reference, tmp_path):
    shutil.copy(reference[0] / "predictions-test.npz", tmp_path)
    with RunLog(tmp_path, 60) as log:
        log.event("checkpoint", 50, path="checkpoints/50")
        assert run.load_predictions(tmp_path)["answer"].shape == (2, 360)
        log.event("checkpoint", 60, path="checkpoints/60")
    os.utime(tmp_path / "predictions-test.npz", (2e9, 2e9))
    with pytest.raises(UserError, match=r"predictions-test\.npz is from step 50, but the run is at step 60"):
        run.load_predictions(tmp_path)


def test_predictions_of_another_run_are_told(reference, tmp_path):
    shutil.copy(reference[0] / "events.jsonl", tmp_path)
    with pytest.raises(UserError, match=r"it is missing, though the run has finished; the command in config\.json writes it again"):
        run.load_predictions(tmp_path)
    kept = dict(np.load(reference[0] / "predictions-test.npz"))
    for answers in (kept["answer"][:, ::-1], kept["answer"][:1]):
        np.savez(tmp_path / "predictions-test.npz", **{**kept, "answer": answers})
        with pytest.raises(UserError, match="is another run's: its errors are not those of this run's log"):
            run.load_predictions(tmp_path)


def test_run_directory_is_as_contracted(reference):
    directory, _, _ = reference
    record = json.loads((directory / "config.json").read_text())
    assert record["config"]["train"]["batch_size"] == 40
    assert record["dataset"]["classes"] == list("0123456789")
    assert record["versions"]["jax"] == jax.__version__
    assert record["devices"] == [f"4 x cpu {host.cpu_model()} ({host.cores()} cores)"]
    assert list((directory / "tensorboard").iterdir())
    best = checkpoint.chosen(directory, "best")
    assert sorted(int(path.name) for path in (directory / "checkpoints").iterdir()) == sorted({best, 48, 50})
    evals = [(event["ensemble_top1_error"], event["step"]) for event in events_of(directory, "eval")]
    assert min(evals)[1] == best
    event = events_of(directory, "train")[0]
    assert all(len(event[name]) == 2 for name in ("loss", "error", "learning_rate"))


@pytest.mark.accelerator
@pytest.mark.newest
def test_stopped_in_an_epoch_and_in_an_evaluation_and_killed_then_resumed_to_the_same_bits(reference, tiny_config, tmp_path, capsys):
    config = tiny_config(*LOOP)

    with pytest.MonkeyPatch.context() as patch:  # Ctrl-C in the middle of an epoch
        interrupt(patch, 9, lambda: signal.raise_signal(signal.SIGINT))
        assert train(config, tmp_path) is None
    assert events_of(tmp_path, "end")[-1] | {"reason": "stopped", "step": 10} == events_of(tmp_path, "end")[-1]

    with pytest.MonkeyPatch.context() as patch:  # SIGTERM while evaluating at step 24
        eval_batches, calls = data.eval_batches, []

        def terminated(*args, **kwargs):
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return eval_batches(*args, **kwargs)

        patch.setattr(data, "eval_batches", terminated)
        assert train(config, tmp_path) is None
    assert events_of(tmp_path, "end")[-1]["step"] == 24
    assert [event["step"] for event in events_of(tmp_path, "eval")] == [8, 16]

    with pytest.MonkeyPatch.context() as patch:  # dies at step 33 without saving; 30 was saved
        interrupt(patch, 33, lambda: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(config, tmp_path)

    test = train(config, tmp_path)
    assert [event["step"] for event in events_of(tmp_path, "resume")] == [10, 24, 30]
    assert test == reference[1]
    assert_same_bits(tmp_path, reference[0])
    for kind in ("eval", "drop", "train"):
        mine, theirs = (
            [{name: value for name, value in event.items() if name not in ("time", *TIMES)} for event in events_of(directory, kind)]
            for directory in (tmp_path, reference[0])
        )
        assert mine == theirs


def test_the_data_may_fail_in_the_middle_of_a_run_what_was_learnt_is_saved(tiny_config, tmp_path):
    train_batches = data.train_batches

    def failing(*args, **kwargs):
        yield from itertools.islice(train_batches(*args, **kwargs), 7)
        raise UserError("cannot read shard 3")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "train_batches", failing)
        with pytest.raises(UserError, match="cannot read shard 3"):
            train(tiny_config(*LOOP), tmp_path)
    assert checkpoint.steps(tmp_path)[-1] == 7


@pytest.mark.slow
def test_a_stop_in_the_last_evaluation_leaves_the_plateau_of_an_undisturbed_run(reference, tiny_config, tmp_path):
    config, whole = tiny_config(*LOOP, "train.epochs=1.53"), tmp_path / "whole"  # 48 steps: the last evaluation is a regular one
    train(config, whole)
    with pytest.MonkeyPatch.context() as patch:
        eval_batches, calls = data.eval_batches, []

        def terminated(*args, **kwargs):
            calls.append(1)
            if len(calls) == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return eval_batches(*args, **kwargs)

        patch.setattr(data, "eval_batches", terminated)
        assert train(config, tmp_path / "stopped") is None
    train(config, tmp_path / "stopped")
    assert_same_bits(tmp_path / "stopped", whole)
    before = len(events_of(tmp_path / "stopped", "eval"))
    train(config, tmp_path / "stopped")
    assert len(events_of(tmp_path / "stopped", "eval")) == before == 6


@pytest.mark.slow
def test_a_run_that_is_prolonged_twice_is_the_longer_run(reference, tiny_config, tmp_path):
    for epochs in ("0.6", "1.1", "1.59"):  # steps 19, 35, 50: neither evaluated nor saved nor, the first, logged there
        train(tiny_config(*LOOP, f"train.epochs={epochs}"), tmp_path)
    assert_same_bits(tmp_path, reference[0])
    for kind in ("eval", "drop", "train"):
        assert [event["step"] for event in events_of(tmp_path, kind)] == [event["step"] for event in events_of(reference[0], kind)]


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_run_goes_on(reference, tiny_config, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 27, lambda: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(tiny_config(*LOOP), tmp_path)
    have = checkpoint.steps(tmp_path)
    largest = max((tmp_path / "checkpoints" / str(have[-1]) / "networks").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    with pytest.raises(UserError, match=rf"checkpoints/{have[-1]} is damaged"):
        evaluate.predict_run(tmp_path, "test")
    train(tiny_config(*LOOP), tmp_path)
    (warning,) = events_of(tmp_path, "warning")
    assert f"checkpoints/{have[-1]} is damaged" in warning["message"]
    assert warning["message"].endswith(f"checksum); it is now damaged-{have[-1]}, and the run goes on from an older one")
    assert events_of(tmp_path, "resume")[0]["step"] == have[-2]
    assert_same_bits(tmp_path, reference[0])


def test_a_full_disk_gets_time(tiny_config, tmp_path, monkeypatch):
    """Two saves are refused, the third isn't: the run goes on, and says saved only of what is."""
    save, refusals = checkpoint.Checkpoints.save, []

    def full(self, step, *args):
        if len(refusals) < 2:
            refusals.append(step)
            raise checkpoint.DiskError("cannot write a checkpoint (No space left on device)")
        return save(self, step, *args)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", full)
    assert train(tiny_config(*LOOP), tmp_path) is not None
    warnings = [event for event in events_of(tmp_path, "warning") if "No space left" in event["message"]]
    assert [event["step"] for event in warnings] == refusals == [6, 8]
    assert not {6, 8} & {event["step"] for event in events_of(tmp_path, "checkpoint")}


def test_a_disk_that_stays_full_stops_the_run(tiny_config, tmp_path, monkeypatch):
    def full(self, step, *args):
        raise checkpoint.DiskError("cannot write a checkpoint (No space left on device)")

    monkeypatch.setattr(checkpoint.Checkpoints, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        train(tiny_config(*LOOP, "train.disk_patience=0"), tmp_path)


def test_a_second_signal_does_not_wait(tiny_config, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 3, lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(*LOOP), tmp_path)


def test_ends_when_every_member_is_done(tiny_config, tmp_path):
    test = train(tiny_config(*LOOP, "plateau.max_drops=1"), tmp_path)
    end = events_of(tmp_path, "end")[-1]
    assert (end["reason"], end["step"]) == ("done", 24)  # best at 8, drop at 16, done at 24
    assert end["test"]["top1_error"] == test["top1_error"]


def test_a_finished_run_repeated_says_the_same(reference, tiny_config):
    before = len(events_of(reference[0], "train"))
    assert train(tiny_config(*LOOP), reference[0]) == reference[1]
    assert len(events_of(reference[0], "train")) == before


def test_a_run_refuses_another_config_but_may_go_on_longer(tiny_config, tmp_path):
    short = [item for item in LOOP if not item.startswith("train.epochs")]
    train(tiny_config(*short, "train.epochs=0.2"), tmp_path)
    with pytest.raises(UserError, match=r"holds a run with optimizer\.learning_rate=0\.02, now it is 0\.1"):
        train(tiny_config(*short, "train.epochs=0.2", "optimizer.learning_rate=0.1"), tmp_path)
    with pytest.raises(UserError, match=r"holds a run with ensemble\.members=seeds=2, now it is seeds=3"):
        train(tiny_config(*short, "train.epochs=0.2", members=3), tmp_path)
    train(tiny_config(*short, "train.epochs=0.4"), tmp_path)
    assert events_of(tmp_path, "end")[-1]["step"] == 13
    with pytest.raises(UserError, match=r"holds a run at step 13, train\.epochs=0\.2 ends at step 6"):
        train(tiny_config(*short, "train.epochs=0.2"), tmp_path)
    assert run.load(tmp_path).config.train.epochs == 0.4


def test_a_run_in_another_order_of_the_images_does_not_go_on(tiny_config, tmp_path):
    config = tiny_config("train.epochs=0.1")
    train(config, tmp_path)
    path = tmp_path / "config.json"
    record = json.loads(path.read_text())
    for other in ({**record, "image_order": "another"}, {name: value for name, value in record.items() if name != "image_order"}):
        path.write_text(json.dumps(other))
        with pytest.raises(UserError, match="another version of the project shuffled in another order"):
            train(config, tmp_path)
        evaluate.predict_run(tmp_path, "test")


def test_members_that_differ_in_lrn_need_a_network_that_has_it(tiny_config, tmp_path):
    with pytest.raises(UserError, match="differ in LRN, but this network has no LRN"):
        train(tiny_config("model.lrn=False", "ensemble.members=lrn=[on,off]"), tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        ["ensemble.members=crop=[0,1]"],  # the digits are stored in the size of the input
        ["ensemble.members=draws=[0,1]", "model.dropout=0", *(f"augment.{name}=0" for name in ("flip", "rotation", "shift", "colour"))],
    ],
)
def test_members_that_differ_in_nothing_that_has_an_effect_are_refused(fields, tiny_config):
    dataset = data.load(tiny_config().data)
    with pytest.raises(UserError, match=r"the members \S+=0 and \S+=1 would be the same network: .* leave one out"):
        validate(tiny_config(*fields), dataset)
    validate(tiny_config("ensemble.members=draws=[0,1]", "model.dropout=0", "augment.shift=0.1"), dataset)


def test_a_rate_that_falls_to_zero_does_so_once(tiny_config, tmp_path):
    poly = ("optimizer.schedule=poly", "plateau.mode=manual")
    train(tiny_config(*poly, "train.epochs=0.2"), tmp_path)
    with pytest.raises(UserError, match=r"holds a run with train\.epochs=0\.2, now it is 0\.4"):
        train(tiny_config(*poly, "train.epochs=0.4"), tmp_path)


def test_evaluation_pads_any_batch_and_wants_the_images_it_was_trained_on(tiny_config, tmp_path):
    """250 images a batch on 4 devices, then a dataset prepared anew in another size."""
    train(tiny_config("train.epochs=0.1", "eval.batch_size=250"), tmp_path / "run")
    predictions, _ = evaluate.predict_run(tmp_path / "run", "test")
    assert len(predictions.labels) == 360
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    record["dataset"]["image_shape"] = [32, 32, 1]
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"was trained on images of 32x32x1, the dataset digits now has 28x28x1"):
        evaluate.predict_run(tmp_path / "run", "test")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size=42", "train.batch_size=42 can't be shared evenly by 4 devices; 40 can"),
        ("train.accumulate=3", "train.batch_size=40 can't be shared evenly by 4 devices and cut into train.accumulate=3 pieces; 36 can"),
        ("train.accumulate=0", "train.accumulate is 0; it must be positive"),
        ("train.epochs=0", "train.epochs is 0.0; it must be positive"),
        ("model.input_size=32", "more than the dataset's 28x28 pixels"),
        ("data.test_split=tset", "has no split 'tset'"),
        ("optimizer.rule=adam", "optimizer.rule 'adam'"),
        ("ensemble.members=seeds=0", "at least 1"),
        ("plateau.mode=automatic", "plateau.mode is 'automatic'; known: auto, suggest, manual, replay:RUN"),
        ("plateau.mode=replay:nowhere", "nowhere is not a run directory"),
        ("optimizer.schedule=cosine", "optimizer.schedule is 'cosine'; known: constant, fixed, poly"),
        ("train.batch_size=0", "train.batch_size is 0; it must be positive"),
        ("train.epochs=inf", "train.epochs is inf; it must be positive, and finite"),
        ("data.threads=-1", "data.threads is -1; it must be 0 or more, and at most 1,000"),
        ("data.seed=-1", "data.seed is -1; it must be 0 or more, and at most 9,223,372,036,854,775,807"),
        ("train.members_per_program=-1", "train.members_per_program is -1; it must be 0 or more, and at most 2,147,483,647"),
        ("optimizer.warmup_epochs=-1", "optimizer.warmup_epochs is -1.0; it must be 0 or more"),
        ("plateau.patience=0", "plateau.patience is 0; it must be positive"),
        ("plateau.factor=10", "plateau.factor is 10; it must lie between 0 and 1"),
        ("eval.batch_size=0", "eval.batch_size is 0; it must be positive"),
    ],
)
def test_refuses_before_anything_is_written(override, message, tiny_config, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        train(tiny_config(override), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["lr=[.01,.02]", "a\\b"])
def test_a_directory_that_could_not_be_read_back_is_refused(name, tiny_config, tmp_path):
    """orbax would say that it saved, and find nothing there."""
    with pytest.raises(UserError, match=r"checkpoints can't be written into a path that has (\[.01,.02\]|\\); use another directory"):
        train(tiny_config(), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_run_of_another_version_is_refused(reference, tmp_path):
    record = json.loads((reference[0] / "config.json").read_text())
    del record["config"]["model"]["lrn_size"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"another version of this project .*lrn_size"):
        run.load(tmp_path)
    record["config"]["model"] |= {"lrn_size": 5, "conv_form": "unroll"}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"config.json: model.conv_form is 'unroll'; known: auto, direct"):
        run.load(tmp_path)


def test_plan():
    from alexnet_jax import config as config_lib

    plan = make_timeline(config_lib.load("configs/imagenet.py"), 1_281_167)
    assert plan == (1_281_167 / 128, 900_821, 10_009, 5_005, 50, 0, ())


def test_devices_do_not_change_the_run(digits_dir, tmp_path):
    """The same command on 1, 2 and 4 devices: the same losses up to the order of float sums."""
    losses = {}
    for devices in (1, 2, 4):
        workdir = tmp_path / str(devices)
        overrides = [f"--config.{item}" for item in (*TINY, f"data.dir={digits_dir}", "train.epochs=0.32", "train.log_every_steps=1")]
        command = [sys.executable, "-m", "alexnet_jax.train", "--config", "configs/digits.py:members=2", "--workdir", str(workdir)]
        flags = re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])
        environment = {**os.environ, "XLA_FLAGS": flags}
        process = subprocess.run([*command, *overrides], env=environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        assert json.loads((workdir / "config.json").read_text())["devices"][0].startswith(f"{devices} x cpu ")
        losses[devices] = np.array([event["loss"] for event in events_of(workdir, "train")])
        assert losses[devices].shape == (10, 2)
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-4)
    np.testing.assert_allclose(losses[4], losses[1], rtol=1e-4)
