"""The sweep: its plan and estimate, its table in every form, the mistakes that it refuses before anything starts, and one real sweep."""

import csv
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import data, parallel, run
from alexnet_jax.errors import UserError
from alexnet_jax.model import __main__ as summary
from alexnet_jax.model.architecture import architecture
from alexnet_jax.runlog import RunLog
from experiments.launch import cost
from experiments.launch.cost import Cost, Pace, check, estimate
from experiments.launch.points import Point, pack
from experiments.launch.results import FAILURE
from experiments.launch.train import describe, size_in_words
from experiments.sweep import ranking, record
from experiments.sweep.__main__ import main
from experiments.sweep.grid import labels
from tests.stand_in import evaluation, results_of

CONFIG = "configs/digits.py"
TINY = ("model.width=0.04", "train.batch_size=40", "train.epochs=0.5", "train.log_every_steps=5", "eval.batch_size=64")
HOSTILE = "<script>alert('x')</script> --> & $\\frac$"
NAN = float("nan")


def log(program, validation, test, lost=(), seconds=8.0, split="test"):
    """The traces of a finished run of 100 steps, in which some members diverged."""
    directory, members = program.directory, program.members
    directory.mkdir(parents=True, exist_ok=True)
    config = config_lib.load(program.config, program.overrides)
    (directory / "config.json").write_text(json.dumps({"config": json.loads(config.to_json())}))
    loss = [NAN if m in lost else 0.5 for m in range(members)]
    events = [
        ("eval", 50, {"epoch": 5.0, **evaluation([0.9] * members, [0.5] * members)}),
        ("eval", 100, {"epoch": 10.0, **evaluation(validation, loss)}),
        ("end", 100, {"reason": "epochs", "seconds": seconds, "test": results_of(test, loss, split)}),
    ]
    with RunLog(directory, 100) as run_log:
        names = [f"seed={m}" for m in range(members)]
        run_log.event("start", 0, members=members, member_names=names, steps=100, steps_per_epoch=10.0, devices="1 cpu", images=640)
        for kind, step, fields in events:
            run_log.event(kind, step, **fields)
    label = np.arange(100) % 10
    answer = [np.where(np.arange(100) < round(100 * error), (label + 1) % 10, label) for error in test]
    np.savez(directory / run.PREDICTIONS, step=100, answer=np.stack(answer), label=label)


@pytest.fixture
def programs(tmp_path):
    """A finished program of three points, one of which lost a seed and one all of them, and one that failed."""
    points = [Point(f"learning_rate={rate}", {"learning_rate": rate}) for rate in ("0.1", "0.01", "0.001", "9")]
    made = pack(CONFIG, [], [*points, Point("tanh", {"learning_rate": "0.01", "model.activation": "tanh"})], 2, tmp_path / "sweep")
    log(made[0], [0.1, 1.0, 0.11, 0.13, 0.2, 0.2, 1.0, 1.0], [0.12, 1.0, 0.2, 0.1, 0.3, 0.3, 1.0, 1.0], lost=(1, 6, 7))
    made[1].directory.mkdir()
    (made[1].directory / FAILURE).write_text("out of memory\n")
    return made


# The table


def test_points_are_ranked_by_validation_error_and_diverged_ones_come_after(programs):
    assert ranking.text(ranking.rows(programs)).splitlines() == [
        "point                learning_rate  activation  validation error      test error  seeds  note",
        "learning_rate=0.01   0.01                         12.00 ± 1.41 %  15.00 ± 7.07 %      2",
        "learning_rate=0.001  0.001                        20.00 ± 0.00 %  30.00 ± 0.00 %      2",
        "learning_rate=0.1    0.1                                 10.00 %         12.00 %      1  1 of 2 diverged",
        "learning_rate=9      9                                                                0  diverged",
        "tanh                 0.01           tanh                                                 failed: out of memory",
    ]
    assert ranking.headline(ranking.rows(programs)) == (
        "Lowest validation error among the 4 of 5 points that have finished, not counting points with a network that diverged or never "
        "learnt: learning_rate=0.01, 12.00 ± 1.41 % over 2 seeds; its test error is 15.00 ± 7.07 %."
    )
    assert "Choose a point by its validation error" in ranking.caption(programs)


