"""The figures of similarity: CKA by depth, layers against layers, matched filters, and pairs of networks."""

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax.report.style import COLOURS, INK, RULE, WIDTH, printable, style_axes, style_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.similarity.compare import Found

SHOWN_FILTERS = 24
NUMBERED = 8  # a matrix of up to this many networks shows its numbers


def depth_figure(found: "Found") -> "Figure":
    """CKA of each layer with the same layer of another network: a line for each group and each pair of groups, its range over the pairs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 4.1), layout="constrained")
    axes = figure.subplots()
    x, colours = np.arange(len(found.layers)), iter(COLOURS * 10)
    for i, first in enumerate(found.groups):
        for j in range(i, len(found.groups)):
            values = np.ma.masked_invalid(found.between(i, j))  # as in the words, pairs with a dead layer are left out there
            if not len(values):
                continue
            label = f"two networks of {first}" if i == j else f"{first} and {found.groups[j]}"
            colour = next(colours)
            axes.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, values.mean(0), color=colour, linewidth=2, marker="o", markersize=4, label=printable(label))
    axes.set_xticks(x, found.layers)
    axes.set_ylim(min(0, axes.get_ylim()[0]), 1.03)
    axes.set_title("CKA of the same layer in two networks")
    style_axes(axes)
    axes.grid(False, axis="x")
    for text in axes.legend(frameon=False, labelcolor=INK, loc="lower left").get_texts():
        text.set_parse_math(False)  # a directory's name may contain dollar signs
    return figure


def layers_figure(found: "Found") -> "Figure":
    """CKA of each layer with each: within the first network, and between the first and the second."""
    from matplotlib.figure import Figure

    panels = [(0, 0), (0, 1)][: len(found.networks)]
    figure = Figure(figsize=(WIDTH, 3.3 * len(panels)), layout="constrained")
    for axes, (i, j) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        _matrix(axes, found.cka[i, :, j], found.layers, 0, 1, "viridis", "{:.2f}")
        axes.set_title("one network" if i == j else "two networks")
        style_title(axes)
        for network, write in ((i, axes.set_ylabel), (j, axes.set_xlabel)):
            write(printable(found.networks[network]), color=INK, parse_math=False)
    return figure


def pairs_figure(found: "Found") -> "Figure":
    """Disagreement, Q, KL and gain of each pair of networks, whose names are below."""
    from matplotlib.figure import Figure

    names = [str(i) for i in range(len(found.networks))]
    panels = {
        "Disagreement (%)": 100 * found.pairs.disagreement,
        "Q statistic": found.pairs.q,
        "KL divergence (nats)": found.pairs.kl,
        "Gain of the pair (points)": 100 * found.pairs.gain,
    }
    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    for axes, (title, matrix) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        known = matrix[np.isfinite(matrix)]
        low, high = (known.min(), known.max()) if len(known) else (0, 1)
        _matrix(axes, matrix, names, low, high if high > low else low + 1, "viridis", "{:.2f}" if high < 10 else "{:.1f}")
        axes.set_title(title)
        style_title(axes)
    if len(names) <= NUMBERED:
        who = "; ".join(f"{i}: {printable(name)}".replace(" ", "\N{NO-BREAK SPACE}") for i, name in enumerate(found.networks))
        figure.supxlabel(textwrap.fill(who, 80), fontsize=9, color=INK, parse_math=False)
    return figure


def filters_figure(found: "Found", pair: tuple[int, int]) -> "Figure":
    """The best matched filters of conv1: those of one network above their partners in the other, with their cosines."""
    from matplotlib.figure import Figure

    matching = found.matchings[pair]
    best = np.argsort(-matching.cosine)[:SHOWN_FILTERS]
    columns = min(12, len(best))
    rows = -(-len(best) // columns)
    above = 0.28 * bool(found.note)  # inches
    height = rows * 1.35 + above
    figure = Figure(figsize=(WIDTH, height))
    places = {"wspace": 0.12, "hspace": 0.12, "left": 0.01, "right": 0.99, "bottom": 0.02, "top": 1 - above / height}
    cells = figure.subplots(3 * rows, columns, squeeze=False, height_ratios=[0.4, 1, 1] * rows, gridspec_kw=places)  # 0.4: the cosine
    for axes in cells.flat:
        axes.axis("off")
    for place, filter in enumerate(best):
        row, column = divmod(place, columns)
        for line, kernel in enumerate((found.kernels[pair[0]][..., filter], found.kernels[pair[1]][..., matching.partner[filter]])):
            largest = max(np.abs(kernel).max(), np.finfo(np.float32).tiny)
            tile = 0.5 + 0.5 * kernel / largest
            shown = tile if tile.shape[-1] == 3 else tile.mean(-1)
            cells[3 * row + 1 + line, column].imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="none")
        cells[3 * row + 1, column].set_title(f"{matching.cosine[filter]:.2f}", color=INK, fontsize=8, pad=2)
    return figure


def _matrix(axes: "Axes", values: np.ndarray, names: list[str], low: float, high: float, colours: str, form: str) -> None:
    axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="none", aspect="auto")
    axes.set_facecolor("none")  # NaN shows the page
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.spines[:].set_color(RULE)
    for i, j in np.ndindex(*values.shape) if len(names) <= NUMBERED else ():
        if np.isfinite(values[i, j]):
            dark = (values[i, j] - low) / (high - low) < 0.6
            axes.text(j, i, form.format(values[i, j]), ha="center", va="center", fontsize=9, color="white" if dark else "black")
