"""Compares the levels of a factor with its reference level: differences, confidence intervals, tests, verdicts. Returns data for JSON.

findings.py calls it with the outcome of each level:

    rows = compare({"on": outcome, "off": other}, margin=0.5)
    rows[1]["verdict"]["words"]    # "worse by 0.80 points (0.50 to 1.10)"

A pair is two networks with the same seed, one of each level; they also have the same order of the images. If one of the two diverged, the
pair is left out; the row names the seeds that remain.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.ablate import statistics
from experiments.ablate.statistics import Difference

ALL_DIVERGED = statistics.Verdict("open", "no comparison: every network diverged")


class Outcome(NamedTuple):
    """The results of the S networks of a setting on N test images. A network's seed names it, since no two orders share a seed."""

    seeds: list[int]
    orders: list[int]  # for each network the number of its order of the images
    test_error: np.ndarray  # float64 (S,), fractions
    wrong: np.ndarray  # bool (S, N): the network classifies the image wrongly
    diverged: np.ndarray  # bool (S,)
    stalled: np.ndarray  # bool (S,): the network predicts the same class for nearly every image, so it never learnt


def compare(levels: Mapping[str, Outcome], margin: float) -> list[dict[str, Any]]:
    """One row for each level. The first row is the reference, which has no comparison.

    Args:
      levels: the outcome of each level, by its name, the reference first; all with the same seeds and test images.
      margin: the smallest difference in test error that matters, in percentage points.
    """
    (reference_name, reference), *others = levels.items()
    rows = [_compare(name, outcome, reference) for name, outcome in others]
    adjusted = statistics.holm([row["difference"].p for row in rows])
    adjusted_mcnemar = statistics.holm([row["mcnemar"]["p"] for row in rows])
    for row, p, p_mcnemar in zip(rows, adjusted, adjusted_mcnemar, strict=True):
        verdict = statistics.verdict(row["difference"], margin, p if len(rows) > 1 else math.nan)
        if row["stalled"] or reference.stalled.any():
            verdict = _never_learnt(len(row["stalled"]), int(reference.stalled.sum()), len(reference.seeds))
        row["verdict"] = verdict._asdict()
        row["difference"] = {**row["difference"]._asdict(), "p_holm": p}
        row["mcnemar"]["p_holm"] = p_mcnemar
    return [_describe(reference_name, reference), *rows]


def _describe(name: str, outcome: Outcome) -> dict[str, Any]:
    """A level without a comparison. Mean and standard deviation are over the networks that did not diverge."""
    errors = outcome.test_error[~outcome.diverged]
    return {
        "level": name,
        "seeds": outcome.seeds,
        "orders": outcome.orders,
        "test_error": outcome.test_error.tolist(),
        "mean_test_error": float(errors.mean()) if errors.size else math.nan,
        "std_test_error": float(errors.std(ddof=1)) if errors.size > 1 else math.nan,
        "diverged": [seed for seed, lost in zip(outcome.seeds, outcome.diverged, strict=True) if lost],
        "stalled": [seed for seed, never in zip(outcome.seeds, outcome.stalled, strict=True) if never],
    }


def _never_learnt(level: int, reference: int, seeds: int) -> statistics.Verdict:
    """No verdict if some networks never learnt: the difference then shows the learning rate or the initialisation, not the factor."""
    who = " and ".join([f"{level} of {seeds} networks"] * (level > 0) + [f"{reference} of {seeds} of the reference"] * (reference > 0))
    return statistics.Verdict("open", f"no comparison: {who} never learnt, so try other learning rates")


