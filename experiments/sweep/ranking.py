"""Ranks the points of a sweep by validation error, and writes them as text, CSV, a figure and a self-contained HTML page.

`experiments.sweep` calls it, also while parts of the sweep are unfinished:

    found = rows(programs)
    print(text(found), headline(found), caption(programs), sep="\n")
    write(root, programs)
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.report.style import printable
from alexnet_jax.runlog import writing
from alexnet_jax.tables import aligned
from experiments.launch.points import Point, Program, varying
from experiments.launch.results import Result, answers, collect, never_learnt, same_split, status
from experiments.sweep.grid import labels, short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CSV, PAGE, FIGURE = "results.csv", "results.html", "figures/results"
DRAWN = 40  # the figure shows this many points at most: the best ones


class Row(NamedTuple):
    """A point with its result."""

    point: Point
    result: Result | None  # None until its run has finished
    note: str  # what of its networks diverged, never learnt or isn't known, or the state of an unfinished run; may be empty
    programs: tuple[Program, ...]  # those that train it, one for each order of the images
    learnt: np.ndarray  # bool (N,): which of its networks neither diverged nor answer one class for every image

    @property
    def ranks(self) -> bool:
        """Whether the point can be ranked: at least one of its networks learnt."""
        return bool(self.learnt.any())

    def spread(self, split: str) -> tuple[float, float, int]:
        """Mean, sample standard deviation (NaN for a single network) and number of the top-1 errors of the networks that learnt."""
        if self.result is None:
            return np.nan, np.nan, 0
        errors = self.errors(split)
        return float(errors.mean()) if errors.size else np.nan, float(errors.std(ddof=1)) if errors.size > 1 else np.nan, errors.size

    def errors(self, split: str) -> np.ndarray:
        """The top-1 errors, fractions, of the networks that learnt; `split` is validation or test."""
        assert self.result is not None
        return (self.result.validation_error if split == "validation" else self.result.test_error)[self.learnt]


ORDER = "Points whose networks have all learnt come first; within each group, points are sorted by validation error"


def rows(programs: Sequence[Program]) -> list[Row]:
    """A row for each point: first those whose networks all learnt, then those of which some did, by validation error, then the rest."""
    points = {point.name: point for program in programs for point in program.points}
    trained = {name: tuple(program for program in programs if name in (point.name for point in program.points)) for name in points}
    found = [_row(result, trained[result.point.name]) for result in collect(programs)]
    found.sort(key=lambda row: (not row.ranks, not row.learnt.all(), row.spread("validation")[0]))
    missing = [name for name in points if name not in {row.point.name for row in found}]
    return found + [Row(points[name], None, _unfinished(trained[name]), trained[name], np.zeros(0, bool)) for name in missing]


def _row(result: Result, trained: tuple[Program, ...]) -> Row:
    """The row of a point that has finished."""
    networks = len(result.seeds)
    notes = []
    try:
        stalled = never_learnt(result, answers(result))
    except UserError:  # its errors are in its log, but not whether a network answers one class for every image
        stalled = np.zeros(networks, bool)
        notes = ["predictions lost, so it isn't known which networks learnt"]
    lost = {"diverged": len(result.diverged), "never learnt": int(stalled.sum())}
    notes = [*(why if count == networks else f"{count} of {networks} {why}" for why, count in lost.items() if count), *notes]
    return Row(result.point, result, ", ".join(notes), trained, ~stalled & ~np.isin(result.seeds, result.diverged))


def text(table: Sequence[Row]) -> str:
    """The table for a terminal; errors in percent."""
    header, cells = _cells(table)
    return aligned([header, *cells], "".join(">" if name in ("validation error", "test error", "seeds") else "<" for name in header))


def caption(programs: Sequence[Program]) -> str:
    """A text that explains how to read the table."""
    spread = "Errors are means over the seeds whose networks learnt; ± is the standard deviation over these seeds. "
    orders = len({program.order for program in programs})
    if orders > 1:
        spread += f"The seeds are those of {orders} orders of the images, so the spread includes that of orders."
    else:
        spread += "All of them saw the images in one order, so the spread says nothing about other orders."
    split = same_split(programs)
    if split:
        return f"{ORDER}. Validation and test used the same images here, {split}, so the test error adds no information. {spread}"
    return (
        f"{ORDER}. Choose a point by its validation error. Its test error then estimates its error on new images; "
        f"if you choose by the test error, it no longer does. {spread}"
    )


def headline(table: Sequence[Row]) -> str:
    """A sentence about the point with the lowest validation error."""
    if not any(row.result for row in table):
        return "No point has finished yet."
    best = table[0]
    if not best.ranks:
        return "No network of the points that have finished has learnt; lower learning rates may be better."
    seeds = best.spread("validation")[2]
    over = "one seed" if seeds == 1 else f"{seeds} seeds"
    rest = sum(row.result is None for row in table)
    so_far = f" among the {len(table) - rest} of {len(table)} points that have finished" if rest else ""
    better = any(row.result and row.spread("validation")[0] < best.spread("validation")[0] for row in table)
    finite = ", not counting points with a network that diverged or never learnt" if better else ""
    return (
        f"Lowest validation error{so_far}{finite}: {best.point.name}, {_percent(best, 'validation')} over {over}; "
        f"its test error is {_percent(best, 'test')}."
    )


def csv_text(table: Sequence[Row]) -> str:
    """The table as CSV; errors are fractions. The errors of the single seeds are in one cell, separated by spaces."""
    keys = list(dict.fromkeys(key for row in table for key in row.point.settings))
    figures = ["validation_error_mean", "validation_error_std", "test_error_mean", "test_error_std"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["point", *keys, "seeds", "diverged", *figures, "validation_errors", "test_errors", "note", "run", "members"])
    for row in table:
        result = row.result
        numbers = [value for split in ("validation", "test") for value in row.spread(split)[:2]]
        each = [" ".join(f"{e:.6g}" for e in errors) for errors in (result.validation_error, result.test_error)] if result else ["", ""]
        writer.writerow(
            [
                row.point.name,
                *(row.point.settings.get(key, "") for key in keys),
                row.spread("validation")[2],
                len(result.diverged) if result else "",
                *("" if np.isnan(value) else f"{value:.6g}" for value in numbers),
                *each,
                row.note,
                " ".join(str(program.directory) for program in row.programs),
                " ".join(map(str, result.runs[0][1])) if result else "",
            ]
        )
    return out.getvalue()


def write(root: Path, programs: Sequence[Program]) -> list[Path]:
    """Write results.csv, results.html and figures/results.png and .svg below `root`; returns their paths.

    Raises:
      UserError: a file can't be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from alexnet_jax.report.page import Drawing, inline_svg

    table = rows(programs)
    paths = [root / CSV, root / PAGE]
    if any(row.ranks for row in table):
        picture = figure(table)
        paths += [root / f"{FIGURE}.{kind}" for kind in ("png", "svg")]
    header, cells = _cells(table)
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    html = page.get_template("sweep.html.jinja").render(
        title=root.resolve().name,
        headline=headline(table),
        caption=caption(programs),
        header=header,
        rows=[[*zip(words, _sort_keys(row, header), strict=True)] for words, row in zip(cells, table, strict=True)],
        figure=inline_svg(Drawing("results", picture, "")) if len(paths) > 2 else None,
    )
    with writing(root):
        (root / CSV).write_text(csv_text(table), encoding="utf-8")
        (root / PAGE).write_text(html, encoding="utf-8")
        for path in paths[2:]:
            path.parent.mkdir(exist_ok=True)
            picture.savefig(path, dpi=160)
    return paths


