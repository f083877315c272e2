"""Published numbers beside measured ones: the settings of datasets and scales, figure 1's epochs, the command."""

import argparse
import itertools
import json
import os
import re
import shutil

import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import hyper
from alexnet_jax.errors import UserError
from alexnet_jax.runlog import RunLog
from experiments import published
from experiments.ablate import figures
from experiments.ablate.factors import FACTORS
from experiments.launch.points import CHOOSING_ORDER, Point, Program
from experiments.launch.results import Status
from experiments.reproduce import __main__ as reproduce
from experiments.reproduce import claims, parts, setting, sizes
from experiments.reproduce.figure1 import RATES, epochs_to, figure1, in_words, training_errors

ARGS = config_lib.parse_command_line(reproduce.parser(), ["figure1"])


def test_published_numbers_agree_with_each_other():
    one, five, seven = (published.ENSEMBLES[size] for size in (1, 5, 7))
    assert 100 * (1 - five.top5 / one.top5) == pytest.approx(9.9, abs=0.05)
    assert 100 * (1 - seven.top5 / one.top5) == pytest.approx(15.4, abs=0.05)
    assert "9.9 %" in published.CLAIMS["ensemble"]
    assert set(published.CLAIMS) == set(FACTORS)


# Settings


def test_scales(digits_dir, tmp_path):
    where = f"data.dir={digits_dir}"
    full, quick = (setting.make("digits", scale, 3, tmp_path, [where], ARGS) for scale in ("full", "quick"))
    assert full.loaded.train.epochs == 20
    assert quick.loaded.train.epochs == 12
    assert full.root != quick.root
    assert quick.images == 1257
    own = setting.make("digits", "quick", 3, tmp_path, [where, "train.epochs=1", "data.train_split=train[:100]"], ARGS)
    assert own.loaded.train.epochs == 1  # the user's word is the last
    assert own.images == 100
    assert own.baselines[0].members == 3


def test_a_prepared_dataset_without_a_config_gets_the_one_for_its_size(digits_dir, tmp_path):
    shutil.copytree(digits_dir / "digits", tmp_path / "mine")
    found = setting.make("mine", "quick", 1, tmp_path, [f"data.dir={tmp_path}"], ARGS)
    assert found.config == "configs/fashion_mnist.py"
    assert (found.loaded.data.name, found.loaded.data.test_split) == ("mine", "test")
    assert found.dataset.split_sizes["train"] == 1257


def test_an_unknown_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"unknown dataset 'fashion_mnits'.*did you mean fashion_mnist"):
        setting.make("fashion_mnits", "quick", 1, tmp_path, [], ARGS)


# Figure 1


def test_epochs_to_a_threshold():
    epochs, errors = np.array([1.0, 2.0, 3.0]), np.array([[0.8, 0.6], [0.4, 0.4], [0.1, 0.1]])
    assert epochs_to(0.55, (epochs, errors)) == pytest.approx(1.5)
    assert epochs_to(0.25, (epochs, errors)) == pytest.approx(2.5)
    assert epochs_to(0.9, (epochs, errors)) == 1
    assert epochs_to(0.05, (epochs, errors)) == float("inf")
    assert epochs_to(0.5, (epochs, np.full((3, 2), np.nan))) == float("inf")


def log_training(program, scale):
    """A run in which a member's training error falls as exp(-epoch / scale); a scale of NaN has diverged."""
    with RunLog(program.directory, 100) as log:
        names = [f"m{m}" for m in range(program.members)]
        log.event("start", 0, members=program.members, member_names=names, steps=200, steps_per_epoch=10.0, devices="1 cpu", images=640)
        for step in range(1, 201):
            errors = [np.exp(-step / 10 / each) for each in scale]
            shown = [0.9 if np.isnan(error) else error for error in errors]
            fields = {"loss": errors, "error": shown, "learning_rate": [0.01] * len(scale), "images_per_second": 1.0}
            log.event("train", step, epoch=step / 10, member_images_per_second=1.0, **fields)


def test_a_diverged_member_has_no_training_error(tmp_path):
    program = Program(tmp_path, "configs/digits.py", (), (Point("a", {}), Point("b", {})), 2)
    log_training(program, [1, 2, np.nan, 1])
    curves = training_errors([program])
    assert curves["a"][1].shape == (200, 2)
    assert curves["a"][1][9] == pytest.approx(np.exp([-1, -0.5]), rel=1e-6)
    assert np.isnan(curves["b"][1][:, 0]).all()


