"""Is one setting better than another? Paired differences with their intervals, McNemar's test, Holm's correction, a verdict in words.

The main interval is the paired t over seeds. Members with equal seeds share their initialisation, dropout and augmentation draws, so what
a seed does to both settings cancels in their difference. A bootstrap over seeds would assume less, but resampling 3 to 10 values gives
intervals far too narrow, while t is made for so few. It answers: would other seeds say the same on these test images?

McNemar's test answers the other question: would other test images say the same of these networks? It pools the predictions of all seeds,
as if the same image under two seeds were two images. They aren't independent, so with several seeds its p-value is too small: it is
evidence beside the interval, not the verdict.

Errors are fractions, differences points of percent; negative is better than the reference.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """A mean difference from the reference in points of percent, its 95 % interval and its p-value; NaN where there can be none."""

    mean: float
    low: float
    high: float
    p: float
    pairs: int  # what the mean is over


class McNemar(NamedTuple):
    """The predictions on which just one of two settings is wrong."""

    only_level: int
    only_reference: int
    p: float


def paired_difference(level: np.ndarray, reference: np.ndarray) -> Difference:
    """Mean of `level - reference` over pairs of errors (n,), with the interval of the paired t-test.

    One pair has no interval. Neither have pairs whose differences are all the same, which errors counted in whole images often are: their
    spread, too small to be seen, is not zero.
    """
    from scipy import stats

    differences = 100 * (np.asarray(level, float) - np.asarray(reference, float))
    mean = float(differences.mean()) if differences.size else math.nan
    if differences.size < 2 or np.ptp(differences) < 1e-9:
        return Difference(mean, math.nan, math.nan, math.nan, differences.size)
    test = stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(mean, float(low), float(high), float(test.pvalue), differences.size)


def mcnemar(level_wrong: np.ndarray, reference_wrong: np.ndarray) -> McNemar:
    """McNemar's exact test of two bool arrays of one shape: who errs alone more often than a fair coin would have it?

    Exact for any counts: a binomial tail is quick to compute, so that the usual chi-squared approximation has no use here.
    """
    from scipy import stats

    only_level, only_reference = int(np.sum(level_wrong & ~reference_wrong)), int(np.sum(reference_wrong & ~level_wrong))
    discordant = only_level + only_reference
    p = float(stats.binomtest(only_level, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_level, only_reference, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: below 0.05, and the chance of any false alarm among all comparisons is below 0.05. NaN stays NaN."""
    adjusted, largest = [math.nan] * len(p_values), 0.0
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = largest
    return adjusted


class Verdict(NamedTuple):
    """What an interval says: `better`, `worse`, `none` (no effect of a size that matters) or `open`; and that in words."""

    kind: str
    words: str


def verdict(difference: Difference, margin: float, adjusted_p: float = math.nan, over: str = "seeds") -> Verdict:
    """Read a difference's interval.

    Args:
      difference: from the reference, in points.
      margin: the smallest effect that matters, in points: an interval around zero that lies within it says that there is none.
      adjusted_p: Holm's, where several levels were compared.
      over: what the pairs are.
    """
    mean, low, high, _, pairs = difference
    if pairs == 0:
        return Verdict("open", f"no pair of {over} to compare")
    if pairs == 1:
        return Verdict("open", f"{mean:+.2f} points with one seed: no interval, so no verdict")
    if math.isnan(low):
        return Verdict("open", f"{mean:+.2f} points with each of {pairs} {over}: they are too few for an interval")
    if low > 0 or high < 0:
        kind, (near, far) = ("worse", (low, high)) if low > 0 else ("better", (-high, -low))
        words = f"{kind} by {abs(mean):.2f} points ({near:.2f} to {far:.2f})"
        if adjusted_p > 1 - CONFIDENCE:
            return Verdict("open", f"{words}, but not once all comparisons count: p = {adjusted_p:.3g}")
        return Verdict(kind, words)
    if (most := max(-low, high)) <= margin:
        return Verdict("none", f"no effect seen: at most {most:.2f} points either way")
    return Verdict("open", f"too few {over} to tell: between {low:+.2f} and {high:+.2f} points")
