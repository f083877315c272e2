"""The figure of the part `growth`, large enough for a lecture. growth.py calls it:

write({RECORDS: [(2000, timing)], ...}, batch=128, out=Path("benchmarks"))
"""

from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_jax.errors import cannot_write
from alexnet_jax.report.style import COLOURS, INK, WIDTH, style_axes
from experiments.benchmark.measure import Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The names of the measured curves.
RECORDS, MEMORY, MEMBERS, BATCHES = "input from the records", "input from memory", "members, small", "images a batch, small"
Points = list[tuple[int, Timing]]  # (size, seconds of a batch)


def write(points: dict[str, Points], batch: int, out: Path) -> list[Path]:
    """Draw growth.png and growth.svg into `out`: input against dataset size, step against members, step against batch size.

    Raises:
      UserError: the files can't be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(WIDTH, 8.6), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    dataset, members, batches = figure.subplots(3, 1)
    for colour, what in zip(COLOURS, (MEMORY, RECORDS), strict=False):
        images = min(batch, min(size for size, _ in points[what]))
        _draw(
            dataset, [(size, timing.rate(images), *(images / s for s in timing.quartiles)) for size, timing in points[what]], colour, what
        )
    _label(dataset, "Input (images/s)", "images in the dataset")
    dataset.set_ylim(bottom=0)
    for axes, what, label in (
        (members, MEMBERS, f"members of the small network, {batch} images each"),
        (batches, BATCHES, "images a batch, one member"),
    ):
        _draw(
            axes,
            [(size, 1e3 * timing.median, *(1e3 * s for s in timing.quartiles)) for size, timing in points[what]],
            COLOURS[0],
            "measured",
        )
        first, timing = points[what][0]
        sizes = [size for size, _ in points[what]]
        proportional = [1e3 * timing.median * size / first for size in sizes]
        axes.plot(sizes, proportional, color=COLOURS[3], linestyle="--", label="proportional to the first")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        _label(axes, "Training step (ms)", label)
    paths = [out / "growth.png", out / "growth.svg"]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in paths:
            figure.savefig(path, dpi=160)
    except OSError as error:
        raise cannot_write(path, error, "choose another --out") from None
    return paths


def _draw(axes: "Axes", rows: list[tuple[float, ...]], colour: str, label: str) -> None:
    """Draw a line through the medians and a band between the quartiles; rows are (x, median, quartile, quartile)."""
    x, median, lower, upper = zip(*rows, strict=True)
    axes.fill_between(x, lower, upper, color=colour, alpha=0.25, linewidth=0)
    axes.plot(x, median, color=colour, linewidth=2, marker="o", markersize=5, label=label)
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{size:,}" for size in x])


def _label(axes: "Axes", title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(label)
    style_axes(axes)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.legend(frameon=False, labelcolor=INK)
