"""Factors make the settings they name, comparisons leave out what diverged, and the command trains, compares and writes once."""

import csv
import json
import math

import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import data, history, hyper
from alexnet_jax.errors import UserError
from alexnet_jax.runlog import RunLog
from experiments.ablate import __main__ as ablate
from experiments.ablate import comparison, figures, lrn_range, study
from experiments.ablate import files as ablation_files
from experiments.ablate.factors import FACTORS
from experiments.launch import points
from experiments.launch.results import Result

GREY, COLOUR = (28, 28, 1), (32, 32, 3)
CONFIGS = ("configs/digits.py", "configs/fashion_mnist.py")


def members_of(config, plan, tmp_path, seeds=2):
    """By level: the config of its program, and its members' hyperparameters (seeds,)."""
    distinct = {point.name: point for point in plan.levels.values()}
    found = {}
    for program in points.pack(config, (), list(distinct.values()), seeds, tmp_path):
        loaded = config_lib.load(program.config, program.overrides)
        rows = hyper.from_config(loaded)[0]
        for i, point in enumerate(program.points):
            mine = {field: getattr(rows, field)[i * seeds : (i + 1) * seeds] for field in hyper.FIELDS}
            found |= {level: (loaded, mine) for level, other in plan.levels.items() if other == point}
    return found


# Factors


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("factor", FACTORS)
def test_every_level_is_a_valid_config_with_paired_seeds(config, factor, tmp_path):
    plan = study.resolve(factor, config_lib.load(config), COLOUR)
    found = members_of(config, plan, tmp_path)
    assert list(plan.levels) == [level for level in plan.levels if level in found]
    assert all(members["seed"].tolist() == [0, 1] for _, members in found.values())
    first = next(iter(plan.levels.values()))
    assert first.name == study.BASE or factor == "colour"  # which both configs have off


def test_lrn_levels(tmp_path):
    found = members_of("configs/digits.py", study.resolve("lrn", config_lib.load("configs/digits.py"), GREY), tmp_path)
    scale = config_lib.load("configs/digits.py").model.pixel_scale
    assert [float(members["lrn_alpha"][0]) for _, members in found.values()] == pytest.approx([1e-4, 1e-4 / scale**2, 0])
    assert [float(members["lrn_k"][0]) for _, members in found.values()] == [2, 2, 1]


def test_the_unit_scale_of_undivided_pixels_is_that_of_imagenets_deviation():
    plan = study.resolve("lrn", config_lib.load("configs/imagenet.py"), (256, 256, 3))
    assert float(plan.levels["unit scale"].settings["lrn_alpha"]) == pytest.approx(1e-4 / 74**2, rel=1e-5)


@pytest.mark.parametrize(
    ("config", "shape", "alone"),
    [
        ("configs/digits.py", GREY, {"rotation": 10, "shift": 0.1, "whitening": 1}),
        ("configs/fashion_mnist.py", GREY, {"flip": 0.5, "rotation": 10, "shift": 0.05, "whitening": 1}),
        ("configs/fashion_mnist.py", COLOUR, {"crop": 1, "flip": 0.5, "rotation": 10, "shift": 0.05, "colour": 0.1, "whitening": 1}),
    ],
)
def test_each_augmentation_alone_that_makes_sense(config, shape, alone, tmp_path):
    plan = study.resolve("augment", config_lib.load(config), shape)
    found = members_of(config, plan, tmp_path)
    strengths = {level: {name: float(m[name][0]) for name in hyper.AUGMENTATIONS if m[name][0]} for level, (_, m) in found.items()}
    assert strengths.pop("none") == {}
    strengths.pop("as configured")
    assert list(strengths.values()) == [{name: pytest.approx(value)} for name, value in alone.items()]
    missing = [note.split(" is not tried")[0] for note in plan.notes if "is not tried" in note]
    assert sorted([*missing, *alone]) == sorted(hyper.AUGMENTATIONS)