def scaled(*scales):
    """The training curve of networks whose errors fall exponentially over 20 epochs, at these scales."""
    epochs = np.linspace(0, 20, 2001)
    return epochs, np.exp(-epochs[:, None] / np.array(scales))


def test_the_ratio_of_epochs_has_an_interval_over_orders_or_seeds():
    half = 12.706 * np.log(1.5) / 2  # t(1) of the table; the two orders' ratios are 2 and 3
    low, high = 6**0.5 * np.exp([-half, half])
    slow = in_words(scaled(2, 2, 3, 3), scaled(1, 1, 1, 1), [0, 0, 1, 1])
    assert slow == f"in 2.4 times fewer epochs with ReLU (mean over 2 orders, 95 % interval {low:.1f} to {high:.1f})"
    fast = in_words(scaled(1, 1, 1, 1), scaled(2, 2, 3, 3), [0, 0, 1, 1])
    assert fast == f"NOT REPRODUCED: ReLU needs 2.4 times the epochs of tanh (mean over 2 orders, 95 % interval {low:.1f} to {high:.1f})"
    assert "(mean over 4 seeds, 95 % interval" in in_words(scaled(2, 2, 3, 3), scaled(1, 1, 1, 1), [0, 0, 0, 0])


def test_without_an_interval_the_epochs_are_those_of_the_mean_curves():
    one = in_words(scaled(2), scaled(1), [0])
    assert one == "in 2.0 times fewer epochs with ReLU (no interval: it needs several orders or seeds that differ)"
    assert in_words(scaled(99, 2), scaled(1, 1), [0, 1]) == "only ReLU reached this error"
    some = in_words(scaled(30, 0.1, 0.1), scaled(9, 9, 9), [0, 1, 2])
    assert some.startswith("NOT REPRODUCED: ReLU needs ")
    assert some.endswith("(no interval: some networks did not reach it)")
    assert in_words(scaled(99), scaled(99), [0]).startswith("neither ReLU nor tanh reached this error")


@pytest.mark.parametrize("orders", [1, 3])
def test_figure1_compares_the_best_rates(orders, digits_dir, tmp_path, monkeypatch):
    trained = []

    def train(programs, out, args, later=0):
        scales = dict(zip(RATES, (np.nan, 1.5, 1.0, 2.0, 3.0, 4.0), strict=True))
        for program in programs:
            trained.append((program.order, len(program.points), program.seeds))
            pace = 0.5 if program.order >= CHOOSING_ORDER else 1  # the networks that choose learn faster than those that are compared
            slow = [pace * (6.0 if "tanh" in point.name else 1.0) * scales[point.name.split()[-1]] for point in program.points]
            log_training(program, [scale for scale in slow for _ in range(program.seeds)])
        return not args.dry_run

    monkeypatch.setattr("experiments.reproduce.figure1.train", train)
    args = argparse.Namespace(**{**vars(ARGS), "orders": orders})
    lines = figure1(setting.make("digits", "quick", 2, tmp_path, [f"data.dir={digits_dir}"], args))
    assert lines is not None
    table = {line.split("   ")[0].strip(): line.split()[-3:] for line in lines}
    assert "25% training error in 6 times fewer epochs" in lines[0]
    assert lines[1].startswith("measured: in 6.4 times fewer epochs with ReLU (")
    compared = ["1.29", "2.20", "2.90"]  # a step's error is that of the network before it
    assert table["tanh * / relu *"] == ["6.4", "6.2", "6.2"]
    assert "not reached" in next(line for line in lines if "relu at 0.0003" in line)
    assert (tmp_path / "digits-quick" / "figure1" / "figure1.png").exists()
    words = " ".join(lines)
    if orders == 1:
        assert trained == [(0, 6, 2), (0, 6, 2)]
        assert table["relu at 0.003 *"] == compared
        assert "relu at 0.003, compared" not in table
        assert "chosen on the networks that are compared; the paper's" in words
    else:
        assert trained == [(CHOOSING_ORDER, 6, 3)] * 2 + [(order, 1, 2) for order in (0, 0, 1, 1, 2, 2)]
        assert table["relu at 0.003 *"] == ["0.59", "1.05", "1.40"]
        assert table["relu at 0.003, compared"] == compared
        assert "chosen on 3 networks of each, which are not compared; the rows `compared` and the ratio come from 6 other networks" in words
        assert "2 seeds in each of 3 orders" in words
        monkeypatch.setattr("experiments.reproduce.figure1.status", lambda directory: Status("finished"))
        args.dry_run, trained[:] = True, []
        assert figure1(setting.make("digits", "quick", 2, tmp_path, [f"data.dir={digits_dir}"], args)) is None
        assert {order for order, *_ in trained} == {0, 1, 2}  # the plan goes on from the networks that have chosen