def _compare(name: str, outcome: Outcome, reference: Outcome) -> dict[str, Any]:
    kept = ~(outcome.diverged | reference.diverged)
    orders = [order for order, keep in zip(outcome.orders, kept, strict=True) if keep]
    return {
        **_describe(name, outcome),
        "paired_seeds": [seed for seed, keep in zip(outcome.seeds, kept, strict=True) if keep],
        "differences": (100 * (outcome.test_error - reference.test_error)[kept]).tolist(),
        "difference": statistics.paired_difference(outcome.test_error[kept], reference.test_error[kept], orders),
        "mcnemar": statistics.mcnemar(outcome.wrong[kept], reference.wrong[kept])._asdict(),
    }


def contradictions(factor: Mapping[str, Any]) -> list[str]:
    """The levels of a kept comparison whose difference, with its interval, isn't that of their networks' errors."""
    reference, *levels = factor.get("levels", [None])
    found = []
    for level in levels:
        kept = np.isin(level["seeds"], level["paired_seeds"])
        error, other = (np.array(row["test_error"])[kept] for row in (level, reference))
        orders = np.array(level.get("orders", [0] * len(kept)))[kept].tolist()  # files of earlier versions, with one order, don't say it
        expected = statistics.paired_difference(error, other, orders)
        if not np.allclose(expected[:4], [level["difference"][name] for name in expected._fields[:4]], equal_nan=True):
            found.append(level["level"])
    return found


def ensemble_gain(outcome: Outcome, ensembles_wrong: np.ndarray, curves: list[list[dict]], margin: float) -> dict[str, Any]:
    """Compare the ensembles, one for each order of the images, with their single members.

    With several orders, the interval is over the gains of their ensembles. With one, it is over test images: for each image, the ensemble's
    error minus the mean error of its members. So it covers other test images with these networks, but not other networks.

    Args:
      ensembles_wrong: bool (orders, N): the order's ensemble classifies the image wrongly.
      curves: from each run's test: a row for each ensemble size, with the mean error over subsets of the members.
      margin: the smallest difference in test error that matters, in percentage points.

    Returns:
      A row as of `compare`. The difference is NaN if all networks diverged; the relative cut is NaN also if some networks never learnt.
    """
    members, orders = outcome.wrong[~outcome.diverged], np.array(outcome.orders)[~outcome.diverged]
    left = np.unique(orders)  # an order in which every network diverged has no ensemble
    ensembles = ensembles_wrong[left]
    stalled, cut = int(outcome.stalled.sum()), math.nan
    if not len(members):
        difference, verdict = Difference(math.nan, math.nan, math.nan, math.nan, 0, "orders"), ALL_DIVERGED
    else:
        gains = 100 * (ensembles - np.stack([members[orders == order].mean(0) for order in left]))  # (orders, N)
        difference = statistics.mean_interval(*((gains.mean(1), "orders") if len(left) > 1 else (gains[0], "images")))
        verdict = _never_learnt(stalled, 0, len(outcome.seeds)) if stalled else statistics.verdict(difference, margin)
        if not stalled and members.any():
            cut = 1 - float(ensembles.mean() / members.mean())
    return {
        **_describe("members", outcome),
        "members": min((int((orders == order).sum()) for order in left), default=0),
        "curve": mean_curve([curves[order] for order in left] or curves),
        "ensemble_test_error": float(ensembles.mean()) if len(left) else math.nan,
        "relative_cut": cut,
        "difference": difference._asdict(),
        "verdict": verdict._asdict(),
    }


def mean_curve(curves: list[list[dict]]) -> list[dict[str, Any]]:
    """The mean of ensemble curves, each of one order of the images; `std` is then the standard deviation over orders, not over subsets."""
    if len(curves) == 1:
        return curves[0]
    rows = []
    for each in zip(*curves, strict=False):  # an order in which a network diverged has a shorter curve
        errors = {name: np.array([row[name] for row in each]) for name in ("top1_error", "top5_error")}
        means = {name: float(values.mean()) for name, values in errors.items()}
        spread = float(errors["top1_error"].std(ddof=1))
        rows.append(
            {"members": each[0]["members"], "subsets": sum(row["subsets"] for row in each), "orders": len(each), **means, "std": spread}
        )
    return rows
