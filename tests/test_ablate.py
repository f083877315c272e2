"""Factors make the settings they name, comparisons leave out what diverged, and the command trains, compares and writes once."""

import csv
import json
import math

import jax
import numpy as np
import pytest
from scipy import stats

from alexnet_jax import config as config_lib
from alexnet_jax import data, history, hyper, network
from alexnet_jax.errors import UserError
from alexnet_jax.runlog import RunLog
from experiments.ablate import __main__ as ablate
from experiments.ablate import comparison, figures, findings, lrn_range, rates, report, study
from experiments.ablate import files as ablation_files
from experiments.ablate.factors import FACTORS
from experiments.launch import points
from experiments.launch.points import CHOOSING_ORDER
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
    assert first.name == study.BASE or factor in ("lrn", "colour")  # LRN's reference is a constant; both configs have no colour


def test_lrn_levels(tmp_path):
    found = members_of("configs/digits.py", study.resolve("lrn", config_lib.load("configs/digits.py"), GREY), tmp_path)
    levels = ["constant", "LRN", "off, scaled start", "off"]
    assert [float(found[level][1]["lrn_alpha"][0]) for level in levels] == pytest.approx([0, 1e-4, 0, 0])
    assert [float(found[level][1]["lrn_k"][0]) for level in levels] == [2, 2, 1, 1]
    assert [found[level][0].model.early_gain for level in levels] == [1, 1, pytest.approx(2**-0.75), 1]


def test_a_scaled_start_without_lrn_is_the_network_with_the_constant(digits_dir):
    """Its initial answers are the same, and those of a network without LRN are not."""
    answers = {}
    for level, point in study.resolve("lrn", config_lib.load("configs/digits.py"), GREY).levels.items():
        (program,) = points.pack("configs/digits.py", ["model.width=0.04", "model.positive_bias=1.0"], [point], 1, digits_dir)
        made = network.build(config_lib.load(program.config, program.overrides), GREY, 10)
        images = jax.random.normal(jax.random.key(0), (2, *GREY)) * 70
        params, member = (jax.tree.map(lambda leaf: leaf[0], tree) for tree in (made.init_state().params, made.hyper))
        layers = made.model.apply({"params": params}, images, member, mutable=["intermediates"])[1]["intermediates"]["layers"]
        answers[level] = np.asarray(layers["conv3"])
    assert answers["off, scaled start"] == pytest.approx(answers["constant"], rel=1e-4, abs=1e-6)
    assert np.abs(answers["off"]).mean() > 2 * np.abs(answers["constant"]).mean()


def test_the_drops_of_2012_come_at_the_same_fractions_of_the_training():
    levels = study.resolve("drops", config_lib.load("configs/digits.py", ["train.epochs=9"]), GREY).levels
    assert levels["three drops"].settings["optimizer.drop_epochs"] == "(2.5, 5.1, 7.9)"
    assert levels["linear"].settings == {"optimizer.schedule": "poly", "optimizer.poly_power": "1", "plateau.mode": "manual"}
    assert levels["constant"].settings == {"plateau.mode": "manual"}
    assert levels["plateau"].settings == {}


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
    spec = "ensemble.members=lrn_alpha=[1e-4,2e-8], seed=0; lrn=off, seed=0; lrn_alpha=0, seed=0"
    config = config_lib.load("configs/digits.py", [f"data.dir={digits_dir}", "model.width=0.04", spec])
    on, unit, off, constant = lrn_range.deviations(config, data.load(config.data), [0, 1, 2, 3])
    assert on > 0.5
    assert 0 < unit < 0.01 < lrn_range.CONSTANT
    assert off == constant == 0


# Comparisons


def outcome(errors, diverged=(), stalled=(), images=100, orders=()):
    """Seed s is wrong on the first `errors[s]` images; all have one order of the images, or `orders`."""
    wrong, seeds = np.arange(images)[None] < np.array(errors)[:, None], list(range(len(errors)))
    return comparison.Outcome(
        seeds, list(orders or [0] * len(seeds)), wrong.mean(1), wrong, np.isin(seeds, diverged), np.isin(seeds, stalled)
    )


