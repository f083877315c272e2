"""The figure of a run: the data that it draws."""

import math

import numpy as np
import pytest

from alexnet_jax import history
from alexnet_jax.report.curves import POINTS, curves_figure, throughput_figure
from alexnet_jax.report.style import COLOURS, INK
from alexnet_jax.report.write import write_report
from alexnet_jax.runlog import RunLog
from tests.test_report import log_run


def data(line):
    return [np.asarray(values, float).tolist() for values in line.get_data(orig=True)]


def labelled(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def test_the_figure_draws_the_members_and_the_ensemble(tmp_path):
    loss, error, _ = curves_figure(log_run(tmp_path)).axes
    assert data(labelled(loss)["seed=1"]) == [list(range(1, 11)), [11.0 - epoch for epoch in range(1, 11)]]
    lines = labelled(error)
    assert list(lines) == ["seed=0", "seed=1", "ensemble", "rate drops"]
    epochs, errors = data(lines["seed=1"])
    assert epochs == [2, 4, 6, 8, 10]
    assert errors == pytest.approx([81, 71, 61, 51, 41])
    assert data(lines["ensemble"])[1] == pytest.approx([40, 35, 30, 25, 20])
    assert lines["ensemble"].get_color() == INK
    assert lines["ensemble"].get_linewidth() > lines["seed=1"].get_linewidth()
    assert [text.get_text() for text in error.texts] == ["20.0 %"]


def test_a_drop_is_a_triangle_where_it_happened(tmp_path):
    _, error, rate = curves_figure(log_run(tmp_path)).axes
    (on_error,) = [line for line in error.get_lines() if line.get_marker() == "v" and len(line.get_xdata())]
    (on_rate,) = [line for line in rate.get_lines() if line.get_marker() == "v"]
    assert data(on_error) == [[4.5], [pytest.approx(68.5)]]  # a quarter of the way from 71 % at epoch 4 to 61 % at epoch 6
    assert data(on_rate) == [[4.5], [0.001]]
    assert on_error.get_color() == on_rate.get_color() == COLOURS[1]


def test_the_learning_rate_steps_at_the_drop_and_not_at_the_next_training_event(tmp_path):
    rate = curves_figure(log_run(tmp_path)).axes[2]
    first, second = [line for line in rate.get_lines() if line.get_marker() != "v"]
    assert data(second) == [[1, 2, 3, 4, 4.5, 5, 6, 7, 8, 9, 10], [0.01] * 4 + [0.001] * 7]
    assert data(first)[1] == [0.01] * 11
    assert second.get_drawstyle() == "steps-post"
    assert rate.get_yscale() == "log"
    assert [label.get_text() for label in rate.get_yticklabels()] == ["0.001", "0.01"]


def test_a_long_training_curve_is_drawn_through_means(tmp_path):
    loss = curves_figure(log_run(tmp_path, train_steps=range(1, 2 * POINTS + 2))).axes[0]
    epochs, values = data(labelled(loss)["seed=0"])
    assert len(epochs) == 134  # 401 events, by threes
    assert epochs[0] == pytest.approx(0.2)
    assert values[:2] == pytest.approx([9.8, 9.5])
    assert epochs[-1] == pytest.approx(40.05)  # the last two


def test_a_diverged_member_ends_and_leaves_the_others_as_they_are(tmp_path):
    loss = curves_figure(log_run(tmp_path, members=11, nan_from=50)).axes[0]
    assert [math.isnan(value) for value in data(loss.get_lines()[0])[1]] == [False] * 4 + [True] * 6
    mean = data(labelled(loss)["their mean"])[1]
    assert mean[3] == pytest.approx(10 + 5 - 4)
    assert mean[4] == pytest.approx(10 + 5.5 - 5)  # of members 1 to 10


@pytest.mark.parametrize(("last_step", "scale"), [(80, "linear"), (85, "log")])
def test_values_over_more_than_a_factor_of_thirty_are_drawn_on_a_logarithmic_axis(tmp_path, last_step, scale):
    with RunLog(tmp_path, 100) as log:
        log.event("start", 0, members=1, member_names=["a"], steps=100, steps_per_epoch=10.0, devices="1 cpu", images=640)
        for step in (10, last_step):
            speed = {"images_per_second": 1.0, "member_images_per_second": 1.0}
            log.event("train", step, epoch=step / 10, loss=[10.0 ** (1 - step / 50)], error=[0.5], learning_rate=[0.01], **speed)
    loss = curves_figure(history.load(tmp_path)).axes[0]
    assert loss.get_yscale() == scale
    assert (loss.get_ylim()[0] == 0) == (scale == "linear")


@pytest.mark.parametrize(("members", "named"), [(1, 1), (10, 10), (11, 0)])
def test_up_to_ten_members_are_named_and_more_are_a_bundle(tmp_path, members, named):
    figure = curves_figure(log_run(tmp_path, members=members))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sum(text.startswith("seed=") for text in texts) == named
    assert ("ensemble" in texts) == (members > 1)
    assert ("11 members" in texts) == ("their mean" in texts) == (members == 11)
    error = figure.axes[1]
    assert len({line.get_color() for line in error.get_lines() if str(line.get_label()).startswith("seed=")}) == named
    drawn = [line for line in error.get_lines() if len(line.get_xdata()) > 1]
    assert len(drawn) == {1: 1, 10: 11, 11: 13}[members]


def test_one_member_without_drops_needs_no_legend(tmp_path):
    assert not curves_figure(log_run(tmp_path, members=1, train_steps=[10, 20])).legends


def test_the_figure_of_a_run_that_has_just_started(tmp_path):
    figure = curves_figure(log_run(tmp_path, train_steps=[]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Training loss: none yet",
        "Evaluation: none yet",
        "Learning rate: none yet",
    ]


def test_the_log_the_report_and_the_figure_tell_the_same_speeds(tmp_path, capsys):
    past = log_run(tmp_path, members=7, train_steps=[202, 212, 222])
    assert past.speeds == [302, 312, 322]  # images read a second, by all seven members together
    assert "312 images/s" in capsys.readouterr().err
    assert "<dd>312 images/s, 2,184 images x members a second</dd>" in write_report(tmp_path).read_text()
    (axes,) = throughput_figure(past).axes
    assert axes.get_title(loc="left") == "Speed (images/s); dashed: median, 312"
    assert axes.get_lines()[0].get_ydata().tolist() == past.speeds
