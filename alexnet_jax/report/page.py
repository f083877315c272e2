"""Writes a page from sections of blocks, and its figures as files.

The page is one HTML file that needs no other file. The report of a run and the comparison of runs call it:

    sections = [Section("Results", [Text("All went well."), Table(("", "error"), [("seed=0", "1.03 %")])])]
    write_figures(Path("runs/digits/figures"), sections)
    write_page(Path("runs/digits/report.html"), "digits", "finished", "1.03 % error.", sections)
"""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from alexnet_jax.report.style import INK, PIXELS, RULE, WRONG, write_note
from alexnet_jax.runlog import command, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHOTO_BYTES = 6000  # a picture with a larger PNG is a photograph, and becomes a JPEG of a fifth of the size
_DATE = {"Date": None}  # no date, so the same run gives the same bytes


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Drawing(NamedTuple):
    """A figure. `name` is the name of its files, unique in a page. `alt` describes the figure in words."""

    name: str
    figure: "Figure"
    alt: str


class Table(NamedTuple):
    """Rows of cells below a heading. With `numbers`, all columns except the first are aligned to the right."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True


class Pairs(NamedTuple):
    """Rows of a label and its text."""

    rows: Sequence[tuple[str, str]]


class Code(NamedTuple):
    """Text whose lines and spaces stay as they are."""

    text: str


class Folded(NamedTuple):
    """Blocks that a click opens; in print they are open."""

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
    """Write the page with its figures inside it. It loads no other file, and every text in it is escaped.

    Raises:
      UserError: the page cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"inline_svg": inline_svg, "kind": lambda block: type(block).__name__}
    html = environment.get_template("report.html.jinja").render(title=title, status=status, headline=headline, sections=sections)
    with writing(path):
        path.write_text(html, encoding="utf-8", errors="replace")  # a name may hold half a letter


def write_figures(directory: Path, sections: Sequence[Section], note: str = "") -> None:
    """Write every figure of some sections as NAME.png and NAME.svg, with a note above each if there is one.

    Raises:
      UserError: a figure cannot be written.
    """
    with writing(directory):
        directory.mkdir(exist_ok=True)
        for drawing in (found for section in sections for found in drawings(section.blocks)):
            write_note(drawing.figure, note)
            drawing.figure.savefig(directory / f"{drawing.name}.png", dpi=PIXELS)
            drawing.figure.savefig(directory / f"{drawing.name}.svg", metadata=_DATE)


def write_result(directory: Path, text: str) -> None:
    """Write result.txt: the command, and what it found, as experiments.publish puts it into a page.

    Raises:
      UserError: the file cannot be written.
    """
    with writing(directory):
        (directory / "result.txt").write_text(f"{command()}\n{text}\n", encoding="utf-8")


def inline_svg(drawing: Drawing) -> str:
    """The figure as an <svg> element without a background, in the colours of the page's light or dark mode and the reader's fonts."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": drawing.name}):
        drawing.figure.savefig(buffer, format="svg", facecolor="none", metadata=_DATE)
    svg = buffer.getvalue()
    prefix = re.sub(r"\W+", "-", drawing.name)  # a comparison's name is a file's name, which may contain characters that an id may not

    def adapt(tag: re.Match) -> str:
        text = tag[0].replace(INK, "currentColor").replace(RULE, "var(--rule)").replace(WRONG, f"var(--wrong, {WRONG})")
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)  # unique, since other figures of the page have the same ids
        return re.sub(r"data:image/png;base64,([^\"]+)", _smaller, text)

    return re.sub(r"<[^>]+>", adapt, svg[svg.index("<svg") :])


def _smaller(found: re.Match) -> str:
    """Turn the PNG of a photograph into JPEG, as a data URI. Drawings and small pictures stay PNG, so that their pixels stay sharp."""
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
    """The figures among some blocks, including folded ones."""
    found = []
    for block in blocks:
        if isinstance(block, Drawing):
            found.append(block)
        elif isinstance(block, Folded):
            found += drawings(block.blocks)
    return found