def test_comparison_is_paired_by_seed():
    reference, level = comparison.compare({"on": outcome([10, 20, 30]), "off": outcome([12, 21, 33])}, 0.5)
    assert "difference" not in reference
    assert reference["mean_test_error"] == pytest.approx(0.2)
    assert level["differences"] == pytest.approx([2, 1, 3])
    assert level["difference"]["mean"] == pytest.approx(2)
    assert level["difference"]["p"] == level["difference"]["p_holm"]
    assert (level["mcnemar"]["only_level"], level["mcnemar"]["only_reference"]) == (6, 0)


def test_with_several_orders_the_interval_is_over_their_means():
    orders = [0, 0, 1, 1, 2, 2]
    reference = outcome([10] * 6, orders=orders)
    level = outcome([11, 13, 13, 15, 16, 16], orders=orders)
    _, row = comparison.compare({"on": reference, "off": level}, 0.5)
    assert row["orders"] == orders
    difference = row["difference"]  # the orders' means are 2, 4 and 6
    assert (difference["pairs"], difference["over"]) == (3, "orders")
    half = 4.3027 * 2 / 3**0.5  # t(2) of the table
    assert (difference["low"], difference["high"]) == pytest.approx((4 - half, 4 + half), abs=1e-3)
    _, row = comparison.compare({"on": reference, "off": level._replace(diverged=np.isin(level.seeds, [4, 5]))}, 0.5)
    assert (row["difference"]["pairs"], row["difference"]["mean"]) == (2, pytest.approx(3))  # one order has no pair left


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
    gain = comparison.ensemble_gain(members, np.arange(100)[None] < 5, [[]], 0.5)
    # 5 images err in both, 5 in both members alone (-1), 20 in one member alone (-1/2).
    differences = np.repeat([-1, -0.5, 0], [5, 20, 75])
    assert gain["difference"]["mean"] == pytest.approx(-15)
    half = 1.9842 * 100 * differences.std(ddof=1) / 10  # t(99) of the table
    assert gain["difference"]["low"] == pytest.approx(-15 - half, abs=0.01)
    assert gain["relative_cut"] == pytest.approx(0.75)


def test_the_gains_of_several_ensembles_are_over_orders():
    members = outcome([10, 30, 20, 22, 40, 20], orders=[0, 0, 1, 1, 2, 2])
    ensembles = np.arange(100) < np.array([[15], [15], [20]])
    curves = [[{"members": 1, "subsets": 2, "top1_error": error, "top5_error": 0.0, "std": 0.1}] for error in (0.2, 0.21, 0.3)]
    gain = comparison.ensemble_gain(members, ensembles, curves, 0.5)
    known = stats.ttest_1samp([-5, -6, -10], 0).confidence_interval(0.95)
    assert (gain["difference"]["low"], gain["difference"]["high"]) == pytest.approx(tuple(known))
    assert gain["members"] == 2
    (row,) = gain["curve"]
    assert (row["orders"], row["subsets"], row["top1_error"]) == (3, 6, pytest.approx(0.71 / 3))
    assert row["std"] == pytest.approx(np.std([0.2, 0.21, 0.3], ddof=1))
    assert ablation_files._ensemble_words(gain)[0].startswith(
        "Ensembles of all 2 networks of an order compared with one network, over orders"
    )
    assert ablation_files._ensemble_rows(gain)[0][1] == "test error, ± over orders"


CURVE = [{"members": 1, "subsets": 2, "top1_error": 0.5, "top5_error": 0.1, "std": 0.1}]


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ({"diverged": (0, 1)}, "no comparison: every network diverged"),
        ({"stalled": (1,)}, "no comparison: 1 of 2 networks never learnt, so try other learning rates"),
    ],
)
def test_an_ensemble_of_networks_that_never_learnt_gains_nothing(lost, words):
    gain = comparison.ensemble_gain(outcome([10, 90], **lost), np.arange(100)[None] < 5, [CURVE], 0.5)
    assert gain["verdict"] == {"kind": "open", "words": words}
    assert ablation_files._ensemble_words(gain)[0].endswith(f"over test images: {words}.")


