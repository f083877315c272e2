"""The command that measures how changing one factor of a config changes the test error, over paired networks, with confidence intervals.

    python -m experiments.ablate --config configs/digits.py --factors lrn,augment --seeds 5 --out runs/ablation
    python -m experiments.ablate --config configs/fashion_mnist.py --factors dropout --seeds 3 --out runs/dropout --dry-run

A factor has levels, such as LRN on and LRN off. Each level is trained with the same seeds. Members with equal seeds have the same initial
weights and the same random numbers for augmentation and dropout, and all members see the same images in the same order. So the random
effects that two levels share cancel in their difference.

The order of the images is chance too. With --orders N every level is trained in N orders, each with seeds of its own, and the interval
covers other orders. For a given number of networks, many orders with one seed each give the narrowest interval: --orders 9 --seeds 1.

The best learning rate may differ between levels, above all with and without LRN. With --rates each level is trained at several rates, and
compared at the rate with its lowest validation error. With --rates auto the range of rates is widened until the best one has worse
neighbours. With several orders, the rates are chosen on networks that are not compared: those that are the best by chance would make their
level look better than it is.

Levels that differ only in hyperparameters are members of one program. A repeated command skips finished runs. statistics.py explains the
numbers.
"""

import argparse
import math

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, did_you_mean, run_cli
from experiments.ablate.factors import FACTORS
from experiments.ablate.rates import AUTO, BUDGET, first
from experiments.ablate.report import MARGIN, report, train_study
from experiments.launch import arguments
from experiments.launch.train import plan_only_here


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "python -m experiments.ablate", description="Measure the effect of one factor on the test error, over paired seeds."
    )
    config_lib.add_arguments(p)
    p.add_argument("--factors", required=True, metavar="NAME,...", help=f"factors to vary: {', '.join(FACTORS)}")
    p.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds of every level in each order (default: 5)")
    p.add_argument("--orders", type=int, default=1, metavar="N", help="orders of the images, each with seeds of its own (default: 1)")
    p.add_argument(
        "--rates",
        default="",
        metavar="RATE,...",
        help="learning rates to try, or auto: a range that is widened until the best rate has worse neighbours; each level is compared at "
        "the rate with its lowest validation error (default: the config's rate)",
    )
    p.add_argument(
        "--rate-budget", type=int, default=BUDGET, metavar="N", help=f"with --rates auto: rates of a level at most (default: {BUDGET})"
    )
    p.add_argument("--out", type=config_lib.path, required=True, metavar="DIR", help="directory for runs, tables and figures")
    p.add_argument(
        "--margin",
        type=float,
        default=MARGIN,
        metavar="POINTS",
        help=f"the smallest difference in test error that matters, in percentage points (default: {MARGIN})",
    )
    arguments.add(p)
    return p


def parse_factors(text: str) -> list[str]:
    """`lrn,augment` -> the names of the factors, without repetitions.

    Raises:
      UserError: a name is unknown, or there is none.
    """
    names = list(dict.fromkeys(filter(None, (name.strip() for name in text.split(",")))))
    for name in names:
        if name not in FACTORS:
            raise UserError(f"--factors: unknown factor {name!r}{did_you_mean(name, FACTORS)}")
    if not names:
        raise UserError(f"--factors is empty; known: {', '.join(FACTORS)}")
    return names


def parse_rates(text: str) -> list[str]:
    """`.005,.01` -> the learning rates as text, without repetitions, also of one in another spelling."""
    rates: dict[float | str, str] = {}
    for rate in filter(None, (part.strip() for part in text.split(","))):
        rates.setdefault(_as_number(rate), rate)
    return list(rates.values())


def _as_number(rate: str) -> float | str:
    try:
        return float(rate)
    except ValueError:
        return rate  # the config refuses it


def main(argv: list[str] | None = None) -> None:
    args = config_lib.parse_command_line(parser(), argv)
    names = parse_factors(args.factors)
    config_lib.load(args.config, args.overrides)
    if args.rate_budget < len(first(1)):
        raise UserError(f"--rate-budget {args.rate_budget}: the first {len(first(1))} rates don't fit into it; give a larger one")
    if not 0 < args.margin < math.inf:
        raise UserError(
            f"--margin {args.margin:g} must be positive: it is the smallest difference in test error that matters, in percentage points"
        )

    from experiments.ablate.study import make_study

    plan_only_here()
    rates, budget = ([], args.rate_budget) if args.rates == AUTO else (parse_rates(args.rates), 0)
    runs = args.out / "runs"
    study = make_study(args.config, args.overrides, names, args.seeds, runs, args.max_members, rates, budget, args.orders)
    if trained := train_study(study, args.out, args):
        report(trained, args.margin, args.out)


if __name__ == "__main__":
    run_cli(main)