def test_a_point_has_the_networks_of_all_its_orders(tmp_path):
    points = [Point(f"learning_rate={rate}", {"learning_rate": rate}) for rate in ("0.1", "0.01")]
    made = pack(CONFIG, [], points, 2, tmp_path / "sweep", orders=2)
    assert describe(tmp_path, made, {p.directory: Cost(100, 1.0, "float32") for p in made}).startswith(
        f"{tmp_path}: 2 points x 2 orders x 2 seeds = 8 members in 2 programs"
    )
    assert size_in_words([*made, made[0]._replace(seeds=3)]) == "14 members in 3 programs"
    log(made[0], [0.1, 0.2, 0.3, 0.3], [0.1, 0.1, 0.3, 0.3])
    row = ranking.rows(made)[0]
    assert (row.result, row.note) == (None, "waiting")  # its second order isn't there yet
    log(made[1], [0.3, 1.0, 0.3, 0.3], [0.1, 1.0, 0.3, 0.3], lost=(1,))
    last, first = ranking.rows(made)
    assert (first.point.name, first.note) == ("learning_rate=0.1", "1 of 4 diverged")
    assert first.result.seeds == [0, 1, 2, 3]
    assert first.result.orders == [0, 0, 1, 1]
    assert first.result.diverged == (3,)
    assert first.spread("validation") == pytest.approx((0.2, 0.1, 3))
    assert last.result.runs == ((made[0].directory, [2, 3]), (made[1].directory, [2, 3]))
    assert "those of 2 orders of the images" in ranking.caption(made)
    assert "says nothing about other orders" in ranking.caption(made[:1])
    record.save(tmp_path / "sweep", record.make(CONFIG, [], made))
    assert record.load(tmp_path / "sweep").programs == made


def test_a_test_on_the_validation_split_is_told(programs):
    log(programs[0], [0.1] * 8, [0.1] * 8, split="validation")
    assert "Validation and test used the same images here, validation" in ranking.caption(programs)


def test_before_anything_has_finished_the_table_says_so(programs):
    rows = ranking.rows(programs[1:])
    assert ranking.headline(rows) == "No point has finished yet."
    assert [path.name for path in ranking.write(programs[0].directory.parent, programs[1:])] == ["results.csv", "results.html"]