def test_each_level_is_compared_at_its_best_rate(monkeypatch, tmp_path, digits_dir):
    """By validation error, and a rate at which a seed diverged comes after the others."""
    tried = ("0.005", "0.02", "0.1")
    planned = study.make_study("configs/digits.py", [f"data.dir={digits_dir}"], ["dropout"], 2, tmp_path, rates=tried)
    validation = {"": [[0.2, 0.3], [0.1, 0.2], [0.05, 0.05]], "dropout=0 ": [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]}
    found = {}
    for settings, errors in validation.items():
        for rate, each, wrong in zip(("learning_rate=0.005", "", "learning_rate=0.1"), errors, (10, 20, 30), strict=True):
            name = f"{settings}{rate}".strip() or study.BASE
            point = points.Point(name, dict(word.split("=") for word in name.split() if "=" in word))
            diverged = (1,) if wrong == 30 else ()
            result = Result(point, [0, 1], np.array(each), np.array([wrong, wrong + 1]) / 100, ((tmp_path, [0, 1]),), diverged)
            found[name] = result, outcome([wrong, wrong + 1], diverged)
    monkeypatch.setattr(findings, "_warnings", lambda result: [])
    monkeypatch.setattr(findings, "_found", lambda programs: found)
    compared = findings._levels("dropout", planned, found, findings._tried(planned), 0.5)
    assert [level["settings"] for level in compared["levels"]] == [{}, {"dropout": "0", "learning_rate": "0.005"}]
    assert compared["levels"][1]["differences"] == pytest.approx([-10, -10])
    middle, end = compared["notes"]
    errors = "25.00 % at 0.005, 15.00 % at 0.02, 5.00 % (1 diverged) at 0.1"
    assert middle == f"dropout 0.5: compared at learning rate 0.02; the validation errors are {errors}"
    assert end.startswith("off: compared at learning rate 0.005")
    assert end.endswith("another one may be better")
    assert [(level["rate"], level["highest_rate"]) for level in compared["levels"]] == [("0.02", "0.02"), ("0.005", "0.02")]
    rows = ablation_files._level_rows(compared | {"factor": "dropout"})
    assert [row[:3] for row in rows[:2]] == [("level", "rate", "highest that learns"), ("dropout 0.5", "0.02", "0.02")]


def results_at(curves):
    """Stands in for the finished runs of a study: a point's validation error is that of its rate in the curve of its other settings. The
    networks that choose err on 1 % of the test images, the compared ones on 10 %."""

    def found(programs):
        networks = {}
        for program in programs:
            for point in program.points:
                settings = dict(point.settings)
                rate = float(settings.pop("learning_rate", 0.02))
                error = curves[" ".join(settings)](np.log2(rate / 0.02))
                networks.setdefault(point.name, (point, []))[1].append((error, program))
        return {name: finished(point, trained) for name, (point, trained) in networks.items()}

    def finished(point, trained):
        errors = np.concatenate([[error] * program.seeds for error, program in trained])
        runs = tuple((program.directory, list(range(program.seeds))) for _, program in trained)
        result = Result(point, list(range(len(errors))), errors, errors, runs)
        wrong = [1 if program.order >= CHOOSING_ORDER else 10 for _, program in trained for _ in range(program.seeds)]
        return result, outcome(wrong, orders=result.orders, stalled=np.flatnonzero(errors > 0.5))

    return found


