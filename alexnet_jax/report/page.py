"""A report as sections of a few kinds of blocks -> one page that stands alone, and every figure of it as files for a lecture."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from alexnet_jax.report.style import INK, PIXELS, RULE, WRONG
from alexnet_jax.runlog import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHOTO_BYTES = 6000  # a picture whose PNG is longer than this is a photograph: JPEG has a fifth of it
_DATE = {"Date": None}  # the same run makes the same bytes


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Drawing(NamedTuple):
    """A figure. `name` is that of its files and unique in a page, `alt` says in words what it shows."""

    name: str
    figure: "Figure"
    alt: str


class Table(NamedTuple):
    """Rows of cells below a heading; all but the first column flush right where they are numbers."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True


class Pairs(NamedTuple):
    """Labels and what is to be said of them."""

    rows: Sequence[tuple[str, str]]


class Code(NamedTuple):
    """Text whose lines and spaces stay as they are."""

    text: str


class Folded(NamedTuple):
    """Blocks that a click opens; paper shows them."""

    title: str
    blocks: Sequence["Block"]


Block = Text | Drawing | Table | Pairs | Code | Folded


class Section(NamedTuple):
    """A part of the page under a heading."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower())


def write_page(path: Path, title: str, status: str, headline: str, sections: Sequence[Section]) -> None:
    """Write the page, with its pictures within it; it loads nothing from anywhere and escapes every text.

    Raises:
      UserError: it cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"inline_svg": inline_svg, "kind": lambda block: type(block).__name__}
    html = environment.get_template("report.html.jinja").render(title=title, status=status, headline=headline, sections=sections)
    with writing(path):
        path.write_text(html, encoding="utf-8")


def write_figures(directory: Path, sections: Sequence[Section]) -> None:
    """Write every figure of some sections as NAME.png and NAME.svg.

    Raises:
      UserError: one cannot be written.
    """
    with writing(directory):
        directory.mkdir(exist_ok=True)
        for drawing in (found for section in sections for found in drawings(section.blocks)):
            drawing.figure.savefig(directory / f"{drawing.name}.png", dpi=PIXELS)
            drawing.figure.savefig(directory / f"{drawing.name}.svg", metadata=_DATE)


def inline_svg(drawing: Drawing) -> str:
    """The figure as an <svg> element without a background, in the colours of the page's mode, and with text in the reader's fonts."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": drawing.name}):
        drawing.figure.savefig(buffer, format="svg", facecolor="none", metadata=_DATE)
    svg = buffer.getvalue()
    prefix = re.sub(r"\W+", "-", drawing.name)  # a comparison's is its file's, which may hold what no address may

    def adapt(tag: re.Match) -> str:
        text = tag[0].replace(INK, "currentColor").replace(RULE, "var(--rule)").replace(WRONG, f"var(--wrong, {WRONG})")
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)  # other figures of the page have the same ids
        return re.sub(r"data:image/png;base64,([^\"]+)", _smaller, text)

    return re.sub(r"<[^>]+>", adapt, svg[svg.index("<svg") :])


def _smaller(found: re.Match) -> str:
    """A photograph's data URI as JPEG; drawings and the smallest pictures, which a browser shows in whole pixels, stay as they are."""
    png = base64.b64decode(found[1])
    if len(png) < PHOTO_BYTES:
        return found[0]
    jpeg = io.BytesIO()
    picture = Image.open(io.BytesIO(png))
    if picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):  # JPEG has no transparency
        return found[0]
    picture.convert("RGB").save(jpeg, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"


def drawings(blocks: Sequence[Block]) -> list[Drawing]:
    """The figures among some blocks, also those that are folded."""
    found = []
    for block in blocks:
        if isinstance(block, Drawing):
            found.append(block)
        elif isinstance(block, Folded):
            found += drawings(block.blocks)
    return found
