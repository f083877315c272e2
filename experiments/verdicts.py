"""The table of claims with what the results say of each: the effect with its interval, and the verdict. `publish` puts it into a page.

    print(table(Path("docs/results")))    # Markdown

A claim lists comparisons, each a level of a factor in a kept result. Those whose result is not there yet are left out. So the table has
nothing that a file of results does not have.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.errors import UserError

HEADING = ("claim", "difference in test error, points", "verdict", "compared, and on what")


class Comparison(NamedTuple):
    """A level of a factor against the factor's reference, in the result of an ablation. The factor `ensemble` has no levels."""

    result: str  # docs/results/RESULT.json
    factor: str
    level: str = ""


# A claim, and the comparisons that test it.
CLAIMS: dict[str, tuple[Comparison, ...]] = {
    "LRN: what normalising does, beyond dividing by the constant k^beta": (
        Comparison("evidence_lrn", "lrn", "LRN"),
        Comparison("evidence_few_lrn", "lrn", "LRN"),
    ),
    "LRN: what dividing by the constant k^beta does": (
        Comparison("evidence_lrn", "lrn", "off, scaled start"),
        Comparison("evidence_lrn", "lrn", "off"),
        Comparison("evidence_few_lrn", "lrn", "off, scaled start"),
        Comparison("evidence_few_lrn", "lrn", "off"),
    ),
    "LRN before the pool or after it": (
        Comparison("evidence_lrn", "order", "before pool"),
        Comparison("evidence_few_lrn", "order", "before pool"),
        Comparison("evidence_digits", "order", "before pool"),
    ),
    "augmentation makes more data from few samples": (
        Comparison("evidence_digits", "augment", "none"),
        Comparison("evidence_augmentation_250", "augment", "none"),
        Comparison("evidence_augmentation_1000", "any_augment", "none"),
        Comparison("evidence_augmentation_4000", "any_augment", "none"),
        Comparison("evidence_augmentation_16000", "any_augment", "none"),
        Comparison("evidence_augmentation_55000", "augment", "none"),
        Comparison("evidence_colour", "any_augment", "none"),
    ),
    "random shifts along the principal components of the colours": (Comparison("evidence_colour", "colour", "off"),),
    "dropout of 0.5 prevents overfitting": (
        Comparison("evidence_few", "dropout", "off"),
        Comparison("evidence_digits", "dropout", "off"),
    ),
    "ReLU or tanh: the error at the end": (Comparison("evidence_few", "activation", "tanh"),),
    "overlapping pools lower the error": (
        Comparison("evidence_few", "overlap", "2x2, stride 2"),
        Comparison("evidence_digits", "overlap", "2x2, stride 2"),
    ),
    "the learning rate is dropped three times, by hand or at plateaus": (
        Comparison("evidence_drops", "drops", "constant"),
        Comparison("evidence_drops", "drops", "three drops"),
        Comparison("evidence_drops", "drops", "linear"),
    ),
    "bfloat16 is as good as float32": (
        Comparison("fashion_2000_precision", "precision", "bfloat16"),
        Comparison("digits_precision", "precision", "bfloat16"),
    ),
    "several networks together err less": (
        Comparison("evidence_ensemble_networks", "ensemble"),
        Comparison("evidence_digits_ensemble", "ensemble"),
    ),
}


def table(kept: Path) -> str:
    """The Markdown table of all comparisons whose results are among the kept files."""
    rows = [HEADING, ("---",) * len(HEADING)]
    for claim, comparisons in CLAIMS.items():
        found = [_cells(each, json.loads(path.read_text())) for each in comparisons if (path := kept / f"{each.result}.json").exists()]
        rows += [(claim if first else "", *cells) for first, cells in zip([True] + [False] * len(found), found, strict=False)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(each: Comparison, record: dict[str, Any]) -> tuple[str, ...]:
    """The difference with its interval, the verdict, what is compared.

    Raises:
      UserError: the result has no such comparison.
    """
    factor = next((factor for factor in record.get("factors", ()) if factor["factor"] == each.factor), None)
    rows = factor["levels"] if factor and each.level else [{"level": "one network"}, factor | {"level": ""}] if factor else []
    row = next((row for row in rows[1:] if row["level"] == each.level), None)
    if factor is None or row is None:
        raise UserError(f"{each.result}.json has no level {each.level!r} of the factor {each.factor}; correct experiments/verdicts.py")
    what = f"{each.level} against {rows[0]['level']}" if each.level else f"{factor['members']} networks together against one"
    protocol, orders = record["protocol"], record.get("orders", 1)
    images = protocol["training"].partition(" (")[0]
    networks = len(row["seeds"])
    chance = f"{networks} networks in {orders} orders" if orders > 1 else f"{networks} networks in one order"
    where = f"{protocol['dataset'].partition(',')[0]}, {images}; {chance}"
    difference = row["difference"]
    low, high = (difference[name] if difference[name] is not None else math.nan for name in ("low", "high"))
    interval = f" ({low:+.2f} to {high:+.2f})" if math.isfinite(low) else ""
    mean = f"{difference['mean']:+.2f}" if difference["mean"] is not None else "none"
    return f"{mean}{interval}", row["verdict"]["words"], f"{what}: {where} ([{each.result}](#{each.result}))"
