"""Writes the result of an ablation: text for the terminal, Markdown, JSON, CSV and figures.

report.py calls it with the data that ablation.json holds; `publish` calls `markdown` for the pages:

    print(text(found))
    write(found, out)    # out/ablation.json, .csv, .md, .png, .svg
"""

import csv
import io
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax.history import plain
from alexnet_jax.report.charts import ensemble_curve_figure
from alexnet_jax.runlog import writing
from alexnet_jax.tables import aligned
from experiments.ablate import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOW_TO_READ = "## How to read this"  # the last heading
READING = (
    "Test error: the mean over networks ± the standard deviation over them, in percent of the test images. Difference: the level's error "
    "minus the reference's, in percentage points; negative is better. In brackets is its 95 % confidence interval, from {test}. p (Holm): "
    "the p-value of that test, corrected by Holm's method for the number of levels that are compared. McNemar, A : B: of the predictions "
    "of all networks, A are wrong only with this level, and B only with the reference. McNemar's test covers other test images with these "
    "networks. Its p-value, also corrected by Holm's method, is too small if there are several networks, because their predictions on the "
    "same image aren't independent.",
    "The verdict is `no effect seen` only if the interval contains zero and is within ±{margin:g} percentage points.",
)
ONE_ORDER = (
    "the paired t-test over seeds. It covers other seeds on these test images. All networks saw the training images in one order, so it "
    "says nothing about other orders"
)
SEVERAL_ORDERS = (
    "the t-test over the mean differences of the orders of the training images, each with seeds of its own. It covers other orders and "
    "other seeds on these test images"
)
HEADING = ("level", "test error", "difference (points)", "p (Holm)", "McNemar", "verdict")
RATES = ("rate", "highest that learns")  # where several learning rates were tried, between the level and its error


def text(found: dict[str, Any]) -> str:
    """The whole result as text for a terminal."""
    lines = [f"{label}: {value}" for label, value in found["protocol"].items()] + found["skipped"]
    for factor in found["factors"]:
        lines += ["", factor["question"], f"  published: {factor['published']}", ""]
        rows = _ensemble_rows(factor) if "curve" in factor else _level_rows(factor)
        lines.append(textwrap.indent(aligned(rows, gap=3), "  "))
        lines += [f"  {line}" for line in _ensemble_words(factor)]
        lines += [f"  note: {note}" for note in factor["notes"]]
    return "\n".join([*lines, "", *_reading(found)])


def markdown(found: dict[str, Any]) -> str:
    """The whole result as a Markdown page with links to its figures."""
    lines = ["# Ablation", "", f"    {found['command']}", "", *_table([("", ""), *found["protocol"].items()]), ""]
    lines += [f"{line}\n" for line in found["skipped"]]
    if any("levels" in factor for factor in found["factors"]):
        lines += ["![Differences in test error from the reference, with their 95 % intervals](ablation.svg)", ""]
    for factor in found["factors"]:
        lines += [f"## {factor['question']}", "", f"Published: {factor['published']}.", ""]
        if "curve" in factor:
            lines += ["![Test error against the number of networks](ensemble.svg)", ""]
        lines += [*_table(_ensemble_rows(factor) if "curve" in factor else _level_rows(factor)), ""]
        lines += [f"{line}\n" for line in _ensemble_words(factor)]
        lines += [f"- {note}" for note in factor["notes"]] + [""]
    return "\n".join([*lines, HOW_TO_READ, "", *_reading(found)]) + "\n"


