"""Writes a page that compares several runs: curves, results, and the differences between their configs.

`python -m experiments.report` calls it if it gets several runs:

    workdirs = [Path("runs/one"), Path("runs/two")]
    write_comparison(workdirs, comparison_path(workdirs))    # runs/comparison.html
"""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alexnet_jax import history
from alexnet_jax.errors import UserError
from alexnet_jax.history import History
from alexnet_jax.record import read_record
from alexnet_jax.report import words
from alexnet_jax.report.curves import scale, series, thinned
from alexnet_jax.report.page import Drawing, Section, Table, Text, write_figures, write_page
from alexnet_jax.report.style import COLOURS, INK, WIDTH, any_script, printable, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Past(NamedTuple):
    """A run in a comparison."""

    name: str
    history: History
    record: dict  # config.json


@any_script()
def write_comparison(workdirs: Sequence[Path], page: Path) -> Path:
    """Write a page that compares runs, and its figure beside it as PNG and SVG; return the path of the page.

    Raises:
      UserError: there are more runs than colours, one is not a run directory, or the page cannot be written.
    """
    if len(workdirs) > len(COLOURS):
        raise UserError(f"one figure can't show {len(workdirs)} runs; compare at most {len(COLOURS)}")
    names = _names(workdirs)
    runs = [Past(name, history.load(workdir), read_record(workdir)) for name, workdir in zip(names, workdirs, strict=True)]
    for workdir, run in zip(workdirs, runs, strict=True):
        if not run.history.start:
            raise UserError(f"{workdir} has nothing to compare yet: no start event in its log")
    alt = "Training loss and evaluation error of every run against epochs"
    text = "Each line is the mean over a run's members; the shade goes from the best to the worst member. Dashed lines are ensembles."
    sections = [
        Section("Results", [Table(("", *names), result_columns(runs))]),
        Section("Training", [Text(text), Drawing(page.stem, comparison_figure(runs), alt)]),
    ]
    if all("config" in run.record for run in runs):
        rows = words.field_differences([run.record["config"] for run in runs])
        text = "The fields in which the configs differ." if rows else "The configs are the same."
        sections.append(Section("Configs", [Text(text), *([Table(("field", *names), rows, numbers=False)] if rows else [])]))
    if not page.parent.is_dir():
        raise UserError(f"cannot write {page}: the folder {page.parent} doesn't exist")
    write_figures(page.parent, sections)
    write_page(page, " / ".join(names), f"{len(runs)} runs side by side", _headline(runs), sections)
    return page


def comparison_path(workdirs: Sequence[Path]) -> Path:
    """The default path of a comparison: in the folder that holds all the runs."""
    folder, here = Path(os.path.commonpath([os.path.dirname(os.path.abspath(workdir)) for workdir in workdirs])), Path.cwd()
    return (folder.relative_to(here) if folder.is_relative_to(here) else folder) / "comparison.html"


def result_columns(runs: Sequence[Past]) -> list[tuple[str, ...]]:
    """The rows of the results table: a label, and a cell for each run. Rows without any value are left out."""
    tests = [run.history.test for run in runs]
    several = any(run.history.start["members"] > 1 for run in runs)

    def row(label: str, cell) -> tuple[str, ...]:
        return (label, *(cell(run, test) for run, test in zip(runs, tests, strict=True)))

    def error(field: str):
        return lambda _, test: f"{100 * test[field]:.2f} %" if test else ""

    rows = [
        row("status", lambda run, _: words.state(run.history)),
        row("dataset", lambda run, _: run.record.get("dataset", {}).get("name", "")),
        row("members", lambda run, _: str(run.history.start["members"])),
        row("tested on", lambda _, test: f"{test['split']}, {test['count']:,}" if test else ""),
        row("diverged", lambda _, test: str(len(test["diverged"])) if test and test["diverged"] else ""),
        row("mean top-1 error", error("mean_top1_error")),
        row("± std", lambda _, test: f"{100 * test['std_top1_error']:.2f} %" if test and len(test["top1_error"]) > 1 else ""),
        row("ensemble top-1 error", error("ensemble_top1_error")),
        row("ensemble top-5 error", error("ensemble_top5_error")),
        row("relative cut", lambda _, test: f"{100 * test['relative_cut']:.1f} %" if test and len(test["top1_error"]) > 1 else ""),
        row("images/s", lambda run, _: f"{statistics.median(run.history.speeds):,.0f}" if run.history.speeds else ""),
        row("images x members a second", lambda run, _: words.members_speed(run.history) if several and run.history.trains else ""),
        row("time", lambda run, _: words.duration(run.history)),
    ]
    return [row for row in rows if any(row[1:])]


def comparison_figure(runs: Sequence[Past]) -> "Figure":
    """Training loss and evaluation error of several runs. Each has a colour: mean and range of its members, and its ensemble dashed."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(WIDTH, 6.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    loss, error = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.25))
    errors = []
    for colour, run in zip(COLOURS, runs, strict=False):
        past, members = run.history, run.history.start["members"]
        evals = [event for event in past.evals if event["split"] == past.evals[0]["split"]]
        _draw_run(loss, *thinned(*series(past.trains, "loss", members)), colour, printable(run.name))
        epochs, values = series(evals, "top1_error", members)
        _draw_run(error, epochs, 100 * values, colour, printable(run.name))
        if members > 1:
            together = 100 * np.array([event["ensemble_top1_error"] for event in evals])
            error.plot(epochs, together, color=colour, linewidth=1.6, linestyle=(0, (3, 2)))
            errors.append(together)
        errors.append(100 * values.ravel())
    loss.set_title("Training loss")
    error.set_title("Evaluation top-1 error (%)")
    error.set_xlabel("epoch")
    scale(loss, np.concatenate([np.ravel(line.get_ydata()) for line in loss.get_lines()]).astype(float))
    scale(error, np.concatenate(errors))
    for axes in (loss, error):
        style_axes(axes)
    handles, labels = error.get_legend_handles_labels()
    columns = max(1, 80 // (6 + max(map(len, labels))))
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw_run(axes: "Axes", epochs: np.ndarray, values: np.ndarray, colour: str, name: str) -> None:
    """Draw the mean and the range of values (events, members) over the members that have not diverged."""
    finite = np.ma.masked_invalid(values)
    if values.shape[1] > 1:
        axes.fill_between(epochs, finite.min(axis=1), finite.max(axis=1), color=colour, alpha=0.18, linewidth=0)
    axes.plot(epochs, finite.mean(axis=1), color=colour, linewidth=1.8, label=name)


def _headline(runs: Sequence[Past]) -> str:
    tests = [(run.name, test) for run in runs if (test := run.history.test)]
    if len(tests) < len(runs):
        return f"{len(tests)} of {len(runs)} runs have test results."
    if (
        len({(run.record.get("dataset", {}).get("name"), test["split"], test["count"]) for run, (_, test) in zip(runs, tests, strict=True)})
        > 1
    ):
        return "The runs were tested on different images."
    name, best = min(tests, key=lambda pair: pair[1]["ensemble_top1_error"])
    return f"{name} has the lowest error: {100 * best['ensemble_top1_error']:.2f} % of the {best['split']} images."


def _names(workdirs: Sequence[Path]) -> list[str]:
    """The names of the directories; their paths if two have the same name."""
    names = [workdir.resolve().name for workdir in workdirs]
    return names if len(set(names)) == len(names) else [str(workdir) for workdir in workdirs]