def test_levels_that_are_the_same_are_said_to_be_null_and_compared_once():
    config = config_lib.load("configs/digits.py", [f"augment.{name}=0" for name in hyper.AUGMENTATIONS])
    plan = study.resolve("augment", config, GREY)
    assert plan.levels["as configured"] == plan.levels["none"]
    assert any("'none' and 'as configured' are the same settings here: there is nothing to compare" in note for note in plan.notes)


def test_a_config_without_lrn_or_colours_cannot_answer_for_them():
    config = config_lib.load("configs/digits.py:lrn=off")
    for factor in ("lrn", "order"):
        with pytest.raises(UserError, match=r"model\.lrn=False.*add --config\.model\.lrn=True"):
            study.resolve(factor, config, GREY)
    with pytest.raises(UserError, match="the images are grey; it needs a dataset of colour images"):
        study.resolve("colour", config, GREY)


# LRN's range


def test_deviation_by_hand():
    x = np.float32([[1, 2, 0, 4]])
    assert lrn_range._deviation(x, x / np.float32([[3, 3.3, 9, 4.5]]), 3.0) == pytest.approx(0.5)


def test_lrn_is_a_constant_at_the_unit_scale_alone(digits_dir):
    spec = "ensemble.members=lrn_alpha=[1e-4,2e-8], seed=0; lrn=off, seed=0"
    config = config_lib.load("configs/digits.py", [f"data.dir={digits_dir}", "model.width=0.04", spec])
    on, unit, off = lrn_range.deviations(config, data.load(config.data), [0, 1, 2])
    assert on > 0.5
    assert 0 < unit < 0.01 < lrn_range.CONSTANT
    assert off == 0


# Comparisons


def outcome(errors, diverged=(), stalled=(), images=100):
    """Seed s is wrong on the first `errors[s]` images."""
    wrong, seeds = np.arange(images)[None] < np.array(errors)[:, None], list(range(len(errors)))
    return comparison.Outcome(seeds, wrong.mean(1), wrong, np.isin(seeds, diverged), np.isin(seeds, stalled))


def test_comparison_is_paired_by_seed():
    reference, level = comparison.compare({"on": outcome([10, 20, 30]), "off": outcome([12, 21, 33])}, 0.5)
    assert "difference" not in reference
    assert reference["mean_test_error"] == pytest.approx(0.2)
    assert level["differences"] == pytest.approx([2, 1, 3])
    assert level["difference"]["mean"] == pytest.approx(2)
    assert level["difference"]["p"] == level["difference"]["p_holm"]
    assert (level["mcnemar"]["only_level"], level["mcnemar"]["only_reference"]) == (6, 0)


def test_a_diverged_seed_is_left_out_on_both_sides_and_named():
    reference, level = comparison.compare({"on": outcome([10, 20, 30, 100], [3]), "off": outcome([100, 21, 33, 40], [0])}, 0.5)
    assert reference["diverged"] == [3]
    assert reference["mean_test_error"] == pytest.approx(0.2)
    assert level["diverged"] == [0]
    assert level["paired_seeds"] == [1, 2]
    assert level["differences"] == pytest.approx([1, 3])
    assert level["mcnemar"]["only_level"] == 4


def test_all_diverged_leaves_nothing_to_say():
    _, level = comparison.compare({"on": outcome([10, 20]), "off": outcome([100, 100], [0, 1])}, 0.5)
    assert level["verdict"] == {"kind": "open", "words": "no pair of seeds to compare"}
    assert math.isnan(level["difference"]["mean"])


@pytest.mark.parametrize(
    ("of_level", "of_reference", "who"),
    [([1], [], "1 of 3 networks"), ([], [0, 2], "2 of 3 of the reference"), ([1], [0], "1 of 3 networks and 1 of 3 of the reference")],
)
def test_networks_that_never_learnt_make_no_comparison(of_level, of_reference, who):
    levels = {"on": outcome([10, 20, 30], stalled=of_reference), "off": outcome([90, 90, 91], stalled=of_level)}
    _, level = comparison.compare(levels, 0.5)
    assert level["verdict"] == {"kind": "open", "words": f"no comparison: {who} never learnt, so try other learning rates"}
    assert level["stalled"] == of_level


