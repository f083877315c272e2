"""Maps as pictures over what the network sees, and the figures of the pages.

The pages call it:

    picture = over(image, heat, "heat")    # uint8 (size, size, 3)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax.report.pictures import GAP, LINE, grid, write_below
from alexnet_jax.report.style import INK, PIXELS, RULE, WIDTH, printable, shorten, show_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
NOTE = 0.28  # inches of a note above a figure
FOR, AGAINST = (189, 31, 1), (32, 96, 168)  # red: for the class; blue: against it
HEAT = (255, 140, 0)  # of the strongest pixel, whatever it says
STRONGEST = 99.5  # percentile of |map| that has the full colour: a single pixel doesn't make all others pale


def over(image: np.ndarray, found: np.ndarray, shown: str) -> np.ndarray:
    """A map (size, size) or (size, size, C), drawn over its picture, uint8 (size, size, C); `shown` is as in `methods.Method`.

    A heat takes the channel with the largest absolute value (Simonyan et al.), a signed map their sum. A colour map is shown alone: it has
    the picture's own structure.
    """
    if shown == "colour":
        return around_grey(found)
    if found.ndim == 3:
        found = np.abs(found).max(-1) if shown == "heat" else found.sum(-1)
    strength = np.abs(found) / max(np.percentile(np.abs(found), STRONGEST), np.finfo(np.float32).tiny)
    opacity = np.clip(strength, 0, 1)[..., None] ** (0.7 if shown == "heat" else 1)
    grey = image.astype(np.float32).mean(-1, keepdims=True)
    colour = np.where(found[..., None] >= 0, HEAT if shown == "heat" else FOR, AGAINST)
    below = 0.55 * grey + 0.25 * 255  # neither black nor white: both kinds of colour are visible on it
    return np.clip(opacity * colour + (1 - opacity) * below, 0, 255).astype(np.uint8)


def around_grey(found: np.ndarray) -> np.ndarray:
    """A signed picture (height, width, C) as uint8 (height, width, C), each divided by its largest value; zero is mid-grey."""
    largest = max(np.percentile(np.abs(found), 99.9), np.finfo(np.float32).tiny)
    return np.clip(127.5 + 127.5 * found / largest, 0, 255).astype(np.uint8)


def enlarged(picture: np.ndarray, least: int = 224) -> np.ndarray:
    """A small picture with each pixel as a square of pixels, so that a viewer doesn't blur it."""
    times = -(-least // picture.shape[0])
    return picture.repeat(times, 0).repeat(times, 1)


def panels_figure(panels: Sequence[tuple[str, np.ndarray]], note: str, group: int) -> "Figure":
    """Pictures with their names below, the first of each `group` in bold; above them the note, if there is one."""
    figure, cells, side = grid(-(-len(panels) // COLUMNS), COLUMNS, lines=1, above=NOTE * bool(note))
    _write_note(figure, note)
    for i, (axes, (name, picture)) in enumerate(zip(cells.flat, panels, strict=False)):
        show_picture(axes, picture, side)
        write_below(axes, side, 1, name, INK, bold=i % group == 0)
    for axes in cells.flat[len(panels) :]:
        axes.remove()
    return figure


def units_figure(filters: np.ndarray, patches: np.ndarray, projected: np.ndarray, note: str) -> "Figure":
    """For each filter two squares of pictures: its patches (filters, top, size, size, C) in pixels, and their projections."""
    from matplotlib.figure import Figure

    side, columns = int(np.ceil(np.sqrt(patches.shape[1]))), min(3, len(filters))
    rows = -(-len(filters) // columns)
    cell, gap, text = (WIDTH - (columns + 1) * GAP) / columns, GAP, LINE
    below = rows * (cell / 2 + text + gap) + gap / 2
    height = below + NOTE * bool(note)
    figure = Figure(figsize=(WIDTH, height), dpi=PIXELS)
    _write_note(figure, note)
    for i, filter in enumerate(filters):
        left = gap + i % columns * (cell + gap)
        bottom = below - gap / 2 - i // columns * (cell / 2 + text + gap) - text - cell / 2
        axes = figure.add_axes((left / WIDTH, bottom / height, cell / WIDTH, cell / 2 / height))
        pair = [_mosaic([patch / 255 for patch in patches[i]], side), _mosaic([_scaled(one) for one in projected[i]], side)]
        between = np.zeros((pair[0].shape[0], max(2, pair[0].shape[1] // 10), 4))  # wider than the gaps within a square
        axes.imshow(np.concatenate([pair[0], between, pair[1]], 1), interpolation="none")
        axes.set_anchor("NW")
        axes.axis("off")
        _frame(axes, patches.shape[2], patches.shape[1], side, (0, pair[0].shape[1] + between.shape[1]))
        axes.set_title(f"filter {filter}", loc="left", color=INK, fontsize=9, pad=2)
    return figure


def rows_figure(names: Sequence[str], images: np.ndarray, note: str) -> "Figure":
    """A row for each name: images uint8 (rows, columns, size, size, C)."""
    from matplotlib.figure import Figure

    rows, columns = images.shape[:2]
    beside, gap = min(1.35, 0.35 + 0.09 * max(map(len, names))), 0.07  # inches of the names, and between pictures
    side = min(1.1, (WIDTH - beside - GAP) / columns - gap)
    below = rows * (side + gap) + gap
    height = below + NOTE * bool(note)
    width = min(WIDTH, max(beside + columns * (side + gap), 0.09 * len(note)) + GAP)
    figure = Figure(figsize=(width, height), dpi=PIXELS)
    _write_note(figure, note)
    for i, name in enumerate(names):
        bottom = below - (i + 1) * (side + gap)
        label = figure.text((beside - 0.1) / width, (bottom + side / 2) / height, printable(name), ha="right", va="center", fontsize=10)
        label.set(color=INK, parse_math=False)
        shorten(label, beside - 0.2)
        for j in range(columns):
            axes = figure.add_axes(((beside + j * (side + gap)) / width, bottom / height, side / width, side / height))
            show_picture(axes, images[i, j], side)
    return figure


def _write_note(figure: "Figure", note: str) -> None:
    """A line at the top of a figure."""
    top = 1 - 0.06 / figure.get_figheight()
    figure.text(GAP / WIDTH, top, note, ha="left", va="top", fontsize=10, fontweight="bold", color=INK, parse_math=False)


def _scaled(found: np.ndarray) -> np.ndarray:
    """A signed picture as 0 to 1 around grey, NaN outside the view."""
    return np.where(np.isnan(found), np.nan, around_grey(np.nan_to_num(found)) / 255)


def _places(size: int, count: int, columns: int) -> list[tuple[int, int]]:
    """The upper left pixel of each of so many pictures of `size` pixels side by side, as (y, x)."""
    step = size + max(1, size // 12)
    return [(i // columns * step, i % columns * step) for i in range(count)]


def _frame(axes: "Axes", size: int, count: int, columns: int, left: tuple[int, int]) -> None:
    """A thin frame around each picture of the mosaics that begin at these columns, so that a white one is seen on a white page."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    corners = [(start + x - 0.5, y - 0.5) for start in left for y, x in _places(size, count, columns)]
    frames = [Rectangle(corner, size, size) for corner in corners]
    axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor=RULE, linewidth=0.5, clip_on=False), autolim=False)


def _mosaic(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures (size, size, C) of 0 to 1 side by side, RGBA; NaN is transparent."""
    size = pictures[0].shape[0]
    places = _places(size, len(pictures), columns)
    mosaic = np.zeros((*(max(place[axis] for place in places) + size for axis in (0, 1)), 4))
    for picture, (y, x) in zip(pictures, places, strict=True):
        mosaic[y : y + size, x : x + size, :3] = np.nan_to_num(picture)
        mosaic[y : y + size, x : x + size, 3] = ~np.isnan(picture).any(-1)
    return mosaic