def test_figure1_refuses_what_a_training_would(digits_dir, tmp_path):
    fields = [f"data.dir={digits_dir}", "train.batch_size=0"]
    with pytest.raises(UserError, match=r"train\.batch_size is 0"):
        figure1(setting.make("digits", "quick", 2, tmp_path, fields, ARGS))


def test_a_mean_over_steps_counts_in_the_middle_of_them(tmp_path):
    program = Program(tmp_path, "configs/digits.py", (), (Point("a", {}),), 1)
    with RunLog(tmp_path, 100) as log:
        log.event("start", 0, members=1, member_names=["m"], steps=20, steps_per_epoch=10.0, devices="1 cpu", images=640)
        for step in (5, 15):
            fields = {"loss": [1.0], "error": [0.5], "learning_rate": [0.01], "images_per_second": 1.0, "member_images_per_second": 1.0}
            log.event("train", step, epoch=step / 10, **fields)
    assert training_errors([program])["a"][0] == pytest.approx([0.2, 0.95])  # steps 0 to 4, and 5 to 14


# Seeds and orders


def test_the_cut_of_an_ensemble_has_an_interval_over_orders():
    results = [{"curve": [{"top1_error": 0.1}, {"top1_error": error}]} for error in (0.09, 0.08, 0.07)]
    half = 4.3027 * 10 / 3**0.5  # of 10, 20 and 30 %: t(2) of the table
    interval = f"({20 - half:.1f} to {20 + half:.1f})"
    assert (
        claims._cut_in_words(results) == f"cut of the top-1 error by all networks: 20.0 % {interval}, mean and 95 % interval over 3 orders"
    )
    assert claims._cut_in_words(results[:1]) == "one order of the images: the cut may be another with another order"


def test_figures_of_networks_are_those_of_one_order(digits_dir, tmp_path):
    several = argparse.Namespace(**{**vars(ARGS), "orders": 2})
    with pytest.raises(UserError, match="figure3 shows the networks of one order of the images; leave --orders out"):
        claims.figure3(setting.make("digits", "quick", 1, tmp_path, [f"data.dir={digits_dir}"], several))


def parts_of(digits_dir, out, monkeypatch, *options, together=(0.125,)):
    """What `parts` trains and tests with 3 networks in an ensemble, and its lines; `together` are the errors of the ensembles, in turn."""
    trained, evaluated, next_error = [], [], itertools.cycle(together)

    def evaluate(directories, path, *_):
        evaluated.append((path.stem, directories))
        errors: dict = dict.fromkeys(("mean_top1_error", "std_top1_error", "relative_cut", "disagreement"), 0.25)
        errors |= {"members": [*"abc"], "diverged": ["c"] * (len(evaluated) == 1)}
        return errors | {"ensemble_top1_error": next(next_error)}

    monkeypatch.setattr(parts, "train", lambda programs, *_: trained.extend(programs) or True)
    monkeypatch.setattr(parts, "evaluate", evaluate)
    args = config_lib.parse_command_line(reproduce.parser(), ["parts", *options])
    lines = parts.parts(setting.make("digits", "quick", 3, out, [f"data.dir={digits_dir}"], args))
    return trained, evaluated, "\n".join(lines)


def chance(programs, evaluated):
    """For each ensemble tested the order, seed and draws of its networks."""
    seeds = {}
    for program in programs:
        config = config_lib.load(program.config, program.overrides)
        members = hyper.from_config(config)[0]
        seeds[program.directory] = [(config.data.seed, *map(int, pair)) for pair in zip(members.seed, members.draws, strict=True)]
    return {name: [seed for directory in directories for seed in seeds[directory]] for name, directories in evaluated}


