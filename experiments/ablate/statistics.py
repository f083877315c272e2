"""Statistics that compare two settings: paired differences with confidence intervals, McNemar's test, Holm's correction, verdicts.

comparison.py calls it for each level of a factor:

    difference = paired_difference(level_errors, reference_errors, orders)    # errors (pairs,), orders (pairs,)
    verdict(difference, margin=0.5).words                                     # "worse by 0.80 points (0.50 to 1.10)"

A pair is two networks with the same order of the images and the same seed, one of each setting. A seed sets the initial weights and the
random numbers for dropout and augmentation. The effects that both networks of a pair share cancel in their difference.

The differences of the pairs in one order have a part in common, the effect of that order on the difference, so they are not independent.
The model is difference = effect + part of the order + part of the pair. No two orders share a seed (`launch.points.pack`), so the means of
the orders are independent, and the interval is that of the t-test over these means. It holds for any share of the two parts. If each
order has one seed, this is the t-test over pairs with independent orders and seeds. For a given number of networks that gives the
narrowest interval: nine orders with one seed each have 8 degrees of freedom, three orders with three seeds have 2.

Two alternatives were simulated (experiments/ablate/coverage.py). The t-test over all pairs, which ignores the orders, covers far too
rarely. A mixed model fitted by restricted maximum likelihood covers about right but gives nearly the same width. A bootstrap gives far too
narrow intervals for so few values.

With one order, the t-test is over its seeds, and the interval says nothing about other orders.

McNemar's test answers another question: would other test images give the same result for these networks? It pools the predictions of all
seeds, as if an image under two seeds were two images. These predictions aren't independent, so with several seeds the p-value is too small.
Therefore the verdict doesn't use it.

Errors are fractions. Differences are percentage points; a negative difference is better than the reference.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """A mean difference from the reference in percentage points, its 95 % interval and its p-value. What can't be computed is NaN."""

    mean: float
    low: float
    high: float
    p: float
    pairs: int  # number of values in the mean, each a pair or the mean of an order's pairs
    over: str = "seeds"  # what they are: seeds, orders or images


class McNemar(NamedTuple):
    """How many predictions are wrong with just one of two settings, and the test's p-value."""

    only_level: int
    only_reference: int
    p: float


def paired_difference(level: np.ndarray, reference: np.ndarray, orders: Sequence[int] = ()) -> Difference:
    """Mean of `level - reference` over pairs of errors (n,), with the interval of the paired t-test.

    There is no interval for a single value. There is none either if all values are equal. This happens often, since errors are counts of
    whole images: the true spread isn't zero, only too small to be seen.

    Args:
      orders: for each pair its order of the images. If there are several, the mean and the interval are over the means of the orders.
    """
    differences, over = 100 * (np.asarray(level, float) - np.asarray(reference, float)), "seeds"
    if len(set(orders)) > 1:
        differences, over = order_means(differences, orders), "orders"
    return mean_interval(differences, over)


def order_means(values: np.ndarray, orders: Sequence[int]) -> np.ndarray:
    """The mean of the values (n,) of each order, in the sequence in which the orders first appear."""
    return np.array([values[np.asarray(orders) == order].mean() for order in dict.fromkeys(orders)])


def mean_interval(values: np.ndarray, over: str) -> Difference:
    """The mean of independent values (n,), such as differences in percentage points, with the interval of the t-test."""
    from scipy import stats

    mean = float(values.mean()) if values.size else math.nan
    if values.size < 2 or np.ptp(values) < 1e-9:
        return Difference(mean, math.nan, math.nan, math.nan, values.size, over)
    test = stats.ttest_1samp(values, 0)
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(mean, float(low), float(high), float(test.pvalue), values.size, over)


def mcnemar(level_wrong: np.ndarray, reference_wrong: np.ndarray) -> McNemar:
    """McNemar's exact test of two bool arrays of the same shape: is one setting alone wrong more often than the other alone?

    If not, each of these predictions is like the toss of a fair coin. The binomial test is exact for any counts and fast enough, so the
    usual chi-squared approximation isn't needed.
    """
    from scipy import stats

    only_level, only_reference = int(np.sum(level_wrong & ~reference_wrong)), int(np.sum(reference_wrong & ~level_wrong))
    discordant = only_level + only_reference
    p = float(stats.binomtest(only_level, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_level, only_reference, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down correction for several comparisons; NaN stays NaN.

    If a corrected value below 0.05 counts as significant, the probability of any false positive among all comparisons is below 0.05.
    """
    adjusted, largest = [math.nan] * len(p_values), 0.0
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = largest
    return adjusted


class Verdict(NamedTuple):
    """The conclusion from an interval, in one word and in a sentence.

    The kind is `better`, `worse`, `none` (no effect that is large enough to matter) or `open` (the data don't decide).
    """

    kind: str
    words: str


def verdict(difference: Difference, margin: float, adjusted_p: float = math.nan) -> Verdict:
    """The conclusion from a difference and its interval.

    Args:
      difference: from the reference, in percentage points.
      margin: the smallest effect that matters, in points. If the interval contains zero and is within ±margin, the verdict is `none`.
      adjusted_p: the p-value after Holm's correction, if several levels were compared.
    """
    mean, low, high, _, pairs, over = difference
    if pairs == 0:
        return Verdict("open", f"no pair of {over} to compare")
    if pairs == 1:
        return Verdict("open", f"{mean:+.2f} points with one {over.removesuffix('s')}: no interval, so no verdict")
    if math.isnan(low):
        return Verdict("open", f"{mean:+.2f} points with each of {pairs} {over}: too few different values for an interval")
    if low > 0 or high < 0:
        kind, (near, far) = ("worse", (low, high)) if low > 0 else ("better", (-high, -low))
        words = f"{kind} by {abs(mean):.2f} points ({near:.2f} to {far:.2f})"
        if adjusted_p > 1 - CONFIDENCE:
            return Verdict("open", f"{words}, but not significant after Holm's correction: p = {adjusted_p:.3g}")
        return Verdict(kind, words)
    if (most := max(-low, high)) <= margin:
        return Verdict("none", f"no effect seen: at most {most:.2f} points either way")
    return Verdict("open", f"too few {over} to tell: between {low:+.2f} and {high:+.2f} points")
