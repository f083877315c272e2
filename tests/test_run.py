"""What a run directory remembers of how it was trained, and what it refuses to go on with."""

import contextlib
import dataclasses
import functools
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from jax.stages import Lowered

from alexnet_jax import config as config_lib
from alexnet_jax import control, data, history, run
from alexnet_jax.errors import UserError
from alexnet_jax.runlog import RunLog
from alexnet_jax.train import loop
from alexnet_jax.train.loop import train
from experiments.prove_resume.compare import arrays

TINY = ("model.width=0.04", "train.batch_size=40", "train.log_every_steps=5", "eval.batch_size=64")
SHORT = ("train.epochs=0.2", "eval.every_epochs=9")


@pytest.fixture(scope="module")
def finished(digits_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    train(config_lib.load("configs/digits.py:members=2", [f"data.dir={digits_dir}", *TINY, *SHORT]), workdir)
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


def test_a_run_keeps_its_form_of_resampling(finished, tiny_config, tmp_path):
    """Here `auto` gathers. A run that was begun where it shears goes on with `shear`, and can't be turned further than it was built for."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    record = run.read_config(workdir)
    assert (record["config"]["augment"]["resampling"], record["resampling"]) == ("auto", "gather")
    (workdir / "config.json").write_text(json.dumps({**record, "resampling": "shear"}))
    control.send(workdir, "set", name="rotation", value=11.0)
    built = []
    with pytest.MonkeyPatch.context() as patch:
        make = loop.make_train_step
        patch.setattr(loop, "make_train_step", lambda *args: built.append(args[-1]) or make(*args))
        train(tiny_config(*SHORT[1:], "train.epochs=0.3"), workdir)
    assert built == [10.0]
    assert run.read_config(workdir)["resampling"] == run.load(workdir).resampling == "shear"
    (answer,) = history.load(workdir).of_kind("control")
    assert answer["outcome"].startswith("refused: rotation = 11 is more than the 10 degrees for which this run's step is built")


def test_the_processes_of_a_run_are_remembered(finished, tiny_config):
    train(tiny_config(*SHORT), finished)
    (first,) = run.read_config(finished)["processes"]
    assert set(first) == {"versions", "devices", "xla_flags", "command"}


def test_flags_of_xla_are_remembered_and_others_on_resume_are_told(finished, tiny_config, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished, tmp_path / "run")
    was = run.read_config(workdir)["xla_flags"]
    assert was.startswith("--xla_backend_optimization_level=0")  # of tests/conftest.py
    assert "ynn_fusion" not in was  # cpu.py adds it

    def notes():
        train(tiny_config(*SHORT), workdir)
        return [event["message"] for event in history.load(workdir).of_kind("warning")]

    before = notes()
    monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {was}")
    assert notes() == before  # a run may go on with another number of devices
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    told = f"XLA_FLAGS was {was!r} and is now '--xla_cpu_enable_fast_math=true': the numbers may be others than they would have been"
    assert notes() == [*before, told]
    assert notes() == [*before, told]  # once
    monkeypatch.delenv("XLA_FLAGS")
    assert "XLA_FLAGS was '--xla_cpu_enable_fast_math=true' and is now not set" in notes()[-1]


def test_a_run_without_its_config_is_not_guessed(finished, tiny_config):
    (finished / "config.json").rename(finished / "away.json")
    try:
        with pytest.raises(UserError, match=r"has checkpoints and no config\.json: how they were trained is unknown"):
            train(tiny_config(*SHORT), finished)
    finally:
        (finished / "away.json").rename(finished / "config.json")
    assert json.loads((finished / "config.json").read_text())["config"]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("config", "train"), 3, "its config is not of the form"),
        (("config", "train", "epochs"), None, "its config is not of the form"),
        (("config", "train", "epochs"), {}, "its config is not of the form"),
        (("dataset", "classes"), "0123456789", "its dataset is not of the form"),
        (("dataset", "image_shape"), [28, 28], "its dataset is not of the form"),
        (("dataset", "stats"), {}, r"another version of this project \(.*\), whose config\.json differs: 'mean'"),
        (("dataset",), [], "its dataset is not of the form"),
        (("versions",), [], "its versions is not of the form"),
        (("config",), None, "its config is not of the form"),
    ],
)
def test_a_config_json_of_another_form_is_one_line(place, value, message, finished, tmp_path):
    record = inner = run.read_config(finished)
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        run.load(tmp_path)


def test_a_dataset_of_other_labels_is_another_one(finished, tiny_config, tmp_path):
    """Though its pictures are the same; where one of the two was prepared before there were digests, that can't be told."""
    config, workdir = tiny_config(*SHORT), shutil.copytree(finished, tmp_path / "run")
    dataset = data.load(config.data)
    labelled_anew = dataclasses.replace(dataset, digests={**dataset.digests, "validation": "0123"})
    with pytest.raises(UserError, match=r"holds a run on another version of dataset digits; use another directory"):
        run.check_same(workdir, config, labelled_anew)
    without = dataclasses.replace(dataset, digests={})
    run.write_config(workdir, config, without)
    with pytest.raises(UserError, match="another version of dataset"):  # the run still knows which one it was
        run.check_same(workdir, config, labelled_anew)
    record = run.read_config(workdir)
    del record["dataset"]["digests"]
    (workdir / "config.json").write_text(json.dumps(record))
    run.write_config(workdir, config, dataset)
    assert run.read_config(workdir)["dataset"]["digests"] == dataset.digests


# What may differ on resume. 16 steps, evaluated every 3, a drop at every evaluation but the first; stopped at 8.
LOOP = ("train.epochs=0.51", "eval.every_epochs=0.1", "plateau.patience=1", "plateau.min_delta=1", "plateau.max_drops=9")
OTHER = {
    "train.epochs": "0.51",  # after 0.3
    "train.log_every_steps": "3",
    "train.checkpoint_every_epochs": "0.07",
    "train.members_per_program": "1",
    "train.remat": "True",
    "train.on_stall": "stop",
    "train.disk_patience": "1",
    "data.dir": "",  # where the dataset lies now
    "data.threads": "5",
    "data.prepare": "make data",
    "eval.batch_size": "36",
}


def stopped_at_8(config, workdir):
    taken = data.train_batches

    def interrupted(*args, position, batch_size, **kwargs):
        for i, batch in enumerate(taken(*args, position=position, batch_size=batch_size, **kwargs)):
            if position // batch_size + i == 7:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "train_batches", interrupted)
        assert train(config, workdir) is None


@pytest.fixture(scope="module")
def make(digits_dir):
    def config(*overrides):
        return config_lib.load("configs/digits.py:members=2", [f"data.dir={digits_dir}", *TINY, *LOOP, *overrides])

    return config


@pytest.fixture(scope="module")
def quick(make, tmp_path_factory):
    """The directories of a whole run and of one that was stopped, compiled with little optimisation; and how they were compiled."""
    return two_runs(make, tmp_path_factory.mktemp("quick"), {})


@pytest.fixture(scope="module")
def shipped(make, tmp_path_factory, as_shipped):
    """The same compiled as users have it."""
    return two_runs(make, tmp_path_factory.mktemp("shipped"), as_shipped)


def two_runs(make, folder, options):
    with compiled(options):
        train(make(), folder / "whole")
        stopped_at_8(make(), folder / "stopped")
    return folder, options


@contextlib.contextmanager
def compiled(options):
    """Every program is compiled with these options."""
    with pytest.MonkeyPatch.context() as patch:
        if options:
            patch.setattr(Lowered, "compile", functools.partialmethod(Lowered.compile, compiler_options=options))
        yield


def test_the_list_of_what_may_differ_is_the_one_that_is_proved():
    assert set(OTHER) == set(run.RESUMABLE)


# These two change the compiled training step.
PROGRAM = ("train.members_per_program", "train.remat")


@pytest.mark.parametrize("field", [pytest.param(field, marks=() if field == "eval.batch_size" else pytest.mark.slow) for field in OTHER])
def test_what_may_differ_on_resume_changes_no_bit(field, make, request, tmp_path, digits_dir):
    folder, options = request.getfixturevalue("shipped" if field in PROGRAM else "quick")
    value, workdir = OTHER[field], tmp_path / "run"
    if field == "data.dir":
        value = str(shutil.copytree(digits_dir, tmp_path / "data"))
    if field == "train.epochs":
        train(make("train.epochs=0.3"), workdir)
    else:
        shutil.copytree(folder / "stopped", workdir)
    assert len(history.load(workdir).drops) > 0
    with compiled(options):
        train(make(f"{field}={value}"), workdir)
    assert history.load(workdir).of_kind("resume")
    mine, theirs = arrays(workdir), arrays(folder / "whole")
    if field == "train.log_every_steps":  # the meter's sums, which begin anew at every training event
        mine, theirs = ({name: array for name, array in each.items() if "meter" not in name} for each in (mine, theirs))
    assert mine.keys() == theirs.keys()
    assert [name for name, array in mine.items() if not np.array_equal(array, theirs[name])] == []
    for kind in ("eval", "drop"):
        found = [
            [(event["step"], event.get("member"), event.get("top1_error")) for event in history.load(one).of_kind(kind)]
            for one in (workdir, folder / "whole")
        ]
        assert found[0] == found[1]


def test_a_run_goes_on_with_its_batches_in_other_pieces(make, quick, tmp_path):
    """Sums are added in another order, so the last digits may differ, and no more."""
    folder, _ = quick
    workdir = shutil.copytree(folder / "stopped", tmp_path / "run")
    train(make("train.accumulate=5"), workdir)
    (cut, whole) = ([event["loss"] for event in history.load(one).trains] for one in (workdir, folder / "whole"))
    assert len(cut) == len(whole) > 2
    np.testing.assert_allclose(cut, whole, rtol=1e-5)


@pytest.mark.parametrize(
    "override", ["train.batch_size=44", "data.seed=1", "model.dtype=bfloat16", "optimizer.momentum=0.8", "plateau.patience=2"]
)
def test_anything_else_is_refused_with_the_difference(override, finished, tiny_config):
    name, _, value = override.partition("=")
    with pytest.raises(UserError, match=f"holds a run with {name}=.*, now it is {value}; use another directory, or the old value"):
        train(tiny_config(*SHORT, override), finished)


def changes(workdir, *steps):
    """The log of a run that dropped its rate at these steps."""
    with RunLog(workdir, 20) as log:
        log.event("start", 0, members=1, member_names=["a"], steps=20, steps_per_epoch=31.425, devices="1 cpu", images=1257)
        for step in steps:
            log.event("drop", step, member=0, learning_rate=0.002, factor=0.1, reason="control")
    return workdir


def test_a_run_that_is_replayed_may_move(tiny_config, tmp_path):
    source, workdir = changes(tmp_path / "source", 2, 5), tmp_path / "run"
    train(tiny_config("train.epochs=0.1", f"plateau.mode=replay:{source}"), workdir)
    moved = source.rename(tmp_path / "moved")
    train(tiny_config("train.epochs=0.2", f"plateau.mode=replay:{moved}"), workdir)
    assert [(event["step"], event["reason"]) for event in history.load(workdir).drops] == [(2, "replay")] * 2 + [(5, "replay")] * 2
    assert run.load(workdir).config.plateau.mode == f"replay:{moved}"
    other = changes(tmp_path / "other", 2, 4)
    with pytest.raises(UserError, match=r"holds a run with plateau\.mode=replay:.*moved, now it is replay:.*other; use another directory"):
        train(tiny_config("train.epochs=0.3", f"plateau.mode=replay:{other}"), workdir)
    shutil.rmtree(moved)
    changes(moved, 3)
    with pytest.raises(UserError, match=r"repeats changes of learning rates that .*moved no longer has"):
        train(tiny_config("train.epochs=0.3", f"plateau.mode=replay:{moved}"), workdir)