def figure(table: Sequence[Row]) -> "Figure":
    """Each point's validation and test error: the mean, a bar of ± one standard deviation, a dot for each seed; the best point on top."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    from alexnet_jax.report.style import COLOURS, INK, WIDTH, WRONG, shorten, style_axes

    shown = [row for row in table if row.ranks][:DRAWN]
    drawn = Figure(figsize=(WIDTH, 1.5 + 0.33 * len(shown)), layout="constrained")
    axes = drawn.subplots()
    for split, colour, marker, offset in (("validation", COLOURS[0], "o", -0.14), ("test", COLOURS[1], "D", 0.14)):
        y = np.arange(len(shown)) + offset
        for at, row in zip(y, shown, strict=True):
            errors = 100 * row.errors(split)
            if errors.size > 1:
                axes.plot(errors, np.full(errors.size, at), marker, color=colour, markersize=3, alpha=0.4, markeredgewidth=0)
        mean, std, _ = (np.array(column) for column in zip(*(row.spread(split) for row in shown), strict=True))
        axes.errorbar(100 * mean, y, xerr=100 * np.nan_to_num(std), fmt=marker, color=colour, markersize=6, capsize=3, label=split)
    low, high = (100 * bound([bound(row.errors(split)) for row in shown for split in ("validation", "test")]) for bound in (min, max))
    if low > 0 and high > 8 * low:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    for at, row in enumerate(shown):
        if row.note:
            axes.annotate(row.note, (1, at), (-4, 0), ("axes fraction", "data"), "offset points", ha="right", va="center", color=WRONG)
    names, heading = _names(shown)
    axes.set_yticks(range(-len(heading), len(shown)), [*heading, *names], parse_math=False)
    axes.set_ylim(len(shown) - 0.5, -0.5 - len(heading))
    ranked = sum(row.ranks for row in table)
    axes.set_title("Top-1 error (%) by point" + (f": the best {DRAWN} of {ranked}" if ranked > DRAWN else ""))
    lost = sum(row.result is not None and not row.ranks for row in table)
    notes = ["bars: one standard deviation over seeds"] if any(row.spread("validation")[2] > 1 for row in shown) else []
    notes += [f"not drawn: {lost} point{'' if lost == 1 else 's'}, since no network learnt"] if lost else []
    axes.set_xlabel("\n".join(notes))
    style_axes(axes)
    axes.grid(axis="y", visible=False)
    texts = axes.get_yticklabels()
    for text in texts:
        if heading:
            text.set(family="monospace", color=INK)
        shorten(text, (0.6 if heading else 0.45) * WIDTH)
    # Set the shortened names again; otherwise matplotlib restores the full names when it draws.
    axes.set_yticks(axes.get_yticks(), [text.get_text() for text in texts], parse_math=False)
    drawn.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK)
    return drawn


def _names(shown: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The names of points for the figure, and a heading, if the names are columns of their settings rather than the points' own names."""
    settings = [row.point.settings for row in shown]
    names, keys = [printable(row.point.name) for row in shown], varying(settings)
    if not keys or names != labels(settings):
        return names, []
    columns = [[*short_names(keys).values()], *([row.get(key, "-") for key in keys] for row in settings)]
    heading, *lines = aligned(columns, ">" * len(keys)).splitlines()
    return lines, [heading]


