"""The common look of all figures: colours, axes, fonts, labels and pictures.

The figures of reports, predictions and experiments use it:

    with any_script():
        axes.plot(epochs, error, color=member_colour(0, members=7))
        style_axes(axes)
"""

import bisect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

INK, RULE = "#1f2328", "#d8dce1"  # text and strong lines; grids. The page replaces both by the colours of its light or dark mode
# Matplotlib's petroff10 (arXiv 2107.02270): ten colours that colour-blind readers tell apart
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
RIGHT, WRONG, OTHER = COLOURS[0], COLOURS[2], COLOURS[3]  # colours of answers
WIDTH = 6.2  # inches, of every figure: on a phone it has two thirds of this width, and ten-point letters are still readable
PIXELS = 160  # per inch of a figure
# Fonts with Chinese, Japanese and Korean letters; a system has some or none of them
_CJK = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "Microsoft YaHei", "Malgun Gothic", "WenQuanYi Zen Hei")


@contextmanager
def any_script() -> Iterator[None]:
    """In this context, figures can have text in any script. A box stands for a letter that no installed font has."""
    import matplotlib
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    family = ["sans-serif", *(name for name in _CJK if name in installed)]
    with matplotlib.rc_context({"font.family": family}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        yield


def style_axes(axes: "Axes") -> None:
    """Give the axes a bold title at the left, a light grid, and only the bottom line of the frame."""
    style_title(axes)
    axes.set_facecolor("none")
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(colors=INK, length=0, labelbottom=True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)


def style_title(axes: "Axes") -> None:
    """Give the axes a bold title at the left, which may be a name with any characters."""
    axes.set_title(axes.get_title(), loc="left", color=INK, fontsize=12, fontweight="bold", parse_math=False)
    axes.set_title("", loc="center")


def write_note(figure: "Figure", note: str) -> None:
    """Write a bold line above all else. A figure of constrained layout makes room for it, another must have left some."""
    if note:
        figure.suptitle(note, x=0.01, ha="left", color=INK, fontsize=10, fontweight="bold", parse_math=False)


def member_colour(member: int, members: int) -> str:
    """The colour of a member: one each for up to ten members, one for all of more."""
    return COLOURS[member if members <= len(COLOURS) else 0]


def show_picture(axes: "Axes", image: np.ndarray, side: float) -> None:
    """Show a picture, uint8 (height, width, C), in a thin frame `side` inches wide. A large picture is scaled down, to keep pages small."""
    largest = round(side * PIXELS)
    if max(image.shape[:2]) > largest:
        size = [round(length * largest / max(image.shape[:2])) for length in image.shape[1::-1]]
        image = np.asarray(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).resize(size, Image.Resampling.LANCZOS))
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(RULE)


def shorten(label: "Text", width: float, keep_end: int = 0) -> None:
    """Shorten a text that is wider than `width` inches. Its last `keep_end` characters stay."""
    whole = label.get_text()
    start, end = whole[: len(whole) - keep_end], whole[len(whole) - keep_end :]

    def fits(cut: int) -> bool:
        label.set_text(f"{start[:-cut].rstrip(' ,')}…{end}" if cut else whole)
        return label.get_window_extent().width <= width * label.figure.dpi  # type: ignore[union-attr]

    fits(bisect.bisect(range(len(start)), False, key=fits))


def printable(name: object) -> str:
    """A name on one line. U+FFFD replaces line breaks, and the surrogates by which Python represents names that aren't UTF-8."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(name))
