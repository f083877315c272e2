"""The results of a factor's levels -> what differs from the reference, by how much, and how sure that is. Plain data, for JSON.

Pairs are members with equal seeds. A seed whose network diverged under either level is left out of their comparison, and named.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.ablate import statistics
from experiments.ablate.statistics import Difference

ALL_DIVERGED = statistics.Verdict("open", "no comparison: every network diverged")


class Outcome(NamedTuple):
    """What the S seeds of a setting answered on N test images."""

    seeds: list[int]
    test_error: np.ndarray  # float64 (S,), fractions
    wrong: np.ndarray  # bool (S, N)
    diverged: np.ndarray  # bool (S,)
    stalled: np.ndarray  # bool (S,): the network gives every image the same answer: it never learnt


def compare(levels: Mapping[str, Outcome], margin: float) -> list[dict[str, Any]]:
    """One row a level, the reference first, which has no comparison.

    Args:
      levels: by name, all with the same seeds and test images.
      margin: the smallest difference that matters, in points.
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
    """A level by itself: its errors are those of the networks that did not diverge."""
    errors = outcome.test_error[~outcome.diverged]
    return {
        "level": name,
        "seeds": outcome.seeds,
        "test_error": outcome.test_error.tolist(),
        "mean_test_error": float(errors.mean()) if errors.size else math.nan,
        "std_test_error": float(errors.std(ddof=1)) if errors.size > 1 else math.nan,
        "diverged": [seed for seed, lost in zip(outcome.seeds, outcome.diverged, strict=True) if lost],
        "stalled": [seed for seed, never in zip(outcome.seeds, outcome.stalled, strict=True) if never],
    }


def _never_learnt(level: int, reference: int, seeds: int) -> statistics.Verdict:
    """Between networks of which some never learnt, a difference tells of the learning rate or the initialisation, not of the factor."""
    who = " and ".join([f"{level} of {seeds} networks"] * (level > 0) + [f"{reference} of {seeds} of the reference"] * (reference > 0))
    return statistics.Verdict("open", f"no comparison: {who} never learnt, so try other learning rates")


def _compare(name: str, outcome: Outcome, reference: Outcome) -> dict[str, Any]:
    kept = ~(outcome.diverged | reference.diverged)
    return {
        **_describe(name, outcome),
        "paired_seeds": [seed for seed, keep in zip(outcome.seeds, kept, strict=True) if keep],
        "differences": (100 * (outcome.test_error - reference.test_error)[kept]).tolist(),
        "difference": statistics.paired_difference(outcome.test_error[kept], reference.test_error[kept]),
        "mcnemar": statistics.mcnemar(outcome.wrong[kept], reference.wrong[kept])._asdict(),
    }


def ensemble_gain(outcome: Outcome, ensemble_wrong: np.ndarray, curve: list[dict], margin: float) -> dict[str, Any]:
    """The ensemble of all members against one of them.

    There is one ensemble, so nothing to pair over seeds: the interval is over test images, each with the ensemble's error less the mean of
    its members'. It says what other images would show of these networks, not what other networks would.

    Args:
      ensemble_wrong: bool (N,).
      curve: of the run's test: a row per ensemble size, with the mean over subsets of its members.

    Where all diverged there is no difference, and where some never learnt there is no cut to speak of: NaN.
    """
    members = outcome.wrong[~outcome.diverged]
    stalled, cut = int(outcome.stalled.sum()), math.nan
    if not len(members):
        difference, verdict = Difference(math.nan, math.nan, math.nan, math.nan, 0), ALL_DIVERGED
    else:
        difference = statistics.paired_difference(ensemble_wrong, members.mean(0))
        verdict = _never_learnt(stalled, 0, len(outcome.seeds)) if stalled else statistics.verdict(difference, margin, over="images")
        if not stalled and members.any():
            cut = 1 - float(ensemble_wrong.mean() / members.mean())
    return {
        **_describe("members", outcome),
        "members": len(members),
        "curve": curve,
        "ensemble_test_error": float(ensemble_wrong.mean()),
        "relative_cut": cut,
        "difference": difference._asdict(),
        "verdict": verdict._asdict(),
    }
