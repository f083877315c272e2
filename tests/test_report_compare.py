"""The page that compares runs: its figure's data, its tables, and where it goes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax import history
from alexnet_jax.errors import UserError
from alexnet_jax.report.compare import Past, comparison_figure, comparison_path, result_columns, write_comparison
from alexnet_jax.report.style import COLOURS
from alexnet_jax.runlog import RunLog
from tests.stand_in import results_of


def log_run(workdir, errors, test=None, config=None):
    """A run of ten epochs of ten steps whose members have these errors (evaluations, members), and twice these losses."""
    members = len(errors[0])
    with RunLog(workdir, 100) as log:
        names = [f"seed={m}" for m in range(members)]
        log.event("start", 0, members=members, member_names=names, steps=100, steps_per_epoch=10.0, devices="1 cpu", images=640)
        for i, row in enumerate(np.array(errors), 1):
            speed = {"images_per_second": 100.0 * i, "member_images_per_second": 100.0 * i * members}
            log.event("train", 10 * i, epoch=float(i), loss=2 * row, error=row, learning_rate=row, **speed)
            scores = {"top1_error": row, "top5_error": row, "ensemble_top1_error": float(np.nanmin(row)) / 2}
            log.event("eval", 10 * i, split="validation", epoch=float(i), count=100, loss=row, **scores)
        if test is not None:
            ensemble = {"ensemble_top1_error": test / 2, "ensemble_top5_error": test / 10, "relative_cut": 0.5}
            log.event("end", 100, reason="epochs", seconds=5.0, test=_test(members, test) | ensemble)
    if config:
        (workdir / "config.json").write_text(json.dumps({"config": config, "dataset": {"name": "digits"}}))
    return workdir


def _test(members, error):
    each = [error] * members
    return results_of(each, each) | {"count": 360, "mean_top1_error": error, "std_top1_error": 0.01}


def past(workdir, name="a"):
    return Past(name, history.load(workdir), {})


def test_a_run_is_the_mean_of_its_members_in_its_range_and_a_diverged_one_has_no_say(tmp_path):
    several = log_run(tmp_path / "a", [[0.8, 0.6, np.nan], [0.4, 0.2, np.nan]])
    one = log_run(tmp_path / "b", [[0.5], [0.3]])
    loss, error = comparison_figure([past(several), past(one, "b $x$")]).axes
    mean, dashed, single = error.get_lines()
    np.testing.assert_allclose(mean.get_ydata(), [70, 30])
    np.testing.assert_allclose(dashed.get_ydata(), [30, 10])
    np.testing.assert_allclose(single.get_ydata(), [50, 30])
    assert [line.get_color() for line in (mean, dashed, single)] == [COLOURS[0], COLOURS[0], COLOURS[1]]
    np.testing.assert_allclose(loss.get_lines()[0].get_ydata(), [1.4, 0.6])
    (band,) = error.collections
    assert band.get_datalim(error.transData).get_points()[:, 1].tolist() == [20, 80]
    assert [text.get_text() for text in error.figure.legends[0].get_texts()] == ["a", "b $x$"]


def test_results_side_by_side(tmp_path):
    done, going = log_run(tmp_path / "a", [[0.8, 0.6]], test=0.25), log_run(tmp_path / "b", [[0.5], [0.3]])
    rows = {label: cells for label, *cells in result_columns([past(done), past(going)])}
    assert rows["status"] == ["finished", "training or interrupted"]
    assert rows["members"] == ["2", "1"]
    assert rows["mean top-1 error"] == ["25.00 %", ""]
    assert rows["ensemble top-1 error"] == ["12.50 %", ""]
    assert rows["images/s"] == ["100", "150"]
    assert rows["images x members a second"] == ["200", "150"]
    assert "dataset" not in rows  # no run says which


def test_the_page_names_the_best_and_what_differs(tmp_path):
    configs = ({"model": {"lrn": True, "width": 1.0}}, {"model": {"lrn": False, "width": 1.0}})
    runs = [log_run(tmp_path / name, [[0.5, 0.4]], test=0.2 - i / 10, config=configs[i]) for i, name in enumerate("ab")]
    found = write_comparison(runs, tmp_path / "both.html")
    html = found.read_text()
    spaced = write_comparison(runs, tmp_path / 'of "two" runs\\.html').read_text()
    assert "url(#of-two-runs-" in spaced  # an address in SVG may hold no space, nor quotes
    assert "b has the lowest error: 5.00 % of the test images." in html
    assert re.findall(r"<td>(.*?)</td>", html)[-3:] == ["model.<wbr>lrn", "true", "false"]
    assert "model.width" not in html
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    (runs[0] / "config.json").write_text(json.dumps({"config": configs[0], "dataset": {"name": "fashion_mnist"}}))
    assert "The runs were tested on different images." in write_comparison(runs, found).read_text()


def test_it_goes_where_all_the_runs_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert comparison_path([Path("runs/a"), Path("runs/b")]) == Path("runs/comparison.html")
    assert comparison_path([Path("runs/a"), Path("runs/sweep/b")]) == Path("runs/comparison.html")
    assert comparison_path([Path("a"), tmp_path / "b"]) == Path("comparison.html")
    assert comparison_path([Path("a"), tmp_path.parent / "b"]) == tmp_path.parent / "comparison.html"


def test_what_cannot_be_compared_is_the_users_error(tmp_path):
    run = log_run(tmp_path / "a", [[0.5]])
    with pytest.raises(UserError, match="at most 10"):
        write_comparison([run] * 11, tmp_path / "page.html")
    with pytest.raises(UserError, match="nowhere doesn't exist"):
        write_comparison([run, run], tmp_path / "nowhere" / "page.html")
