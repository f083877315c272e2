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

READING = (
    "Test error: the mean over seeds ± the standard deviation over seeds, in percent of the test images. Difference: the level's error "
    "minus the reference's, in percentage points; negative is better. In brackets is its 95 % confidence interval, from the paired t-test "
    "over seeds; it covers other seeds on these test images. p (Holm): the p-value of that test, corrected by Holm's method for the number "
    "of levels that are compared. McNemar, A : B: of the predictions of all seeds, A are wrong only with this level, and B only with the "
    "reference. McNemar's test covers other test images with these networks. Its p-value, also corrected by Holm's method, is too small if "
    "there are several seeds, because their predictions on the same image aren't independent.",
    "The verdict is `no effect seen` only if the interval contains zero and is within ±{margin:g} percentage points.",
)
HEADING = ("level", "test error", "difference (points)", "p (Holm)", "McNemar", "verdict")


def text(found: dict[str, Any]) -> str:
    """The whole result as text for a terminal."""
    lines = [f"{label}: {value}" for label, value in found["protocol"].items()] + found["skipped"]
    for factor in found["factors"]:
        lines += ["", factor["question"], f"  published: {factor['published']}", ""]
        rows = _ensemble_rows(factor) if "curve" in factor else [HEADING, *_level_rows(factor)]
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
        lines += [*_table(_ensemble_rows(factor) if "curve" in factor else [HEADING, *_level_rows(factor)]), ""]
        lines += [f"{line}\n" for line in _ensemble_words(factor)]
        lines += [f"- {note}" for note in factor["notes"]] + [""]
    return "\n".join([*lines, "## How to read this", "", *_reading(found)]) + "\n"


def csv_text(found: dict[str, Any]) -> str:
    """One line for each network: factor, level, seed, test error (a fraction), whether it diverged (1 or 0), its run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["factor", "level", "seed", "test_error", "diverged", "run"])
    for factor in found["factors"]:
        for level in factor.get("levels", [factor]):
            for seed, error in zip(level["seeds"], level["test_error"], strict=True):
                writer.writerow([factor["factor"], level["level"], seed, f"{error:.6g}", int(seed in level["diverged"]), level["run"]])
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
    reference, *levels = factor["levels"]
    rows: list[tuple[str, ...]] = [(reference["level"], _error(reference), "reference", "", "", "")]
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
    return rows


def _ensemble_rows(factor: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("networks", "test error, ± over subsets", "subsets")]
    for row in factor["curve"]:
        spread = f" ± {100 * row['std']:.2f}" if row["subsets"] > 1 else ""
        rows.append((str(row["members"]), f"{100 * row['top1_error']:.2f}{spread} %", str(row["subsets"])))
    return rows


def _ensemble_words(factor: dict[str, Any]) -> list[str]:
    if "curve" not in factor:
        return []
    cut = factor["relative_cut"]
    gain = factor["verdict"]["words"]
    if math.isfinite(cut):
        gain += f"; {abs(cut):.1%} {'fewer' if cut >= 0 else 'more'} errors"
    return [f"The ensemble of all {factor['members']} networks compared with one network, over test images: {gain}."]


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
    return [line.format(margin=found["margin"]) for line in READING]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as a Markdown table; the first row is the heading."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in [cells[0], ["---"] * len(cells[0]), *cells[1:]]]
