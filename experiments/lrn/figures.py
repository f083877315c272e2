"""The figures of LRN: how much it changes, which filters inhibit which, and the errors without it or with other constants."""

from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax.report.style import COLOURS, INK, RULE, WIDTH, style_axes, style_title
from experiments.lrn.measure import EDGES, MARKS, Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def changes_figure(layers: list[Layer]) -> "Figure":
    """Of the active units, the share that LRN changes by more than a percentage; a thin line for each network, a thick one for the mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    axes = figure.subplots()
    x = 100 * EDGES[1:]
    for layer, colour in zip(layers, COLOURS, strict=False):
        shares = 100 * np.stack([layer.share(edge) for edge in EDGES[1:]], 1)
        if len(shares) > 1:
            axes.plot(x, shares.T, color=colour, linewidth=0.8, alpha=0.5)
        axes.plot(x, shares.mean(0), color=colour, linewidth=2.4, label=layer.name)
    for mark in MARKS:
        axes.axvline(100 * mark, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.set_xlim(1e-2, 100)
    axes.set_ylim(0, 103)
    axes.set_xticks([0.01, 0.1, 1, 5, 20, 100], ["0.01", "0.1", "1", "5", "20", "100"])
    axes.minorticks_off()
    axes.set_xlabel("change against the constant k^beta (%)")
    axes.set_title("Active units that LRN changes by more (%)")
    style_axes(axes)
    axes.legend(frameon=False, labelcolor=INK, loc="lower left")
    return figure


def inhibition_figure(layers: list[Layer]) -> "Figure":
    """For each layer of the first network: of each filter's divisor, the share from itself and from each neighbour."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    for axes, layer in zip(figure.subplots(1, len(layers), squeeze=False)[0], layers, strict=True):
        matrix = 100 * layer.inhibition[0]
        shown = axes.imshow(matrix, cmap="viridis", interpolation="none", vmin=0)
        axes.set_title(layer.name)
        style_title(axes)
        axes.set_xlabel("inhibits", color=INK)
        axes.set_ylabel("is inhibited", color=INK)
        axes.tick_params(colors=INK)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.spines[:].set_color(RULE)
        bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.8)
        bar.set_label("% of the divisor", color=INK)
        bar.ax.tick_params(colors=INK)
        bar.outline.set_edgecolor(RULE)  # type: ignore[operator]
    return figure


def errors_figure(names: list[str], at_once: list[np.ndarray], after: list[np.ndarray] | None, after_words: str = "") -> "Figure":
    """The error with each change: a dot for each network, a bar for the mean; at once, and if there is one after brief retraining.

    Args:
      after_words: what the legend says of the errors after retraining.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 0.9 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    kinds = [("at once", at_once, COLOURS[0], -0.15 if after else 0.0)]
    kinds += [(after_words, after, COLOURS[1], 0.15)] if after else []
    for label, each, colour, offset in kinds:
        for place, errors in enumerate(each):
            y = np.full(len(errors), place + offset)
            axes.plot(100 * errors, y, color=colour, marker="o", markersize=4, alpha=0.5, linestyle="none")
            axes.plot(
                [100 * errors.mean()],
                [place + offset],
                color=colour,
                marker="|",
                markersize=13,
                markeredgewidth=2.6,
                linestyle="none",
                label=label if place == 0 else None,
            )
    axes.axvline(100 * at_once[0].mean(), color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    every = 100 * np.concatenate([*at_once, *(after or [])])
    if every.min() < 1:
        axes.set_xscale("symlog", linthresh=1)  # 0 is an error too
        axes.set_xlim(0, max(2.0, 1.2 * every.max()))
    else:
        axes.set_xscale("log")
        axes.set_xlim(every.min() / 1.2, 1.2 * every.max())
    shown = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100) if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    axes.set_xticks(shown, [str(tick) for tick in shown])
    axes.minorticks_off()
    axes.set_title("Test error (%) with other constants of LRN")
    style_axes(axes)
    axes.grid(False, axis="y")
    if after:
        axes.legend(frameon=False, labelcolor=INK)
    return figure