def test_the_csv_holds_every_number(programs):
    best, _, partly, lost, failed = csv.DictReader(io.StringIO(ranking.csv_text(ranking.rows(programs))))
    assert best["point"] == "learning_rate=0.01"
    assert (best["learning_rate"], best["model.activation"], best["seeds"], best["diverged"]) == ("0.01", "", "2", "0")
    assert float(best["validation_error_mean"]) == pytest.approx(0.12)
    assert float(best["validation_error_std"]) == pytest.approx(np.std([0.11, 0.13], ddof=1), rel=1e-5)
    assert float(best["test_error_mean"]) == pytest.approx(0.15)
    assert best["test_errors"] == "0.2 0.1"
    assert (best["run"], best["members"]) == (str(programs[0].directory), "2 3")
    assert (partly["seeds"], partly["diverged"], partly["validation_errors"], partly["validation_error_std"]) == ("1", "1", "0.1 1", "")
    assert (lost["seeds"], lost["diverged"], lost["validation_error_mean"]) == ("0", "2", "")
    assert (failed["note"], failed["validation_errors"]) == ("failed: out of memory", "")


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text outside of scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_can_be_sorted_by_keyboard_and_stands_alone(programs):
    root = programs[0].directory.parent
    paths = ranking.write(root, programs)
    assert [str(path.relative_to(root)) for path in paths] == ["results.csv", "results.html", "figures/results.png", "figures/results.svg"]
    assert all(path.stat().st_size > 500 for path in paths)
    html = (root / "results.html").read_text()
    page = Page(html)
    headings = [attributes for tag, attributes in page.tags if tag == "th"]
    assert [heading.get("aria-sort") for heading in headings] == [None, None, None, "ascending", None, None, None]
    assert sum(tag == "button" for tag, _ in page.tags) == len(headings)
    keys = [attributes["data-key"] for tag, attributes in page.tags if tag == "td" and "data-key" in attributes]
    assert [float(key) for key in keys] == pytest.approx([0.12, 0.15, 0.2, 0.3, 0.1, 0.12])
    assert not {"link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not [attributes for tag, attributes in page.tags if tag == "script" and "src" in attributes]
    assert not re.search(r"""(?:src|href)=["'](?!#)""", html)
    assert "prefers-color-scheme: dark" in html
    assert "12.00 ± 1.41 %" in page.text


def test_names_from_outside_cannot_become_markup(tmp_path):
    (program,) = pack(CONFIG, [], [Point(HOSTILE, {"learning_rate": "1"})], 1, tmp_path / "sweep")
    log(program, [0.1], [0.1])
    ranking.write(tmp_path, [program])
    html = (tmp_path / "results.html").read_text()
    assert html.count("<script") == 1
    assert HOSTILE in Page(html).text


def test_the_figure_draws_means_with_their_spread_and_leaves_out_what_diverged(programs):
    axes = ranking.figure(ranking.rows(programs)).axes[0]
    validation, test = axes.containers
    assert validation.get_label() == "validation"
    assert validation[0].get_xdata() == pytest.approx([12, 20, 10])
    assert test[0].get_xdata() == pytest.approx([15, 30, 12])
    ends = [segment[:, 0] for segment in validation[2][0].get_segments()]
    assert ends[0] == pytest.approx([12 - np.sqrt(2), 12 + np.sqrt(2)])
    assert ends[2] == pytest.approx([10, 10])  # a single seed has no spread
    assert [label.get_text().strip() for label in axes.get_yticklabels()] == ["learning_rate", "0.01", "0.001", "0.1"]
    assert [text.get_text() for text in axes.texts] == ["1 of 2 diverged"]
    assert axes.get_xlabel() == "bars: one standard deviation over seeds\nnot drawn: 1 point, since no network learnt"


def test_settings_are_columns_in_the_drawing_unless_points_have_names(tmp_path):
    settings = [{"learning_rate": "0.1"}, {"learning_rate": "0.1", "momentum": "0.5"}]
    rows = [ranking.Row(Point(name, row), None, "", (), np.zeros(0, bool)) for name, row in zip(labels(settings), settings, strict=True)]
    assert ranking._names(rows) == (["       -", "     0.5"], ["momentum"])
    named = [row._replace(point=row.point._replace(name=name)) for row, name in zip(rows, ("slow\n", "fast"), strict=True)]
    assert ranking._names(named) == (["slow\N{REPLACEMENT CHARACTER}", "fast"], [])


def test_a_network_that_answers_one_class_for_all_images_never_learnt(tmp_path):
    points = [Point(f"learning_rate={rate}", {"learning_rate": rate}) for rate in ("0.1", "0.01")]
    (program,) = pack(CONFIG, [], points, 2, tmp_path / "sweep")
    log(program, [0.9, 0.91, 0.2, 0.9], [0.9, 0.91, 0.2, 0.9])
    label = np.arange(100) % 10
    right = np.where(np.arange(100) < 20, (label + 1) % 10, label)
    nearly = np.where(np.arange(100) == 6, 3, 6)  # another class for one image, and wrongly
    answer = np.stack([np.zeros(100, int), nearly, right, np.full(100, 3)])
    np.savez(program.directory / "predictions-test.npz", step=100, answer=answer, label=label)
    best, never = ranking.rows([program])
    assert (best.point.name, best.note, best.spread("test")[::2]) == ("learning_rate=0.01", "1 of 2 never learnt", (0.2, 1))
    assert (never.note, never.ranks) == ("never learnt", False)


def test_where_all_images_are_of_one_class_one_answer_is_no_sign(tmp_path):
    (program,) = pack(CONFIG, [], [Point("any", {"learning_rate": "0.1"})], 1, tmp_path / "sweep")
    log(program, [0.2], [0.0])
    np.savez(program.directory / run.PREDICTIONS, step=100, answer=np.full((1, 100), 3), label=np.full(100, 3))
    (row,) = ranking.rows([program])
    assert (row.note, row.ranks) == ("", True)


def test_a_sweep_in_which_nothing_learnt_says_so(tmp_path):
    points = [Point(f"learning_rate={rate}", {"learning_rate": rate}) for rate in ("8", "9")]
    made = pack(CONFIG, [], points, 1, tmp_path / "sweep")
    assert ranking.headline(ranking.rows(made)) == "No point has finished yet."
    log(made[0], [1.0, 1.0], [1.0, 1.0], lost=(0, 1))
    assert ranking.headline(ranking.rows(made)).startswith("No network of the points that have finished has learnt")


def test_a_point_whose_predictions_are_lost_keeps_its_rank_and_says_so(programs):
    (programs[0].directory / run.PREDICTIONS).write_bytes(b"cut off")
    rows = ranking.rows(programs)
    assert [row.point.name for row in rows[:3]] == ["learning_rate=0.01", "learning_rate=0.001", "learning_rate=0.1"]
    unknown = "predictions lost, so it isn't known which networks learnt"
    assert [row.note for row in rows[:4]] == [unknown, unknown, f"1 of 2 diverged, {unknown}", f"diverged, {unknown}"]


def test_a_long_name_is_shortened_in_the_drawing(tmp_path):
    name = "learning_rate=0.003 activation=tanh rotation=10 whitening=1 weight_decay=0.0005 momentum=0.9 crop=1"
    (program,) = pack(CONFIG, [], [Point(name, {"learning_rate": "1"})], 1, tmp_path / "sweep")
    log(program, [0.1], [0.1])
    figure = ranking.figure(ranking.rows([program]))
    figure.canvas.draw()
    (label,) = figure.axes[0].get_yticklabels()
    assert label.get_text().endswith("…")
    assert name.startswith(label.get_text()[:20])


def test_errors_of_different_magnitude_are_drawn_on_a_logarithmic_axis(programs):
    assert ranking.figure(ranking.rows(programs)).axes[0].get_xscale() == "linear"
    log(programs[0], [0.01] * 6 + [0.9] * 2, [0.01] * 8)
    assert ranking.figure(ranking.rows(programs)).axes[0].get_xscale() == "log"


# The record, the plan and the estimate


def test_a_record_reads_back_as_it_was_written(programs, tmp_path):
    made = record.make(CONFIG, [], programs)
    record.save(tmp_path / "sweep", made)
    assert record.load(tmp_path / "sweep") == made
    record.check_directory(tmp_path / "sweep", made)


@pytest.mark.parametrize(
    ("overrides", "seeds", "message"),
    [
        (["model.dropout=0.1"], 2, "model.dropout=0.5, now it is 0.1"),
        ([], 3, "another sweep: 5 points x 2 seeds = 10 members in 2 programs, now it is 5 points x 3 seeds"),
    ],
)
def test_a_directory_holds_one_sweep(programs, tmp_path, overrides, seeds, message):
    root = tmp_path / "sweep"
    record.save(root, record.make(CONFIG, [], programs))
    points = [point for program in programs for point in program.points]
    with pytest.raises(UserError, match=re.escape(message)):
        record.check_directory(root, record.make(CONFIG, overrides, pack(CONFIG, overrides, points, seeds, root)))
    record.check_directory(root, record.make(CONFIG, ["train.epochs=99"], programs))  # which may go on for longer


def test_a_directory_of_something_else_is_left_alone(programs, tmp_path):
    made = record.make(CONFIG, [], programs)
    (tmp_path / "other").mkdir()
    record.check_directory(tmp_path / "other", made)
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="exists and holds no sweep"):
        record.check_directory(tmp_path / "other", made)
    with pytest.raises(UserError, match="other holds no sweep"):
        record.load(tmp_path / "other")