def test_several_levels_are_corrected_for():
    levels = {"a": outcome([10, 20, 30]), "b": outcome([12, 21, 33]), "c": outcome([15, 26, 34])}
    _, b, c = comparison.compare(levels, 0.5)
    assert c["difference"]["p_holm"] == pytest.approx(2 * c["difference"]["p"])
    assert b["difference"]["p_holm"] == pytest.approx(max(b["difference"]["p"], c["difference"]["p_holm"]))


def test_the_ensembles_gain_is_over_images():
    members = outcome([10, 30])
    gain = comparison.ensemble_gain(members, np.arange(100) < 5, [], 0.5)
    # 5 images err in both, 5 in both members alone (-1), 20 in one member alone (-1/2).
    differences = np.repeat([-1, -0.5, 0], [5, 20, 75])
    assert gain["difference"]["mean"] == pytest.approx(-15)
    half = 1.9842 * 100 * differences.std(ddof=1) / 10  # t(99) of the table
    assert gain["difference"]["low"] == pytest.approx(-15 - half, abs=0.01)
    assert gain["relative_cut"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ({"diverged": (0, 1)}, "no comparison: every network diverged"),
        ({"stalled": (1,)}, "no comparison: 1 of 2 networks never learnt, so try other learning rates"),
    ],
)
def test_an_ensemble_of_networks_that_never_learnt_gains_nothing(lost, words):
    gain = comparison.ensemble_gain(outcome([10, 90], **lost), np.arange(100) < 5, [], 0.5)
    assert gain["verdict"] == {"kind": "open", "words": words}
    assert ablation_files._ensemble_words(gain)[0].endswith(f"over test images: {words}.")


def test_each_level_is_compared_at_its_best_rate(monkeypatch, tmp_path):
    """By validation error, and a rate at which a seed diverged comes after the others."""
    config = config_lib.load("configs/digits.py")
    planned = study.Study(
        "configs/digits.py", (), 2, {"dropout": study.resolve("dropout", config, GREY)}, ("0.005", "0.02", "0.1"), [], [], []
    )
    validation = {"": [[0.2, 0.3], [0.1, 0.2], [0.05, 0.05]], "dropout=0 ": [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]}
    found, outcomes = {}, {}
    for settings, errors in validation.items():
        for rate, each, wrong in zip(("learning_rate=0.005", "", "learning_rate=0.1"), errors, (10, 20, 30), strict=True):
            name = f"{settings}{rate}".strip() or study.BASE
            point = points.Point(name, dict(word.split("=") for word in name.split() if "=" in word))
            diverged = (1,) if wrong == 30 else ()
            found[name] = Result(point, [0, 1], np.array(each), np.array([wrong, wrong + 1]) / 100, tmp_path, [0, 1], diverged)
            outcomes[name] = outcome([wrong, wrong + 1], diverged)
    monkeypatch.setattr(study, "_warnings", lambda result: [])
    report = study._levels("dropout", planned, found, outcomes, 0.5)
    assert [level["settings"] for level in report["levels"]] == [{}, {"dropout": "0", "learning_rate": "0.005"}]
    assert report["levels"][1]["differences"] == pytest.approx([-10, -10])
    middle, end = report["notes"]
    errors = "25.00 % at 0.005, 15.00 % at 0.02, 5.00 % (1 diverged) at 0.1"
    assert middle == f"dropout 0.5: compared at learning rate 0.02; the validation errors are {errors}"
    assert end.startswith("off: compared at learning rate 0.005")
    assert end.endswith("another one may be better")


