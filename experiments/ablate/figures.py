"""Figures of experiments, large enough for a lecture: effects with intervals, error against epochs, error against the ensemble's size.

files.py draws the figures of an ablation, `reproduce` those of its claims:

    save(effects_figure(factors, margin=0.5), out / "ablation")    # ablation.png and ablation.svg
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax.report.style import COLOURS, INK, RULE, style_axes
from alexnet_jax.runlog import writing
from experiments.ablate import statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {"better": COLOURS[0], "worse": COLOURS[2], "none": INK, "open": COLOURS[8]}  # kind of a verdict -> its colour


def effects_figure(factors: Sequence[dict[str, Any]], margin: float) -> "Figure":
    """A panel for each factor, with a row for each level: a dot for each pair, the mean difference with its 95 % interval, the verdict.

    Args:
      factors: each has `question`, and `levels` as `comparison.compare` returns them: the reference first, then at least one other level.
      margin: differences between -margin and +margin, in percentage points, are too small to matter; a grey band shows them.
    """
    from matplotlib.figure import Figure

    rows = [len(factor["levels"]) - 1 for factor in factors]
    row, head, foot = 0.62, 0.55, 0.75  # inches
    height = row * sum(rows) + head * len(rows) + foot
    figure = Figure(figsize=(10, height))
    top = height
    panels: list[Axes] = []
    for factor, count in zip(factors, rows, strict=True):
        top -= head + row * count
        panels.append(figure.add_axes((0.19, top / height, 0.45, row * count / height), sharex=panels[0] if panels else None))
        _draw_effects(panels[-1], factor, margin)
    label = "test error minus the reference's, percentage points; left of zero is better\n"
    panels[-1].set_xlabel(f"{label}grey band: at most {margin:g} points, too small to matter", color=INK, fontsize=11)
    for panel in panels[:-1]:
        panel.tick_params(labelbottom=False)
    return figure


def _draw_effects(axes: "Axes", factor: dict[str, Any], margin: float) -> None:
    reference, *levels = factor["levels"]
    axes.axvspan(-margin, margin, color=RULE, alpha=0.45, linewidth=0)
    axes.axvline(0, color=INK, linewidth=1.2)
    for place, level in enumerate(levels):
        difference, verdict = level["difference"], level["verdict"]
        colour = KINDS[verdict["kind"]]
        stalled = {*level.get("stalled", ()), *reference.get("stalled", ())}
        pairs = [each for seed, each in zip(level["paired_seeds"], level["differences"], strict=True) if seed not in stalled]
        spread = np.linspace(-0.16, 0.16, len(pairs)) if len(pairs) > 1 else np.zeros(len(pairs))
        axes.plot(pairs, place + spread, "o", color=colour, alpha=0.35, markersize=5)
        if not stalled:  # otherwise there is no comparison, and a network that never learnt would stretch the axis
            if math.isfinite(difference["low"]):
                axes.plot([difference["low"], difference["high"]], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot(difference["mean"], place, "D", color=colour, markersize=9, markeredgecolor="white")
        words = verdict["words"].replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
        words = "\n".join(textwrap.wrap(words, 38))
        axes.annotate(words, (1.03, place), xycoords=("axes fraction", "data"), va="center", color=INK, fontsize=11)
    axes.set_ylim(len(levels) - 0.5, -0.5)
    axes.set_title(factor["question"])
    style_axes(axes)
    words = f"reference: {reference['level']}, {100 * reference['mean_test_error']:.2f} %"
    axes.annotate(words, (1.03, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", color=KINDS["open"], fontsize=11)
    axes.grid(visible=False, axis="y")
    names = ["\n".join(textwrap.wrap(level["level"], 20)) for level in levels]
    axes.set_yticks(range(len(levels)), names, fontsize=12, parse_math=False)


def sizes_figure(curves: Mapping[int, Mapping[str, dict[str, Any]]]) -> "Figure":
    """Test error against the number of training images: a line for each level, with the band of its mean's 95 % interval.

    The interval is over orders of the images, or over seeds if there is one order. It is wider than what tells the levels apart: that is
    the interval of the paired difference.

    Args:
      curves: number of training images -> level -> its row of `comparison.compare`; increasing.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    means: list[float] = []
    for colour, marker, name in zip((COLOURS[0], COLOURS[2]), "oD", ("as configured", "none"), strict=True):
        mean, low, high = np.array([_mean_error(levels[name]) for levels in curves.values()]).T
        means += mean[np.isfinite(mean)].tolist()  # there is none where all networks diverged
        axes.fill_between(list(curves), low, high, color=colour, alpha=0.2, linewidth=0)
        label = {"as configured": "with augmentation", "none": "without"}[name]
        axes.plot(list(curves), mean, color=colour, marker=marker, linewidth=2.4, markersize=7, label=label)
    axes.set_xscale("log")
    axes.set_xticks(list(curves), [f"{size:,}" for size in curves])
    if means and min(means) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_title("Test error (%)")
    axes.set_xlabel("training images, each number with the same number of steps; band: 95 % interval of the mean", color=INK)
    axes.legend(frameon=False, labelcolor=INK)
    style_axes(axes)
    return figure