def csv_text(found: dict[str, Any]) -> str:
    """One line for each network: factor, level, order of the images, seed, test error (a fraction), diverged (1 or 0), its run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["factor", "level", "order", "seed", "test_error", "diverged", "run"])
    for factor in found["factors"]:
        for level in factor.get("levels", [factor]):
            for order, seed, error in zip(level["orders"], level["seeds"], level["test_error"], strict=True):
                lost, run = int(seed in level["diverged"]), level["runs"][order]
                writer.writerow([factor["factor"], level["level"], order, seed, f"{error:.6g}", lost, run])
    return out.getvalue()


def write(found: dict[str, Any], out: Path) -> list[Path]:
    """Write ablation.json, .csv, .md and the figures as .png and .svg; returns the paths.

    Raises:
      UserError: a file can't be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / "ablation.json").write_text(json.dumps(plain(found), indent=2) + "\n", encoding="utf-8")
        (out / "ablation.csv").write_text(csv_text(found), encoding="utf-8")
        (out / "ablation.md").write_text(markdown(found), encoding="utf-8")
    drawn: dict[str, Figure] = {}
    compared = [factor for factor in found["factors"] if len(factor.get("levels", ())) > 1]
    if compared:
        drawn["ablation"] = figures.effects_figure(compared, found["margin"])
    for factor in found["factors"]:
        if "curve" in factor:
            drawn["ensemble"] = ensemble_curve_figure(factor)
    for name, figure in drawn.items():
        figures.save(figure, out / name)
    return [out / f"ablation.{kind}" for kind in ("md", "json", "csv")] + [
        out / f"{name}.{kind}" for name in drawn for kind in ("png", "svg")
    ]


def _level_rows(factor: dict[str, Any]) -> list[tuple[str, ...]]:
    """The heading and a row for each level."""
    reference, *levels = factor["levels"]
    rows: list[tuple[str, ...]] = [HEADING, (reference["level"], _error(reference), "reference", "", "", "")]
    for level in levels:
        difference, mcnemar = level["difference"], level["mcnemar"]
        interval = f" ({difference['low']:+.2f} to {difference['high']:+.2f})" if math.isfinite(difference["low"]) else ""
        counts = f"{mcnemar['only_level']} : {mcnemar['only_reference']}, p {_p(mcnemar['p_holm'])}"
        rows.append(
            (
                level["level"],
                _error(level),
                f"{difference['mean']:+.2f}{interval}",
                _p(difference["p_holm"]),
                counts,
                level["verdict"]["words"],
            )
        )
    if "rate" not in reference:
        return rows
    rates = [RATES, *((level["rate"], level["highest_rate"]) for level in factor["levels"])]
    return [(row[0], *more, *row[1:]) for row, more in zip(rows, rates, strict=True)]


def _ensemble_rows(factor: dict[str, Any]) -> list[tuple[str, ...]]:
    over = "orders" if "orders" in factor["curve"][0] else "subsets"
    rows: list[tuple[str, ...]] = [("networks", f"test error, ± over {over}", "subsets")]
    for row in factor["curve"]:
        spread = f" ± {100 * row['std']:.2f}" if row[over] > 1 else ""
        rows.append((str(row["members"]), f"{100 * row['top1_error']:.2f}{spread} %", str(row["subsets"])))
    return rows


def _ensemble_words(factor: dict[str, Any]) -> list[str]:
    if "curve" not in factor:
        return []
    cut = factor["relative_cut"]
    gain = factor["verdict"]["words"]
    if math.isfinite(cut):
        gain += f"; {abs(cut):.1%} {'fewer' if cut >= 0 else 'more'} errors"
    several = "orders" in factor["curve"][0]
    who, over = ("Ensembles", "orders of the images") if several else ("The ensemble", "test images")
    return [f"{who} of all {factor['members']} networks{' of an order' * several} compared with one network, over {over}: {gain}."]


def _error(level: dict[str, Any]) -> str:
    """Mean and standard deviation in percent, and how many diverged seeds these leave out."""
    lost = f", {len(level['diverged'])} of {len(level['seeds'])} diverged" if level["diverged"] else ""
    if math.isnan(level["mean_test_error"]):
        return "all diverged"
    spread = "" if math.isnan(level["std_test_error"]) else f" ± {100 * level['std_test_error']:.2f}"
    return f"{100 * level['mean_test_error']:.2f}{spread} %{lost}"


def _p(p: float) -> str:
    return "" if math.isnan(p) else f"{p:.2g}" if p >= 1e-4 else "< 0.0001"


def _reading(found: dict[str, Any]) -> list[str]:
    test = SEVERAL_ORDERS if found.get("orders", 1) > 1 else ONE_ORDER  # files of earlier versions, with one order, don't say it
    return [line.format(margin=found["margin"], test=test) for line in READING]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as a Markdown table; the first row is the heading."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in [cells[0], ["---"] * len(cells[0]), *cells[1:]]]