def test_the_figure_shows_every_seed_the_mean_and_the_interval():
    levels = comparison.compare({"on": outcome([10, 20, 30]), "off": outcome([12, 21, 33]), "other": outcome([10, 20, 30])}, 0.5)
    (axes,) = figures.effects_figure([{"question": "Does it?", "levels": levels}], 0.5).axes
    drawn = [line.get_xdata(orig=True) for line in axes.get_lines()]
    assert any(np.allclose(x, [2, 1, 3]) for x in drawn if len(x) == 3)
    interval = [levels[1]["difference"][name] for name in ("low", "high")]
    assert any(np.allclose(x, interval) for x in drawn if len(x) == 2)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["off", "other"]
    texts = " ".join(text.get_text().replace("\n", " ") for text in axes.texts)
    assert levels[1]["verdict"]["words"] in texts
    assert "reference: on, 20.00 %" in texts


# The command


@pytest.fixture(scope="module")
def arguments(digits_dir, tmp_path_factory):
    """A command that trains one program, and its output directory."""
    out = tmp_path_factory.mktemp("ablation") / "out"
    fields = {"data.dir": digits_dir, "model.width": 0.04, "train.batch_size": 40, "train.epochs": 0.2, "eval.batch_size": 64}
    return [
        *("--config", "configs/digits.py", "--factors", "lrn,colour", "--seeds", "2", "--out", str(out)),
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


def out_of(arguments):
    from pathlib import Path

    return Path(arguments[arguments.index("--out") + 1])


@pytest.fixture(scope="module")
def first(arguments):
    """What the command leaves behind."""
    ablate.main(arguments)
    return out_of(arguments)


def test_the_results_are_written(first):
    found = json.loads((first / "ablation.json").read_text())
    (lrn,) = found["factors"]
    assert [level["level"] for level in lrn["levels"]] == ["0-255 scale", "unit scale", "off"]
    assert all(len(level["differences"]) == 2 for level in lrn["levels"][1:])
    assert any(note.startswith("unit scale: NO NORMALISATION") for note in lrn["notes"])
    assert not any("NO NORMALISATION" in note for note in lrn["notes"] if not note.startswith("unit scale"))
    (end,) = history.load(next(first.glob("runs/*/events.jsonl")).parent).of_kind("end")
    assert [level["test_error"] for level in lrn["levels"]] == np.reshape(end["test"]["top1_error"], (3, 2)).tolist()
    assert found["skipped"] == ["skipped: factor colour: the images are grey; it needs a dataset of colour images"]
    assert found["protocol"]["test"].startswith("360 images (test)")
    rows = list(csv.DictReader((first / "ablation.csv").read_text().splitlines()))
    assert len(rows) == 3 * 2
    assert float(rows[0]["test_error"]) == pytest.approx(lrn["levels"][0]["test_error"][0], rel=1e-5)
    page = (first / "ablation.md").read_text()
    assert (first / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert "](ablation.svg)" in page
    assert "| unit scale |" in page


def test_the_same_command_trains_nothing_again_and_says_the_same(first, arguments, capsys):
    before = {path: path.read_bytes() for path in first.glob("runs/*/events.jsonl")}
    result = json.loads((first / "ablation.json").read_text())
    ablate.main(arguments)
    assert len(before) == 1
    assert {path: path.read_bytes() for path in before} == before
    assert json.loads((first / "ablation.json").read_text())["factors"] == result["factors"]
    shown = capsys.readouterr().out
    assert "Does local response normalisation matter?" in shown
    assert "published: LRN lowers" in shown


def test_the_ensemble_of_a_run(first, tmp_path):
    """Of all members of the run above: as if they were the seeds of one point."""
    (events,) = first.glob("runs/*/events.jsonl")
    program = points.Program(events.parent, "configs/digits.py", (), (points.Point(study.BASE, {}),), 6)
    plan = study.resolve("ensemble", config_lib.load("configs/digits.py"), GREY)
    found = study.compare(study.Study("configs/digits.py", (), 6, {"ensemble": plan}, (), [], [program], []), 0.5)
    (ensemble,) = found
    assert [row["members"] for row in ensemble["curve"]] == [1, 2, 3, 4, 5, 6]
    gain = ensemble["ensemble_test_error"] - ensemble["mean_test_error"]
    assert ensemble["difference"]["mean"] == pytest.approx(100 * gain)
    assert ensemble["difference"]["pairs"] == 360
    ablation = {"command": "", "protocol": {}, "margin": 0.5, "skipped": [], "factors": found}
    assert {path.name for path in ablation_files.write(ablation, tmp_path)} >= {"ablation.md", "ensemble.png", "ensemble.svg"}
    assert "The ensemble of all 6 networks compared with one network" in ablation_files.text(ablation)


def test_another_config_needs_another_directory(first, arguments):
    with pytest.raises(UserError, match=r"holds a run with train\.batch_size=40, now it is 20"):
        ablate.main([*arguments, "--config.train.batch_size=20"])


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(arguments, tmp_path, capsys):
    ablate.main([*arguments, "--out", str(tmp_path / "dry"), "--dry-run", "--rates", "0.005,.02"])
    shown = capsys.readouterr().out
    assert "6 points x 2 seeds = 12 members in 1 program" in shown
    assert "unit scale (lrn_alpha=2.04082e-08)" in shown
    assert "at each of the learning rates 0.005, .02" in shown
    assert not (tmp_path / "dry").exists()


def test_an_ablation_can_be_an_array_job(arguments, tmp_path, monkeypatch):
    asked = []

    def launch(programs, costs, jobs, retry, slurm):
        asked.append((jobs, slurm))
        return {program.directory: "stopped" for program in programs}

    monkeypatch.setattr("experiments.launch.launch.launch", launch)
    with pytest.raises(UserError, match=r"1 of 1 runs did not finish; .*: stopped"):
        ablate.main([*arguments, "--out", str(tmp_path / "out"), "--launcher", "slurm", "--partition", "gpu", "--time", "90"])
    ((jobs, slurm),) = asked
    assert (jobs, slurm.partition, slurm.minutes) == (None, "gpu", 90)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--factors", "lnr"], "unknown factor 'lnr'; did you mean lrn"),
        (["--factors", ","], "--factors is empty; known: lrn, augment"),
        (["--factors", "colour"], "the images are grey"),
        (["--factors", "ensemble", "--seeds", "1"], "it needs --seeds 2 or more"),
        (["--seeds", "0"], "seeds=0"),
        (["--rates", "fast"], "learning_rate=fast: expected a number"),
        (["--gpus", "2"], "--gpus is for --launcher slurm"),
        (["--margin", "0"], "--margin 0 must be positive"),
        (["--config.ensemble.members=seeds=3"], "the experiment sets the members itself"),
        (["--config.model.lrn=off", "--factors", "lrn"], "the config has no LRN"),
    ],
)
def test_refuses(arguments, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        ablate.main([*arguments, "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_a_bar_in_a_name_does_not_break_the_table():
    assert ablation_files._table([("a|b", "c")]) == ["| a\\|b | c |", "| --- | --- |"]


def test_warnings_say_whom_and_when(tmp_path):
    warnings = [(20, 4, "slow"), (20, 5, "slow"), (30, 4, "odd"), (40, 6, "slow"), (50, 9, "another point's")]
    with RunLog(tmp_path, 100) as log:
        for step, member, words in warnings:
            log.event("warning", step, member=member, message=words)
        log.event("warning", 60, message="of no member")
    result = Result(points.Point("x", {}), [0, 1, 2], np.zeros(3), np.zeros(3), tmp_path, members=[4, 5, 6])
    assert study._warnings(result) == [
        "the run warned about seed 0 at step 20, 1 at step 20, 2 at step 40: slow",
        "the run warned about seed 0 at step 30: odd",
    ]