def _mean_error(level: dict[str, Any]) -> tuple[float, float, float]:
    """The mean test error in percent of the networks that did not diverge, and its interval."""
    kept = [seed not in level["diverged"] for seed in level["seeds"]]
    errors, orders = np.array(level["test_error"])[kept], [order for order, keep in zip(level["orders"], kept, strict=True) if keep]
    found = statistics.paired_difference(errors, np.zeros(len(errors)), orders)
    return found.mean, found.low, found.high


def ensemble_figure(split: str, curve: Sequence[dict[str, Any]], published: Mapping[int, float]) -> "Figure":
    """The error against the number of networks. Crosses show the error that the paper's relative cuts would give.

    Args:
      published: number of networks -> published error of their ensemble, divided by that of one network.
    """
    from alexnet_jax.report.charts import ensemble_curve_figure

    figure = ensemble_curve_figure({"split": split, "curve": curve})
    (axes,) = figure.axes
    shown = {row["members"]: 100 * curve[0]["top1_error"] * published[row["members"]] for row in curve if row["members"] in published}
    if shown:
        label = "the paper's cut of one network's error"
        axes.plot(list(shown), list(shown.values()), "x", color=COLOURS[2], markersize=9, markeredgewidth=2.5, label=label)
        axes.legend(frameon=False, labelcolor=INK, loc="lower left")
    return figure


def epochs_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], threshold: float) -> "Figure":
    """Training error against epochs, as in the paper's figure 1: a thin line for each seed, a thick line for their mean.

    Args:
      curves: by label, epochs (events,) and error fractions (events, seeds).
      threshold: an error fraction, drawn as a dotted line.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(7, 4.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.add_subplot()
    for colour, style, (label, (epochs, errors)) in zip(COLOURS[:3:2], ("-", "--"), curves.items(), strict=True):
        axes.plot(epochs, 100 * errors, color=colour, linewidth=0.7, alpha=0.4)
        axes.plot(epochs, 100 * errors.mean(1), color=colour, linewidth=2.4, linestyle=style, label=label)
    axes.axhline(100 * threshold, color=INK, linewidth=1, linestyle=":")
    axes.annotate(
        f"{threshold:.0%}".replace("%", " %"),
        (1, 100 * threshold),
        (-2, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
    )
    axes.set_title("Training error (%)")
    axes.set_xlabel("epoch")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, labelcolor=INK)
    style_axes(axes)
    return figure


def save(figure: "Figure", stem: Path) -> None:
    """Write STEM.png and STEM.svg.

    Raises:
      UserError: the files can't be written.
    """
    with writing(stem):
        stem.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(stem.with_suffix(".png"), dpi=160)
        figure.savefig(stem.with_suffix(".svg"))