def test_parts_are_networks_that_differ_in_one_thing(digits_dir, tmp_path, monkeypatch):
    trained, evaluated, text = parts_of(digits_dir, tmp_path, monkeypatch)
    assert chance(trained, evaluated) == {
        "their-first-weights-1": [(0, 0, 0), (0, 1, 0), (0, 2, 0)],
        "what-dropout-and-augmentation-draw-1": [(0, 0, 0), (0, 0, 1), (0, 0, 2)],
        "their-seeds-so-both-1": [(0, 0, 0), (0, 1, 1), (0, 2, 2)],
        "the-order-of-the-images-1": [(0, 0, 0), (1, 0, 0), (2, 0, 0)],
        "all-of-these-1": [(0, 0, 0), (1, 1, 1), (2, 2, 2)],
    }
    assert len(trained) == 1 + 1 + 1 + 3 + 2
    assert re.search(r"the order of the images +25\.00 ± 25\.00 % +12\.50 % +12\.50 +25\.0 % +25\.0 %", text)
    assert "so the cuts have no interval" in text
    assert "\nleft out: 1 of 15 networks, which diverged\n" in text
    assert (tmp_path / "digits-quick" / "parts" / "parts.png").exists()
    one = setting.make("digits", "quick", 1, tmp_path, [f"data.dir={digits_dir}"], ARGS)
    with pytest.raises(UserError, match="--seeds 1: parts compares ensembles; give them 2 networks or more"):
        parts.parts(one)


def test_parts_in_several_ensembles_of_each_kind(digits_dir, tmp_path, monkeypatch):
    # Gains of two ensembles of each kind, in points: 9 and 11, but for the last kind, all of these, 12 and 14.
    trained, evaluated, text = parts_of(
        digits_dir, tmp_path, monkeypatch, "--orders", "2", together=(0.16, 0.14, 0.16, 0.14, 0.16, 0.14, 0.1601, 0.1399, 0.13, 0.11)
    )
    found = chance(trained, evaluated)
    assert found["the-order-of-the-images-2"] == [(3, 3, 3), (4, 3, 3), (5, 3, 3)]
    assert found["all-of-these-2"] == [(3, 3, 3), (4, 4, 4), (5, 5, 5)]
    assert len({program.directory for program in trained}) == len(trained) == 2 * (1 + 1 + 1 + 3 + 2)
    # t of 0.975 with one degree of freedom is 12.706, the standard error of the mean 1 point
    assert re.search(r"their first weights +25\.00 ± 25\.00 % +15\.00 % +10\.00 \(-2\.71 to 22\.71\)", text)
    assert "differ in their first weights, instead of in all: +3.00 points with each of 2 ensembles" in text
    assert "differ in the order of the images, instead of in all: worse by 3.00 points (2.87 to 3.13)" in text
    assert "2 ensembles of 3 of each kind" in text


# The command


def tiny(digits_dir, out, *more):
    fields = {"data.dir": digits_dir, "model.width": 0.04, "train.batch_size": 40, "train.epochs": 0.2, "eval.batch_size": 64}
    return [*more, "--out", str(out), *(f"--config.{name}={value}" for name, value in fields.items())]


@pytest.fixture(scope="module")
def runs(digits_dir, tmp_path_factory):
    """The output directory of `reproduce ensemble` with two networks."""
    out = tmp_path_factory.mktemp("reproduce")
    reproduce.main(tiny(digits_dir, out, "ensemble", "--seeds", "2"))
    return out


def test_ensemble_has_the_published_and_the_measured_errors(runs):
    text = (runs / "digits-quick" / "ensemble" / "result.txt").read_text()
    assert re.search(r"\n1 +40\.7 % +18\.2 % +\d+\.\d\d % +\d+\.\d\d %\n", text)
    assert re.search(r"\n2 {20,}\d+\.\d\d %", text)
    assert re.search(r"\n7 +36\.7 % \(9\.8%\) +15\.4 % \(15\.4%\)\n", text)
    assert "half of the ten are mirror images, which this network has never seen" in text
    assert "the paper, table 2" in text
    assert "10 classes, 28 pixels high, grey, 1,257 training images" in text
    assert re.search(r"\nmachine: \d+ x cpu .*; jax \d+\.\d+.*, python 3\.\d+\.\d+\n$", text)
    assert (runs / "digits-quick" / "ensemble" / "ensemble.png").exists()
    (gain,) = json.loads((runs / "digits-quick" / "ensemble" / "networks" / "ablation.json").read_text())["factors"]
    assert f"\nmeasured, centre crop: all 2 networks together against one: {gain['verdict']['words']}\n" in text