@pytest.fixture
def rounds_of(monkeypatch, tmp_path, digits_dir):
    """Makes a study of dropout with two seeds, and every longer one up to its end. The reference's best rate is the config's, the other
    level's an eighth of it."""
    curves = {"": lambda place: 0.1 + 0.01 * place**2, "dropout": lambda place: 0.1 + 0.01 * (place + 3) ** 2 + 0.5 * (place > -2)}
    monkeypatch.setattr(findings, "_found", results_at(curves))
    monkeypatch.setattr(findings, "_warnings", lambda result: [])

    def rounds(**more):
        found = [study.make_study("configs/digits.py", [f"data.dir={digits_dir}"], ["dropout"], 2, tmp_path, **more)]
        while (longer := findings.extended(found[-1])) != found[-1]:
            found.append(longer)
        return found

    return rounds


def levels_of(planned):
    return findings._levels("dropout", planned, findings._found(planned.compared), findings._tried(planned), 0.5)["levels"]


def test_rates_are_widened_until_the_best_has_worse_neighbours(rounds_of):
    """Then both levels train in all orders at their best."""
    rounds = rounds_of(budget=9, orders=3)
    trained = [{point.name for program in each.searched for point in program.points} for each in rounds]
    assert [len(names) for names in trained] == [6, 8, 8 + 2, 10]
    assert {"dropout=0 learning_rate=0.005", "dropout=0 learning_rate=0.0025"} == trained[1] - trained[0]
    assert {"dropout=0 learning_rate=0.00125", "dropout=0 learning_rate=0.000625"} == trained[2] - trained[1]
    assert [program for each in rounds[:3] for program in each.compared] == []
    assert [(program.order, [point.name for point in program.points]) for program in rounds[3].compared] == [
        (order, [study.BASE, "dropout=0 learning_rate=0.0025"]) for order in (0, 1, 2)
    ]
    reference, level = levels_of(rounds[-1])
    assert (reference["rate"], reference["highest_rate"], len(reference["tried"])) == ("0.02", "0.04 or more", 3)
    assert (level["rate"], level["highest_rate"], len(level["tried"])) == ("0.0025", "0.005", 7)


def test_the_networks_that_choose_a_rate_are_not_compared(rounds_of):
    *_, last = rounds_of(budget=9, orders=3)
    assert {program.order for program in last.searched} == {CHOOSING_ORDER}
    assert {program.seeds for program in last.searched} == {last.choosing} == {3}
    for level in levels_of(last):
        assert level["orders"] == [0, 0, 1, 1, 2, 2]
        assert level["test_error"] == [0.1] * 6
        assert level["runs"] == [str(program.directory) for program in last.compared]


def test_the_choice_is_the_same_with_more_orders(rounds_of):
    few, many = rounds_of(budget=9, orders=3), rounds_of(budget=9, orders=5)
    assert [each.searched for each in few] == [each.searched for each in many]
    assert few[-1].compared == many[-1].compared[:3]
    assert [program.order for program in many[-1].compared] == [0, 1, 2, 3, 4]
    assert [report._later(each) for each in few] == [2 * (2 * 3 + 3 * 2)] * 3 + [0]  # of each level 2 rates, 3 networks; 3 orders, 2 seeds


def test_with_one_order_or_one_rate_the_networks_that_choose_are_compared(rounds_of):
    for planned in rounds_of(budget=9):
        assert planned.searched == planned.compared == planned.programs
        assert {(program.order, program.seeds) for program in planned.programs} == {(0, 2)}
        assert report._later(planned) == 2 * 2 * 2
    (planned,) = rounds_of(rates=["0.01"], orders=3)
    assert planned.searched == planned.compared == planned.programs
    assert [program.order for program in planned.programs] == [0, 1, 2]
    assert report._later(planned) == 0


def test_the_search_for_a_rate_ends_with_its_budget():
    falling = [rates.Tried(rate, 0, 0, error) for rate, error in (("0.01", 0.3), ("0.02", 0.2), ("0.04", 0.1))]
    assert rates.wider(falling, 9) == ("0.08", "0.16")
    assert rates.wider(falling, 4) == ("0.08",)
    assert rates.wider(falling, 3) == ()
    assert rates.at_an_end(falling)
    assert rates.highest_that_learns(falling) == "0.04 or more"
    assert rates.highest_that_learns([each._replace(stalled=1) for each in falling]) == "none of those tried"
    assert rates.wider([*falling, rates.Tried("0.08", 1, 0, 0.05)], 9) == ()  # a diverged network counts more than the error


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


