"""Draws figures of numbers: the ensemble curve, the confusion matrix, calibration, and layer statistics.

The report's sections (write.py, network.py) call it:

    figure = ensemble_curve_figure(history.load("runs/digits").test)
"""

from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax.metrics import BINS, Reliability
from alexnet_jax.report.style import COLOURS, INK, RULE, WIDTH, WRONG, member_colour, printable, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from alexnet_jax.report.activations import LayerStatistics

NAME = 16  # letters of a class's name beside a confusion matrix
NUMBERED = 12  # a confusion matrix of up to this many classes shows its numbers
MATRIX = 40  # a confusion matrix of more classes can't be read, and is left out


def ensemble_curve_figure(test: dict) -> "Figure":
    """Top-1 error of ensembles of 1 to M members, the mean over subsets, with a band of one standard deviation above and below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    size, error, std = (np.array([row[field] for row in test["curve"]]) for field in ("members", "top1_error", "std"))
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(size, 100 * (error - std), 100 * (error + std), color=COLOURS[0], alpha=0.25, linewidth=0)
    axes.plot(size, 100 * error, color=COLOURS[0], linewidth=2, marker="o", markersize=5)
    for place, offset in ((0, (8, 6)), (-1, (0, 9))):
        text = f"{100 * error[place]:.2f} %"
        axes.annotate(
            text, (size[place], 100 * error[place]), offset, textcoords="offset points", ha="left" if place == 0 else "right", color=INK
        )
    axes.set_title(f"{test['split'].capitalize()} top-1 error (%) by size of the ensemble", parse_math=False)
    axes.set_ylim(0, 115 * (error + std).max() or 1)
    axes.set_xlabel("networks averaged")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style_axes(axes)
    return figure


def confusion_figure(matrix: np.ndarray, classes: tuple[str, ...]) -> "Figure":
    """A confusion matrix: classes are rows, answers are columns. The larger the fraction of a class with a wrong answer, the redder."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    count = len(classes)
    figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    errors = matrix - np.diag(np.diag(matrix))
    share = errors / np.maximum(matrix.sum(1, keepdims=True), 1)
    shades = np.zeros((count, count, 4))
    shades[..., :3] = [int(WRONG[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    shades[..., 3] = 0.75 * np.sqrt(share / max(share.max(), 0.1))  # the root makes rare confusions visible beside frequent ones
    axes.imshow(shades, interpolation="none")
    for i in range(count):
        axes.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, facecolor="none", edgecolor=INK, linewidth=0.8))
        for j in range(count) if count <= NUMBERED else ():
            if matrix[i, j]:
                size = 9 if matrix[i, j] < 1000 else 8
                axes.text(
                    j, i, str(matrix[i, j]), ha="center", va="center", color=INK, fontsize=size, fontweight="bold" if i == j else None
                )
    style_axes(axes)
    axes.grid(False)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=RULE, linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.spines["bottom"].set_visible(False)
    fontsize = 9.5 if count <= NUMBERED else 6
    names = [name if len(name) <= NAME else f"{name[: NAME - 1]}…" for name in map(printable, classes)]
    axes.set_xticks(range(count), names, fontsize=fontsize, rotation=0 if max(map(len, names)) <= 2 else 90, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=fontsize, parse_math=False)
    axes.set(xlabel="answer", ylabel="true class")
    return figure


def reliability_figure(members: list[Reliability], ensemble: Reliability) -> "Figure":
    """Accuracy against confidence, with thin lines for members and a thick one for the ensemble; below, the answers in each bin."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 6.2), layout="constrained")
    accuracy, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    accuracy.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for m, bins in enumerate(members if len(members) > 1 else []):
        accuracy.plot(100 * bins.confidence, 100 * bins.accuracy, color=member_colour(m, len(members)), linewidth=1, alpha=0.8)
    accuracy.plot(100 * ensemble.confidence, 100 * ensemble.accuracy, color=INK, linewidth=2.6, marker="o", markersize=5)
    accuracy.set_title("Right answers (%) by confidence")
    accuracy.set(xlim=(0, 101), ylim=(0, 103))
    width = 100 / BINS
    counts.bar((np.minimum(ensemble.confidence * BINS, BINS - 1) // 1 + 0.5) * width, ensemble.counts, 0.85 * width, color=COLOURS[0])
    counts.set_title("Answers")
    counts.set_yscale("log")
    counts.set_ylim(0.7, None)
    counts.minorticks_off()
    counts.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    counts.set_xlabel("confidence (%)")
    for axes in (accuracy, counts):
        style_axes(axes)
    return figure


def activations_figure(statistics: "LayerStatistics") -> "Figure":
    """Zeros, dead units, means and standard deviations of each layer. Bars are means over members; dots are single members."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    shares, values = figure.subplots(2, 1, sharex=True)
    _draw_layers(shares, 100 * statistics.zeros, COLOURS[0], "zeros", -0.2)
    _draw_layers(shares, 100 * statistics.dead, COLOURS[2], "dead units", 0.2)
    shares.set_title("Zeros and dead units (%)")
    shares.set_ylim(0, 105)
    _draw_layers(values, statistics.mean, COLOURS[0], "mean", -0.2)
    _draw_layers(values, statistics.std, COLOURS[1], "standard deviation", 0.2)
    values.set_title("Activations")
    values.axhline(0, color=INK, linewidth=1)
    values.set_xticks(range(len(statistics.layers)), statistics.layers)
    for axes in (shares, values):
        style_axes(axes)
        axes.grid(False, axis="x")
        axes.legend(frameon=False, labelcolor=INK, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
    return figure


def _draw_layers(axes: "Axes", values: np.ndarray, colour: str, label: str, offset: float) -> None:
    """A bar for each layer, the mean over members of `values` (M, layers). With several members, a dot for each of them."""
    places = np.arange(values.shape[1]) + offset
    axes.bar(places, values.mean(0), 0.36, color=colour, label=label)
    if len(values) > 1:
        axes.plot(np.tile(places, (len(values), 1)).T, values.T, color=INK, marker=".", markersize=3.5, linestyle="none", alpha=0.6)
