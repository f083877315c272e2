"""Statistics against values made by hand, from tables, and from scipy's own tests."""

import math

import numpy as np
import pytest
from scipy import stats

from alexnet_jax.errors import UserError
from experiments.ablate import coverage
from experiments.ablate.statistics import Difference, holm, mcnemar, paired_difference, verdict


def test_paired_difference_by_hand():
    # Differences 1, 2, 3 points: mean 2, standard error 1 / sqrt(3), and the table's t(2) at 97.5 % is 4.3027.
    found = paired_difference(np.array([0.11, 0.12, 0.13]), np.array([0.10, 0.10, 0.10]))
    assert found.mean == pytest.approx(2)
    assert (found.low, found.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert found.pairs == 3


def test_paired_difference_is_scipys_paired_test():
    rng = np.random.default_rng(0)
    reference = rng.uniform(0.05, 0.2, 7)
    level = reference + rng.normal(0.01, 0.005, 7)
    found, known = paired_difference(level, reference), stats.ttest_rel(100 * level, 100 * reference)
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval(0.95)))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    found = [paired_difference(rng.normal(0.01, 0.02, 4), np.zeros(4)) for _ in range(1000)]
    assert np.mean([each.low <= 1 <= each.high for each in found]) == pytest.approx(0.95, abs=0.02)


def test_with_several_orders_the_test_is_over_their_means():
    level, orders = np.array([0.11, 0.13, 0.10, 0.12, 0.17, 0.19, 0.14]), [0, 0, 5, 5, 7, 7, 9]
    found = paired_difference(level, np.full(7, 0.1), orders)
    known = stats.ttest_1samp([2, 1, 8, 4], 0)
    assert found.mean == pytest.approx(3.75)
    assert found.p == pytest.approx(known.pvalue)
    assert (found.pairs, found.over) == (4, "orders")
    one = paired_difference(level, np.full(7, 0.1), [3] * 7)
    assert one == paired_difference(level, np.full(7, 0.1))
    assert (one.pairs, one.over) == (7, "seeds")


def test_what_is_simulated_is_what_is_reported():
    differences = coverage.simulate(4, 3, 0.5, 2, np.random.default_rng(0))
    assert differences.std() == pytest.approx(1, abs=0.4)
    for row, half in zip(differences, coverage.half_widths(differences)["order means"], strict=True):
        found = paired_difference(row.ravel() / 100, np.zeros(12), np.repeat(range(4), 3))
        assert (found.high - found.low) / 2 == pytest.approx(half)


@pytest.mark.slow
@pytest.mark.parametrize("share", coverage.SHARES)
@pytest.mark.parametrize(("orders", "seeds"), coverage.DESIGNS)
def test_the_interval_covers_other_orders_whatever_their_share(orders, seeds, share):
    """Within four standard errors; ignoring the orders covers less than it says as soon as they matter and have several seeds."""
    repeats = 20_000
    differences = coverage.simulate(orders, seeds, share, repeats, np.random.default_rng(0))
    covered = {name: np.mean(abs(differences.mean((1, 2))) <= half) for name, half in coverage.half_widths(differences).items()}
    assert covered["order means"] == pytest.approx(0.95, abs=4 * (0.05 * 0.95 / repeats) ** 0.5)
    if seeds > 1 and share >= 0.25:
        assert covered["all pairs"] < 0.94


def test_the_table_of_coverage_is_written(tmp_path, capsys):
    coverage.main(["--out", str(tmp_path), "--repeats", "20"])
    text = (tmp_path / "result.txt").read_text()
    assert text.count("\n9 x 1") == len(coverage.SHARES)
    assert "20 simulated ablations in each row" in capsys.readouterr().out
    with pytest.raises(UserError, match="--repeats is 1"):
        coverage.main(["--out", str(tmp_path), "--repeats", "1"])


@pytest.mark.parametrize("level", [[0.1], [0.1, 0.1, 0.1]])
def test_no_interval_from_one_pair_nor_from_equal_differences(level):
    found = paired_difference(np.array(level), np.full(len(level), 0.3))
    assert found.mean == pytest.approx(-20)
    assert math.isnan(found.low)
    assert math.isnan(found.p)


def test_mcnemar_by_hand():
    wrong, right = True, False
    # 5 images that only the level gets wrong, 1 that only the reference does: p = 2 * (1 + 6) / 2^6.
    level = np.array([wrong] * 5 + [right] + [wrong] * 4 + [right] * 10)
    reference = np.array([right] * 5 + [wrong] + [wrong] * 4 + [right] * 10)
    assert mcnemar(level, reference) == (5, 1, pytest.approx(14 / 64))
    assert mcnemar(level[None], reference[None]).p == mcnemar(reference, level).p


def test_mcnemar_of_many_agrees_with_chi_squared():
    level, reference = np.zeros(4000, bool), np.zeros(4000, bool)
    level[:1040], reference[1040:2000] = True, True
    known = stats.chi2.sf((abs(1040 - 960) - 1) ** 2 / 2000, 1)
    assert mcnemar(level, reference).p == pytest.approx(known, rel=0.01)


def test_mcnemar_of_equal_predictions():
    assert mcnemar(np.ones(3, bool), np.ones(3, bool)) == (0, 0, 1)


def test_holm():
    # The textbook example: sorted .01 x 4, .015 x 3, .03 x 2, .04 x 1, none below the one before.
    assert holm([0.03, 0.01, 0.04, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert holm([0.5, 0.9]) == [1, 1]
    adjusted = holm([math.nan, 0.02, 0.03])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.04, 0.04])


@pytest.mark.parametrize(
    ("difference", "adjusted_p", "kind", "words"),
    [
        (Difference(-0.8, -1.1, -0.5, 0.001, 5), 0.002, "better", "better by 0.80 points (0.50 to 1.10)"),
        (Difference(0.8, 0.5, 1.1, 0.001, 5), 0.002, "worse", "worse by 0.80 points (0.50 to 1.10)"),
        (
            Difference(0.8, 0.1, 1.5, 0.04, 5),
            0.12,
            "open",
            "worse by 0.80 points (0.10 to 1.50), but not significant after Holm's correction: p = 0.12",
        ),
        (Difference(0.1, -0.1, 0.3, 0.3, 5), math.nan, "none", "no effect seen: at most 0.30 points either way"),
        (Difference(0.4, -1.2, 2.0, 0.5, 3), math.nan, "open", "too few seeds to tell: between -1.20 and +2.00 points"),
        (Difference(0.4, math.nan, math.nan, math.nan, 1), math.nan, "open", "+0.40 points with one seed: no interval, so no verdict"),
        (
            Difference(0.0, math.nan, math.nan, math.nan, 2),
            math.nan,
            "open",
            "+0.00 points with each of 2 seeds: too few different values for an interval",
        ),
        (Difference(math.nan, math.nan, math.nan, math.nan, 0), math.nan, "open", "no pair of seeds to compare"),
        (Difference(0.4, -1.2, 2.0, 0.5, 3, "orders"), math.nan, "open", "too few orders to tell: between -1.20 and +2.00 points"),
    ],
)
def test_verdict(difference, adjusted_p, kind, words):
    assert verdict(difference, 0.5, adjusted_p) == (kind, words)