def test_a_note_says_where_lrn_normalises_nothing(monkeypatch, tmp_path, digits_dir):
    planned = study.make_study("configs/digits.py", [f"data.dir={digits_dir}"], ["lrn"], 2, tmp_path, orders=2)
    monkeypatch.setattr(
        lrn_range, "deviations", lambda config, dataset, members: [{0: 0.0, 2: 2.5}.get(member, 0.004) for member in members]
    )
    compared = {level: point.name for level, point in planned.factors["lrn"].levels.items()}
    notes = findings._lrn_range(planned, compared)
    assert [note.partition(", LRN")[0] for note in notes] == ["LRN: before training", "off: NO NORMALISATION: before training"]


@pytest.mark.slow
def test_rates_and_orders_of_real_runs(arguments, tmp_path, capsys):
    """Two orders with two seeds each, rates in three rounds, and the ensembles; the second time nothing is trained, and another order
    changes no run."""
    words = [*arguments, "--out", str(tmp_path), "--factors", "dropout,ensemble", "--orders", "2", "--rates", "auto", "--rate-budget", "5"]
    ablate.main(words)
    before = {path: path.read_bytes() for path in tmp_path.glob("runs/*/events.jsonl")}
    found = json.loads((tmp_path / "ablation.json").read_text())
    dropout, ensemble = found["factors"]
    assert all(level["orders"] == [0, 0, 1, 1] and level["seeds"] == [0, 1, 2, 3] for level in dropout["levels"])
    assert (dropout["levels"][1]["difference"]["over"], dropout["levels"][1]["difference"]["pairs"]) == ("orders", 2)
    assert all(3 <= len(level["tried"]) <= 5 for level in dropout["levels"])
    assert (ensemble["curve"][1]["members"], ensemble["curve"][1]["orders"]) == (2, 2)
    assert "2 orders of the images" in found["protocol"]["orders"]
    assert found["protocol"]["seeds"].startswith("4, the first is 0;")
    assert "the mean of 3 networks" in found["protocol"]["rates"]
    assert found["protocol"]["rates"].endswith("these networks have seeds and an order of the images of their own, and are not compared")
    capsys.readouterr()
    ablate.main([*words, "--dry-run"])
    shown = capsys.readouterr().out
    assert "to be trained" not in shown
    assert "depend on their results" not in shown
    ablate.main(words)
    assert {path: path.read_bytes() for path in tmp_path.glob("runs/*/events.jsonl")} == before
    assert json.loads((tmp_path / "ablation.json").read_text())["factors"] == found["factors"]
    assert "the t-test over the mean differences of the orders" in capsys.readouterr().out
    ablate.main([*words, "--orders", "3"])
    after = {path: path.read_bytes() for path in tmp_path.glob("runs/*/events.jsonl")}
    assert {path: after[path] for path in before} == before
    assert {path.parent.name.partition(",")[0].partition("-")[0] for path in after.keys() - before.keys()} == {"order=2"}
    more = json.loads((tmp_path / "ablation.json").read_text())["factors"][0]["levels"]
    assert [level["tried"] for level in more] == [level["tried"] for level in dropout["levels"]]
    assert [level["test_error"][:4] for level in more] == [level["test_error"] for level in dropout["levels"]]


# The command


