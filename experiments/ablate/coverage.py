"""Simulates how often intervals for the effect of a level contain the true effect, by the design of an ablation. A command of its own.

    python -m experiments.ablate.coverage --out runs/coverage    # prints the table, writes runs/coverage/result.txt

A simulated difference is 0 + part of the order + part of the pair, both normal. Three intervals of 95 % are compared:

order means    the t-test over the means of the orders: what statistics.py does
all pairs      the t-test over all pairs, as if those of one order were independent
mixed model    restricted maximum likelihood, which has a closed form for equal numbers of seeds
"""

import argparse

import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli
from alexnet_jax.report import page
from alexnet_jax.runlog import writing
from alexnet_jax.tables import aligned
from experiments.ablate.statistics import CONFIDENCE

DESIGNS = ((3, 3), (9, 1), (5, 2), (3, 5), (15, 1))  # orders, seeds of each
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75)  # of the variance of a difference, what comes from the order
REPEATS = 20_000


def simulate(orders: int, seeds: int, share: float, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Differences (repeats, orders, seeds) of mean 0 and standard deviation 1."""
    of_order, of_pair = rng.normal(size=(repeats, orders, 1)), rng.normal(size=(repeats, orders, seeds))
    return share**0.5 * of_order + (1 - share) ** 0.5 * of_pair


def half_widths(differences: np.ndarray) -> dict[str, np.ndarray]:
    """The half widths (repeats,) of the three intervals of differences (repeats, orders, seeds)."""
    seeds = differences.shape[2]
    by_order, by_pair = _half_width(differences.mean(2)), _half_width(differences.reshape(len(differences), -1))
    found = {"order means": by_order, "all pairs": by_pair}
    if seeds > 1:
        between = seeds * differences.mean(2).var(1, ddof=1)
        within = differences.var(2, ddof=1).mean(1)
        found["mixed model"] = np.where(between > within, by_order, by_pair)  # a part of the order below 0 is estimated as 0
    return found


def _half_width(values: np.ndarray) -> np.ndarray:
    """Of the t-test's interval for the mean of each row."""
    from scipy import stats

    low, high = stats.ttest_1samp(values, 0, axis=1).confidence_interval(CONFIDENCE)
    return (high - low) / 2


def table(repeats: int = REPEATS) -> str:
    """For each design and share of the order: how often each interval contains 0, and its mean half width."""
    rng = np.random.default_rng(0)
    rows: list[tuple[str, ...]] = [("orders x seeds", "share of the order", "order means", "all pairs", "mixed model")]
    for orders, seeds in DESIGNS:
        for share in SHARES:
            differences = simulate(orders, seeds, share, repeats, rng)
            miss = abs(differences.mean((1, 2)))
            cells = [f"{100 * np.mean(miss <= half):.1f} %  ±{half.mean():.2f}" for half in half_widths(differences).values()]
            rows.append((f"{orders} x {seeds}", f"{share:.0%}", *cells, *[""] * (3 - len(cells))))
    return aligned(rows, "<>>>>", gap=3)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.ablate.coverage", description="Simulate the coverage of an ablation's intervals."
    )
    parser.add_argument("--out", type=config_lib.path, required=True, metavar="DIR", help="directory for the table")
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N", help=f"simulated ablations of each row (default: {REPEATS:,})")
    args = parser.parse_args(argv)
    if args.repeats < 2:
        raise UserError(f"--repeats is {args.repeats}; a share needs at least 2 simulated ablations")
    error = 100 * (CONFIDENCE * (1 - CONFIDENCE) / args.repeats) ** 0.5
    lines = [
        "How often the interval contains the true effect, and its mean half width, in standard deviations of one pair's difference:",
        "",
        *table(args.repeats).splitlines(),
        "",
        f"{args.repeats:,} simulated ablations in each row: the standard error of a coverage of {CONFIDENCE:.0%} is {error:.2f} points.",
    ]
    text = "\n".join(lines)
    with writing(args.out):
        args.out.mkdir(parents=True, exist_ok=True)
    page.write_result(args.out, text)
    print(f"{text}\n\nwritten: {args.out / 'result.txt'}")


if __name__ == "__main__":
    run_cli(main)