def test_another_target_reuses_the_run(runs, digits_dir, capsys):
    (events,) = runs.rglob("events.jsonl")
    before = events.read_bytes()
    reproduce.main(tiny(digits_dir, runs, "table1", "--seeds", "2"))
    shown = capsys.readouterr().out
    assert events.read_bytes() == before
    assert [path for path in runs.rglob("events.jsonl")] == [events]
    assert re.search(r"published, ten views +37\.5 % +17\.0 %", shown)
    assert re.search(r"measured, centre crop +\d+\.\d\d % +\d+\.\d\d %", shown)
    assert "measured, ten views" not in shown


def test_ten_views_are_compared_network_by_network_within_an_order():
    def results(*errors):
        return [{"members": [0, 1], "diverged": [], "top1_error": both} for both in errors]

    centre, ten = results([0.30, 0.34], [0.31, 0.31], [0.29, 0.33]), results([0.29, 0.32], [0.30, 0.28], [0.29, 0.30])
    # The means of the orders are 1.5, 2 and 1.5 points: t = 4.30 with 2 degrees of freedom, standard error 0.167.
    assert claims._views_in_words(centre, ten) == "ten views against the centre crop: better by 1.67 points (0.95 to 2.38)"
    assert "better by 1.50 points" not in claims._views_in_words(centre[:1], ten[:1])  # two networks: the interval contains zero
    lost = [each | {"members": [0, 1, 2], "diverged": [1], "top1_error": [0.3, 1, 0.3]} for each in results([0.3, 0.3])]
    gained = [each | {"top1_error": [0.29, 1, 0.28]} for each in lost]
    assert claims._views_in_words(lost, gained).startswith(
        "ten views against the centre crop: too few seeds to tell: between -7.85 and +4.85"
    )


def test_a_kept_evaluation_is_read_only_if_it_is_of_these_runs_as_they_are(tmp_path, monkeypatch):
    made, kept = [], tmp_path / "kept.json"

    def evaluate_anew(module, *words):
        runs = list(words[words.index("--run") + 1 : words.index("--split")])
        made.append(runs)
        kept.write_text(json.dumps({"runs": runs, "members": ["a", "b"], "diverged": []}))

    monkeypatch.setattr(claims, "_python", evaluate_anew)
    one, other = tmp_path / "one", tmp_path / "other"
    for directory in (one, other):
        directory.mkdir()
        (directory / "events.jsonl").touch()
    for directories in ([one, other], [one, other], [other, one]):
        assert claims.evaluate(directories, kept, "centre crop", "test")["runs"] == list(map(str, directories))
    assert len(made) == 2
    os.utime(other / "events.jsonl", (kept.stat().st_mtime + 1,) * 2)  # deleted and trained anew
    claims.evaluate([other, one], kept, "centre crop", "test")
    assert len(made) == 3


def test_networks_that_have_all_diverged_are_no_result(tmp_path):
    (tmp_path / "events.jsonl").touch()
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"runs": [str(tmp_path)], "members": ["a", "b"], "diverged": ["a", "b"]}))
    with pytest.raises(UserError, match=r"all networks of .* have diverged; lower optimizer\.learning_rate"):
        claims.evaluate([tmp_path], kept, "centre crop", "test")


def test_the_cut_has_an_interval_only_where_orders_differ():
    def results(*ends):
        return [{"curve": [{"top1_error": one}, {"top1_error": all_of_them}]} for one, all_of_them in ends]

    words = claims._cut_in_words(results((0.1, 0.09), (0.1, 0.07)))
    assert words.endswith("20.0 % (-107.1 to 147.1), mean and 95 % interval over 2 orders")  # t = 12.706, standard error 10
    same = claims._cut_in_words(results((0.1, 0.05), (0, 0), (0.2, 0.1)))
    assert same.endswith("50.0 % in each of 2 orders, so it has no interval; the networks of 1 orders make no error")
    assert claims._cut_in_words(results((0, 0), (0, 0))).endswith("none; the networks of 2 orders make no error")