def test_the_work_is_that_of_the_networks_products(digits_dir, tmp_path):
    (program,) = pack(CONFIG, [f"data.dir={digits_dir}", *TINY], [Point("any", {"learning_rate": ".1"})], 3, tmp_path)
    (found,) = check([program])
    network = summary.table(architecture(config_lib.load(CONFIG, TINY).model), 10, 1)
    gigaflops = float(re.search(r"([\d.]+) in a training step", network)[1])  # of an image
    assert found.steps == 16  # half an epoch of 1,258 images, 40 a step
    assert found.flops == pytest.approx(gigaflops * 1e9 * 40 * 16 * 3, rel=0.02)


def test_a_run_with_a_mean_of_its_own_goes_on(digits_dir, tmp_path):
    fields = [f"data.dir={digits_dir}", "model.pixel_mean=(33,)", *TINY]
    (program,) = pack(CONFIG, fields, [Point("any", {"learning_rate": ".1"})], 1, tmp_path)
    config = config_lib.load(CONFIG, program.overrides)
    run.write_config(program.directory, config, data.load(config.data, config.model.pixel_mean))
    check([program])


def test_a_run_that_is_further_than_the_sweep_shall_go_is_refused_before_it_fails(digits_dir, tmp_path):
    fields = [f"data.dir={digits_dir}", *TINY]
    (program,) = pack(CONFIG, fields, [Point("any", {"learning_rate": ".1"})], 1, tmp_path)
    config = config_lib.load(CONFIG, program.overrides)
    run.write_config(program.directory, config, data.load(config.data))
    with RunLog(program.directory, 0) as run_log:
        run_log.event("start", 0, members=1, member_names=["m"], steps=32, steps_per_epoch=32.0, devices="cpu", images=1)
        run_log.event("checkpoint", 16, seconds=1.0, path="")
    check([program])  # 16 of 16 steps
    with RunLog(program.directory, 17) as run_log:
        run_log.event("checkpoint", 17, seconds=1.0, path="")
    with pytest.raises(
        UserError, match=r"holds a run at step 17, train\.epochs=0\.5 ends at step 16; use another directory, or more epochs"
    ):
        check([program])


