"""Draws figures of pictures: first-layer filters, mistakes, augmentations, nearest neighbours.

The report's sections (network.py) call it:

    figure = filters_figure(params["conv1"]["kernel"][0])    # kernels of one member (size, size, channels, filters)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alexnet_jax.report.style import INK, PIXELS, WIDTH, WRONG, printable, shorten, show_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP, LINE = 0.14, 0.19  # inches between pictures; inches of a line of text


class Mistake(NamedTuple):
    """A picture, its class, and the answer with its probability."""

    image: np.ndarray  # uint8 (height, width, C)
    label: str
    answer: str
    confidence: float


def filters_figure(kernels: np.ndarray) -> "Figure":
    """The filters (size, size, C, F) of a first layer, like the paper's Figure 3. Each is divided by its largest weight; zero is mid-grey.

    Filters with another number of channels than three have no colour; the mean over their channels is shown.
    """
    from matplotlib.figure import Figure

    if kernels.shape[2] != 3:
        kernels = kernels.mean(2, keepdims=True)
    size, _, channels, count = kernels.shape
    largest = np.maximum(np.abs(kernels).max((0, 1, 2)), np.finfo(np.float32).tiny)
    tiles = np.moveaxis(0.5 + 0.5 * kernels / largest, -1, 0)
    rows = -(-count // (16 if count >= 64 else 8))  # 96 filters, as in the paper, are 6 rows of 16
    columns = -(-count // rows)
    gap = max(1, size // 6)
    mosaic = np.zeros((rows * (size + gap) - gap, columns * (size + gap) - gap, 4))
    for i, tile in enumerate(tiles):
        y, x = (place * (size + gap) for place in divmod(i, columns))
        mosaic[y : y + size, x : x + size, :3] = tile if channels == 3 else np.repeat(tile, 3, -1)
        mosaic[y : y + size, x : x + size, 3] = 1
    figure = Figure(figsize=(WIDTH, WIDTH * mosaic.shape[0] / mosaic.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(mosaic, interpolation="none", aspect="auto")
    axes.axis("off")
    return figure


def mistakes_figure(mistakes: Sequence[Mistake]) -> "Figure":
    """Each picture with its class, and the answer with its confidence. A wrong answer is red."""
    columns = 4
    figure, cells, side = grid(-(-len(mistakes) // columns), columns, lines=2)
    for axes, one in zip(cells.flat, mistakes, strict=False):
        show_picture(axes, one.image, side)
        write_below(axes, side, 1, one.label, bold=True)
        confidence = f" {100 * one.confidence:.1f} %"
        write_below(axes, side, 2, one.answer + confidence, WRONG if one.answer != one.label else INK, keep_end=len(confidence))
    for axes in cells.flat[len(mistakes) :]:
        axes.remove()
    return figure


def augmentations_figure(images: np.ndarray, views: np.ndarray) -> "Figure":
    """A row for each image: the stored image (n, H, W, C), and its random augmentations (n, draws, size, size, C)."""
    figure, cells, side = grid(len(images), 1 + views.shape[1], lines=0, after_first=0.2, above=0.25)
    for row, image, draws in zip(cells, images, views, strict=True):
        for axes, picture in zip(row, [image, *draws], strict=True):
            show_picture(axes, picture, side)
    for axes, title in zip(cells[0], ("stored", "drawn"), strict=False):
        axes.set_title(title, loc="left", color=INK, fontsize=10, fontweight="bold", pad=5)
    return figure


def neighbours_figure(rows: Sequence[Sequence[tuple[np.ndarray, str]]], split: str) -> "Figure":
    """Like the paper's Figure 4: a row of (picture, label) for each image of a split, followed by its nearest training images.

    A label is red if it is not that of the row's first image.
    """
    figure, cells, side = grid(len(rows), len(rows[0]), lines=1, after_first=0.2, above=0.25)
    for row_axes, row in zip(cells, rows, strict=True):
        for place, (axes, (image, label)) in enumerate(zip(row_axes, row, strict=True)):
            show_picture(axes, image, side)
            write_below(axes, side, 1, label, INK if label == row[0][1] else WRONG, bold=place == 0)
    for axes, title in zip(cells[0], (split, "nearest in training"), strict=False):
        axes.set_title(printable(title), loc="left", color=INK, fontsize=10, fontweight="bold", pad=5, parse_math=False)
    return figure


def grid(rows: int, columns: int, lines: int, after_first: float = 0, above: float = 0) -> tuple["Figure", np.ndarray, float]:
    """A figure of square axes (rows, columns) with room for lines of text below each, and their side in inches.

    `after_first` is the extra space after the first column, `above` the extra space above the first row, both in inches.
    """
    from matplotlib.figure import Figure

    side = (WIDTH - after_first - GAP * (columns + 1)) / columns
    cell = side + lines * LINE + GAP
    height = rows * cell + GAP + above
    figure, cells = Figure(figsize=(WIDTH, height), dpi=PIXELS), np.empty((rows, columns), object)
    for i in range(rows):
        for j in range(columns):
            left = GAP + j * (side + GAP) + after_first * (j > 0)
            bottom = height - above - GAP - i * cell - side
            cells[i, j] = figure.add_axes((left / WIDTH, bottom / height, side / WIDTH, side / height))
    return figure, cells, side


def write_below(axes: "Axes", side: float, line: int, text: str, colour: str = INK, bold: bool = False, keep_end: int = 0) -> None:
    """Write a line of text below a picture, shortened to its width."""
    place = (0, -(line - 0.12) * LINE / side)
    weight = "bold" if bold else "normal"
    label = axes.text(*place, printable(text), transform=axes.transAxes, color=colour, fontsize=9.5, fontweight=weight, parse_math=False)
    shorten(label, side, keep_end)