@pytest.mark.parametrize("target", ["figure1", "figure4"])
def test_a_dry_run_writes_nothing(target, digits_dir, tmp_path, capsys):
    reproduce.main(tiny(digits_dir, tmp_path / "out", target, "--dry-run", "--max-members", "10"))
    assert "to be trained" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_few_samples_are_trained_on_for_as_many_steps(digits_dir, tmp_path, capsys):
    reproduce.main(tiny(digits_dir, tmp_path / "out", "augmentation", "--dry-run", "--config.train.epochs=4"))
    shown = capsys.readouterr().out
    assert re.findall(r"([\d,]+) training images:", shown) == ["250", "1,000", "1,257"]
    assert len(set(re.findall(r"base-\w+ +\d +\d+ +(\d+)", shown))) == 1
    assert re.findall(r"base-\w+ +(\d) +\d+ +\d+", shown) == ["5", "2", "5"]  # in the middle only with and without augmentation


def test_subsets_are_stratified(digits_dir, tmp_path):
    fields = [f"data.dir={digits_dir}", "train.epochs=4", "optimizer.drop_epochs=(1.0,2.0)"]
    part = sizes._with_images(setting.make("digits", "quick", 2, tmp_path, fields, ARGS), 419)
    assert part.images == 419
    assert part.loaded.data.train_split == "train[stratified:419]"
    assert (part.loaded.train.epochs, part.loaded.optimizer.drop_epochs) == (12, (3, 6))
    with pytest.raises(UserError, match=r"train\[:500\]: the target needs stratified parts of it; write train or train\[stratified:N\]"):
        sizes._with_images(setting.make("digits", "quick", 2, tmp_path, [*fields, "data.train_split=train[:500]"], ARGS), 419)


def curves(*gains):
    """Levels at 100, 1,000, ... images: without augmentation the error is `gain` points higher than 10 %, ± half a point."""

    def level(name, gain):
        error = 0.1 + gain / 100
        return {
            "level": name,
            "mean_test_error": error,
            "test_error": [error, error + 0.01],
            "seeds": [0, 1],
            "orders": [0, 1],
            "diverged": [],
            "difference": {"mean": gain, "low": gain - 0.5, "high": gain + 0.5},
        }

    return {100 * 10**i: {"as configured": level("as configured", 0), "none": level("none", gain)} for i, gain in enumerate(gains)}


def test_where_the_curves_cross():
    assert sizes.crossing(curves(2, 1, -1)) == "with augmentation the error is lower up to about 3,200 images, higher with more"
    assert sizes.crossing(curves(-1, 3)).endswith("is higher up to about 180 images, lower with more")
    assert sizes.crossing(curves(-1, 1, 1, -1)).endswith("higher up to about 320 images, lower up to about 32,000 images, higher with more")
    assert sizes.crossing(curves(2, 1)) == "with augmentation the error is lower"


def test_sizes_whose_interval_contains_zero_do_not_count():
    assert sizes.crossing(curves(-0.4, 1, -1)).endswith("is lower up to about 3,200 images, higher with more; not decided with 100 images")
    assert sizes.crossing(curves(1, 0, -1)).endswith("lower up to about 1,000 images, higher with more; not decided with 1,000 images")
    undecided = "with augmentation the error is neither lower nor higher for sure; not decided with 100, 1,000 images"
    assert sizes.crossing(curves(0.1, float("nan"))) == undecided


def test_the_figure_of_sizes_has_two_curves_with_bands():
    (axes,) = figures.sizes_figure(curves(2, 1, -1)).axes
    assert [line.get_ydata() for line in axes.get_lines()][1] == pytest.approx([12.5, 11.5, 9.5])
    assert len(axes.collections) == 2
    assert [label.get_text() for label in axes.get_legend().get_texts()] == ["with augmentation", "without"]


def test_a_schedule_in_epochs_is_as_long_in_steps():
    assert sizes._times((25.0, 51.0), 10.0) == "(250.0, 510.0)"
    assert sizes._times(1.5, 10.0) == "15"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["figure2"], "unknown target 'figure2'; did you mean figure"),
        (["lrn", "--dataset", "nothing"], "unknown dataset 'nothing'"),
        (["lrn", "--seeds", "0"], "seeds=0"),
        (["lrn", "--config.train.epoch=1"], "did you mean train.epochs"),
    ],
)
def test_refuses(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        reproduce.main([*words, "--out", str(tmp_path / "out")])


def test_a_command_that_fails_says_why():
    with pytest.raises(UserError, match=r"alexnet_jax\.config nowhere\.py failed: no config file nowhere\.py"):
        claims._python("alexnet_jax.config", "nowhere.py")