def test_lrn_constants_of_a_network_without_lrn_are_refused(digits_dir, tmp_path):
    programs = pack(CONFIG, [f"data.dir={digits_dir}", "model.lrn=off"], [Point("a", {"lrn": "off"})], 1, tmp_path)
    with pytest.raises(UserError, match="lrn=off has no effect"):
        check(programs)


def test_the_estimate_goes_by_runs_that_have_ended(programs):
    done, failed = (program.directory for program in programs)
    costs = {done: Cost(100, 8e9, "float32"), failed: Cost(100, 2e9, "float32")}
    assert str(estimate(programs, costs, measure=False)) == "about 0 s, since nothing is left to do"
    found = estimate(programs, costs, measure=False, retry=True)
    assert found.seconds == pytest.approx(2)  # 8 GFLOPs took 8 s, 2 are left
    assert not found.lower_bound
    assert str(found) == "about 2 s, at the pace of the run of this sweep that has ended, 1 GFLOP/s with compilation and evaluation"


def test_a_finished_run_that_shall_go_on_longer_counts_with_the_rest(programs, tmp_path):
    costs = {program.directory: Cost(400, 16e9, "float32") for program in programs}  # 100 steps were done, in 8 s
    assert estimate(programs, costs, measure=False).seconds == pytest.approx(24)
    assert re.search(r" 400  finished 100 steps, continues$", describe(tmp_path, programs, costs), re.M)
    assert re.search(r" 400  failed .*: out of memory$", describe(tmp_path, programs, costs), re.M)


def test_without_such_runs_it_is_a_lower_bound_or_none(programs, monkeypatch):
    costs = {programs[1].directory: Cost(100, 6e12, "bfloat16")}
    asked, pace = [], Pace(1e11, "a product", "2 x gpu", False)
    monkeypatch.setattr(cost, "_measured_here", lambda dtype: asked.append(dtype) or pace)
    found = str(estimate(programs[1:], costs, measure=True, retry=True))
    assert found.startswith("at least 60 s, 6 TFLOPs at 100 GFLOP/s, the pace of a product measured just now on 2 x gpu; compilation")
    assert asked == ["bfloat16"]
    pace = pace._replace(busy=True)
    found = str(estimate(programs[1:], costs, measure=True, retry=True))
    assert found.startswith("about 60 s")
    assert "other programs are using this machine" in found
    assert estimate(programs[1:], costs, measure=False, retry=True) is None


def test_a_matrix_product_is_timed(monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.05)
    monkeypatch.setattr(cost.os, "getloadavg", lambda: (0.6 * cost.os.cpu_count(), 0, 0))
    found = cost.matrix_rate("float32")
    assert 1e8 < found.flops < 1e16
    assert found[1:] == ("a 2048 x 2048 float32 product", parallel.describe()[0], True)