def _cells(table: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells for readers: the points' names, if they have own names, then a column for each setting that differs."""
    settings = [row.point.settings for row in table]
    keys = varying(settings)
    in_words = dict(zip([row.point.name for row in table], labels(settings), strict=True)) if table else {}
    names = ["point"] if not keys or any(name != label for name, label in in_words.items()) else []
    header = [*names, *short_names(keys).values(), "validation error", "test error", "seeds", "note"]
    cells = []
    for row in table:
        errors = [_percent(row, "validation"), _percent(row, "test"), str(row.spread("validation")[2]) if row.result else ""]
        cells.append([*([row.point.name] if names else []), *(row.point.settings.get(key, "") for key in keys), *errors, row.note])
    return header, cells


def _sort_keys(row: Row, header: Sequence[str]) -> list[str]:
    """The value by which the page sorts each cell: an error with all its digits; empty for other cells, which sort by their text."""
    exact = {f"{split} error": f"{row.spread(split)[0]:.8g}" if row.ranks else "" for split in ("validation", "test")}
    return [exact.get(name, "") for name in header]


def _percent(row: Row, split: str) -> str:
    mean, std, _ = row.spread(split)
    if np.isnan(mean):
        return ""
    return f"{100 * mean:.2f} %" if np.isnan(std) else f"{100 * mean:.2f} ± {100 * std:.2f} %"


def _unfinished(programs: Sequence[Program]) -> str:
    """The state of the first run that has not finished."""
    found = next(each for each in map(status, (program.directory for program in programs)) if each.state != "finished")
    if found.state == "failed":
        return f"failed: {found.error}"
    return found.state + (f" at step {found.step:,} of {found.steps:,}" if found.steps else "")