@pytest.fixture(scope="module")
def arguments(digits_dir, tmp_path_factory):
    """A command that trains one program, and its output directory."""
    out = tmp_path_factory.mktemp("ablation") / "out"
    fields = {"data.dir": digits_dir, "model.width": 0.04, "train.batch_size": 40, "train.epochs": 0.2, "eval.batch_size": 64}
    return [
        *("--config", "configs/digits.py", "--factors", "dropout,colour", "--seeds", "2", "--out", str(out)),
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
    (dropout,) = found["factors"]
    assert [level["level"] for level in dropout["levels"]] == ["dropout 0.5", "off"]
    assert all(len(level["differences"]) == 2 for level in dropout["levels"][1:])
    (end,) = history.load(next(first.glob("runs/*/events.jsonl")).parent).of_kind("end")
    assert [level["test_error"] for level in dropout["levels"]] == np.reshape(end["test"]["top1_error"], (2, 2)).tolist()
    assert found["skipped"] == ["skipped: factor colour: the images are grey; it needs a dataset of colour images"]
    assert found["protocol"]["test"].startswith("360 images (test)")
    rows = list(csv.DictReader((first / "ablation.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2
    assert float(rows[0]["test_error"]) == pytest.approx(dropout["levels"][0]["test_error"][0], rel=1e-5)
    page = (first / "ablation.md").read_text()
    assert (first / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert "](ablation.svg)" in page
    assert "| off |" in page
    assert "in one order, so it says nothing about other orders" in page


def test_the_same_command_trains_nothing_again_and_says_the_same(first, arguments, capsys):
    before = {path: path.read_bytes() for path in first.glob("runs/*/events.jsonl")}
    result = json.loads((first / "ablation.json").read_text())
    ablate.main(arguments)
    assert len(before) == 1
    assert {path: path.read_bytes() for path in before} == before
    assert json.loads((first / "ablation.json").read_text())["factors"] == result["factors"]
    shown = capsys.readouterr().out
    assert "Does dropout matter?" in shown
    assert "published: without dropout" in shown


def test_the_ensemble_of_a_run(first, tmp_path):
    """Of all members of the run above: as if they were the seeds of one point."""
    (events,) = first.glob("runs/*/events.jsonl")
    program = points.Program(events.parent, "configs/digits.py", (), (points.Point(study.BASE, {}),), 4)
    plan = study.resolve("ensemble", config_lib.load("configs/digits.py"), GREY)
    found = findings.compare(
        study.Study("configs/digits.py", (), 4, 1, {"ensemble": plan}, tmp_path, None, {}, 0, [], [], [program], []), 0.5
    )
    (ensemble,) = found
    assert [row["members"] for row in ensemble["curve"]] == [1, 2, 3, 4]
    gain = ensemble["ensemble_test_error"] - ensemble["mean_test_error"]
    assert ensemble["difference"]["mean"] == pytest.approx(100 * gain)
    assert ensemble["difference"]["pairs"] == 360
    ablation = {"command": "", "protocol": {}, "margin": 0.5, "skipped": [], "factors": found}
    assert {path.name for path in ablation_files.write(ablation, tmp_path)} >= {"ablation.md", "ensemble.png", "ensemble.svg"}
    assert "The ensemble of all 4 networks compared with one network" in ablation_files.text(ablation)


def test_another_config_needs_another_directory(first, arguments):
    with pytest.raises(UserError, match=r"holds a run with train\.batch_size=40, now it is 20"):
        ablate.main([*arguments, "--config.train.batch_size=20"])


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(arguments, tmp_path, capsys):
    ablate.main([*arguments, "--out", str(tmp_path / "dry"), "--dry-run", "--rates", "0.005,.02"])
    shown = capsys.readouterr().out
    assert "4 points x 2 seeds = 8 members in 1 program" in shown
    assert "off (dropout=0)" in shown
    assert "learning rates, except in the factor `ensemble`: 0.005, .02" in shown
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
        (["--seeds", "0", "--orders", "2", "--rates", ".01,.02"], "seeds=0"),
        (["--rates", "fast"], "learning_rate=fast: expected a number"),
        (["--rates", "auto", "--rate-budget", "2"], "--rate-budget 2: the first 3 rates don't fit"),
        (["--orders", "0"], "orders=0"),
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
    result = Result(points.Point("x", {}), [0, 1, 2], np.zeros(3), np.zeros(3), ((tmp_path, [4, 5, 6]),))
    assert findings._warnings(result) == [
        "the run warned about seed 0 at step 20, 1 at step 20, 2 at step 40: slow",
        "the run warned about seed 0 at step 30: odd",
    ]