# The command


def arguments(digits_dir, out, *more):
    return ["--config", CONFIG, "--out", str(out), *(f"--config.{field}" for field in (f"data.dir={digits_dir}", *TINY)), *more]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--grid", "lerning_rate=.1"], "did you mean learning_rate"),
        (["--grid", "model.positive_bias=some"], "model.positive_bias=some: expected a number"),
        (["--grid", "model.activation=relu,gelu"], "model.activation is 'gelu'; did you mean relu? Known: relu, tanh"),
        (["--grid", "model.input_size=64"], "more than the dataset's 28x28 pixels"),
        (["--grid", "data.train_split=trian"], "no split 'trian'"),
        (["--grid", "plateau.mode=never"], "plateau.mode is 'never'"),
        (["--grid", "model.width=.1,.2"], "--config.model.width=0.04 would have no effect"),
        (["--grid", "learning_rate=.1", "--config.optimizer.learning_rate=.2"], "every point sets learning_rate"),
        (["--grid", "learning_rate=.1", "--config.model.width=.2"], "--config.model.width is given twice"),
        (["--grid", "learning_rate=.1,1e-1"], "have the same settings"),
        (["--grid", "seeds=2", "--seeds", "3"], "--seeds 3 contradicts seeds=2"),
        (["--grid", "seeds=2", "--points", "x.py"], "leave one out"),
        (["--points", "x.py"], "no file x.py"),
        ([], "nothing to sweep over"),
        (["--table"], "leave --config out"),
        (["--grid", "seeds=1", "--launcher", "slurm", "--time", "soon"], "--time soon"),
        (["--grid", "seeds=1", "--partition", "gpu"], "--partition is for --launcher slurm"),
        (["--gird", "seeds=1"], "did you mean --grid"),
    ],
)
def test_mistakes_are_told_before_anything_starts(digits_dir, tmp_path, more, message):
    with pytest.raises(UserError, match=re.escape(message)):
        main(arguments(digits_dir, tmp_path / "sweep", *more))
    assert not (tmp_path / "sweep").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(digits_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cost, "_measured_here", lambda dtype: None)
    out = tmp_path / "sweep"
    assert main(arguments(digits_dir, out, "--grid", "learning_rate=.1,.2; model.activation=relu,tanh; seeds=3", "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert f"{out}: 4 points x 3 seeds = 12 members in 2 programs" in printed
    assert re.search(r"^activation=tanh-\w+ +2 +6 +16  to be trained$", printed, re.M)
    assert "estimated time, one program after the other: unknown" in printed
    assert not out.exists()


def test_a_sweep_from_a_config_file_with_points_of_its_own(digits_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cost, "_measured_here", lambda dtype: None)
    config = tmp_path / "mine.py"
    config.write_text("from configs.digits import get_config\ndef sweep(add):\n    add('a', lrn=True)\n    add('b', lrn=False)\n")
    main(["--config", str(config), *arguments(digits_dir, tmp_path / "sweep", "--seeds", "4", "--dry-run")[2:]])
    assert "2 points x 4 seeds = 8 members in 1 program" in capsys.readouterr().out


def test_a_sweep(digits_dir, tmp_path, capsys, monkeypatch):
    """Trained for real: a diverged member does no harm to the others; the same command again trains nothing; --table needs no config."""
    flags = re.sub(r"device_count=\d+", "device_count=1", os.environ["XLA_FLAGS"])
    monkeypatch.setenv("XLA_FLAGS", flags)  # one device compiles faster than the tests' four
    monkeypatch.setattr(cost, "_measured_here", lambda dtype: None)
    out = tmp_path / "sweep"
    words = arguments(digits_dir, out, "--grid", "learning_rate=.02,1e9; seeds=2")
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^\.02 +\d+\.\d\d ± \d+\.\d\d % +\d+\.\d\d ± \d+\.\d\d % +2$", printed, re.M)
    assert re.search(r"^1e9 +0  diverged$", printed, re.M)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/events.jsonl")}
    assert len(before) == 1
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/events.jsonl")} == before
    capsys.readouterr()
    assert main(["--out", str(out), "--table"]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() in printed
    assert Path(out / "results.html").exists()
