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

HEADING = ("claim", "says", "difference in test error, points", "verdict", "compared, and on what")
WORSE, BETTER, NO_EFFECT = "worse", "better", "none"  # kinds of verdicts, see ablate/statistics.py


class Comparison(NamedTuple):
    """A level of a factor against the factor's reference, in the result of an ablation. The factor `ensemble` has no levels."""

    result: str  # docs/results/RESULT.json
    factor: str
    level: str
    supports: str  # the kind of verdict that speaks for the claim

    def says(self, kind: str) -> str:
        """What a verdict on the level says of the claim, in one or two words."""
        return {"open": "open", NO_EFFECT: "no effect", self.supports: "for"}.get(kind, "against")


def _in(level: str, supports: str, *places: tuple[str, str]) -> tuple[Comparison, ...]:
    """The same comparison in several (result, factor)."""
    return tuple(Comparison(result, factor, level, supports) for result, factor in places)


LRN = (("evidence_lrn", "lrn"), ("evidence_few_lrn", "lrn"))
SIZES = (("250", "augment"), ("1000", "any_augment"), ("4000", "any_augment"), ("16000", "any_augment"), ("55000", "augment"))

# A claim, and the comparisons that test it.
CLAIMS: dict[str, tuple[Comparison, ...]] = {
    "LRN lowers the error by more than dividing by its constant k^beta does": _in("LRN", BETTER, *LRN),
    "Without LRN, smaller first weights do what dividing by the constant does": _in("off, scaled start", NO_EFFECT, *LRN),
    "Without LRN and without smaller weights the error is higher": _in("off", WORSE, *LRN),
    "It makes no difference whether LRN comes before the pool or after it": _in(
        "before pool", NO_EFFECT, ("evidence_lrn", "order"), ("evidence_few_lrn", "order"), ("evidence_digits", "order")
    ),
    "Augmentation makes more data from few samples": _in(
        "none", WORSE, *((f"evidence_augmentation_{size}", factor) for size, factor in SIZES), ("evidence_digits", "augment")
    ),
    "Random shifts along the principal components of the colours lower the error": _in("off", WORSE, ("evidence_colour", "colour")),
    "Dropout of 0.5 prevents overfitting": _in("off", WORSE, ("evidence_few", "dropout"), ("evidence_digits", "dropout")),
    "ReLU lowers the error at the end, compared with tanh": _in("tanh", WORSE, ("evidence_few", "activation")),
    "Overlapping pools lower the error": _in("2x2, stride 2", WORSE, ("evidence_few", "overlap"), ("evidence_digits", "overlap")),
    "Dropping the learning rate at plateaus lowers the error, compared with other ways": tuple(
        Comparison("evidence_drops", "drops", level, WORSE) for level in ("constant", "three drops", "linear")
    ),
    "bfloat16 gives the errors of float32": _in(
        "bfloat16", NO_EFFECT, ("evidence_precision", "precision"), ("evidence_few_precision", "precision")
    ),
    "Several networks together err less": _in(
        "", BETTER, ("evidence_ensemble_networks", "ensemble"), ("evidence_digits_ensemble", "ensemble")
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
    """What it says of the claim, the difference with its interval, the verdict, what is compared.

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
    verdict = row["verdict"]
    return each.says(verdict["kind"]), f"{mean}{interval}", verdict["words"], f"{what}: {where} ([{each.result}](#{each.result}))"
