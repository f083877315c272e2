"""Draws pictures with a bar for each of their likeliest classes, like the 2012 paper's Figure 4.

The report and the predict command call it:

    figure = bars_figure([Bars(image, "cat.jpg", [{"label": "cat", "index": 3, "probability": 0.9}])], columns=1)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax.report.style import INK, OTHER, PIXELS, RIGHT, RULE, WRONG, printable, shorten, show_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARS = 5  # at most this many below each picture


class Bars(NamedTuple):
    """One picture and the answers to it."""

    image: np.ndarray  # uint8 (height, width, C)
    caption: str
    top: list[dict[str, Any]]  # label, index, probability; the likeliest first
    right: int | None = None  # index of the right class, if it is known
    keep_end: int = 0  # when the caption is too long, this many last characters stay


def bars_figure(pictures: Sequence[Bars], columns: int, side: float = 2.4, fontsize: float = 13) -> "Figure":
    """Draw pictures, `side` inches wide, in columns. A right answer is blue, a wrong first answer red, the others grey."""
    from matplotlib.figure import Figure

    caption, bar, gap = 0.027 * fontsize, fontsize / 26, side / 6  # inches, like all lengths here
    rows, bars = -(-len(pictures) // columns), min(BARS, max(len(one.top) for one in pictures))
    cell = side + caption + bars * bar + gap
    width, height = columns * (side + gap) + gap, rows * cell + gap
    drawing = Figure(figsize=(width, height), dpi=PIXELS)
    for i, one in enumerate(pictures):
        left, top = gap + i % columns * (side + gap), height - gap - i // columns * cell
        picture = drawing.add_axes((left / width, (top - side) / height, side / width, side / height))
        chart = drawing.add_axes((left / width, (top + gap - cell) / height, side / width, bars * bar / height))
        show_picture(picture, one.image, side)
        name = picture.set_xlabel(printable(one.caption), color=INK, fontsize=fontsize - 1, fontweight="bold", parse_math=False)
        shorten(name, side, one.keep_end)
        _draw_bars(chart, one, bars, side, fontsize)
    return drawing


def _draw_bars(axes: "Axes", picture: Bars, rows: int, width: float, fontsize: float) -> None:
    """In each row, the name of a class has the whole width. Below it is the bar, from 0 to 1, and beside the bar the probability."""
    end = 1 / (1 - 0.0615 * fontsize / width)  # "100.0 %" fits between the bar's end and here
    top = picture.top[:rows]
    axes.set(xlim=(0, end), ylim=(rows - 0.7, -0.7))
    axes.axis("off")
    axes.barh(range(len(top)), 1, height=0.28, color=RULE)
    axes.barh(
        range(len(top)), [row["probability"] for row in top], height=0.28, color=[_colour(picture, place) for place in range(len(top))]
    )
    for place, row in enumerate(top):
        style: dict[str, Any] = {"color": INK, "fontsize": fontsize, "parse_math": False}
        axes.text(end, place, f"{100 * row['probability']:.1f} %", ha="right", va="center_baseline", **style)
        shorten(axes.text(0, place - 0.27, printable(row["label"]), **style), width)


def _colour(picture: Bars, place: int) -> str:
    if picture.right is None:
        return RIGHT if place == 0 else OTHER
    if picture.top[place]["index"] == picture.right:
        return RIGHT
    return WRONG if place == 0 else OTHER
