"""Ablations with intervals: what changing one factor of a config does to the test error, over paired seeds.

    python -m experiments.ablate --config configs/digits.py --factors lrn,augment --seeds 5 --out runs/ablation
    python -m experiments.ablate --config configs/fashion_mnist.py --factors dropout --seeds 3 --out runs/dropout --dry-run

Levels that differ in hyperparameters alone are members of one program. Members with equal seeds share initialisation, augmentation and
dropout draws, and all see the same images in the same order, so what chance does to both levels cancels in their difference. A learning
rate that suits one level may not suit another, above all with and without LRN: --rates gives each level its own. The same command again
skips what has finished. statistics.py says what the numbers mean.
"""

import argparse
import math
from pathlib import Path

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, did_you_mean, run_cli
from experiments.ablate.factors import FACTORS
from experiments.ablate.report import MARGIN, report, train_study
from experiments.launch import arguments
from experiments.launch.train import plan_only_here


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("python -m experiments.ablate", description="What one factor does to the test error, over paired seeds.")
    config_lib.add_arguments(p)
    p.add_argument("--factors", required=True, metavar="NAME,...", help=f"of {', '.join(FACTORS)}")
    p.add_argument("--seeds", type=int, default=5, metavar="N", help="of every level (default: 5)")
    p.add_argument(
        "--rates",
        default="",
        metavar="RATE,...",
        help="learning rates; each level gets that of its lowest validation error (default: the config's)",
    )
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="where runs, tables and figures go")
    p.add_argument(
        "--margin", type=float, default=MARGIN, metavar="POINTS", help=f"the smallest difference that matters (default: {MARGIN} points)"
    )
    arguments.add(p)
    return p


def parse_factors(text: str) -> list[str]:
    """`lrn,augment` -> the factors' names, each once.

    Raises:
      UserError: an unknown one, or none.
    """
    names = list(dict.fromkeys(filter(None, (name.strip() for name in text.split(",")))))
    for name in names:
        if name not in FACTORS:
            raise UserError(f"--factors: unknown factor {name!r}{did_you_mean(name, FACTORS)}")
    if not names:
        raise UserError(f"--factors is empty; known: {', '.join(FACTORS)}")
    return names


def parse_rates(text: str) -> list[str]:
    """`.005,.01` -> the learning rates as text, each once."""
    return list(dict.fromkeys(filter(None, (rate.strip() for rate in text.split(",")))))


def main(argv: list[str] | None = None) -> None:
    args = config_lib.parse_command_line(parser(), argv)
    names = parse_factors(args.factors)
    config_lib.load(args.config, args.overrides)
    if not 0 < args.margin < math.inf:
        raise UserError(f"--margin {args.margin:g} must be positive: the smallest difference in test error that matters, in points")

    from experiments.ablate.study import make_study

    plan_only_here()
    study = make_study(args.config, args.overrides, names, args.seeds, args.out / "runs", args.max_members, parse_rates(args.rates))
    if train_study(study, args.out, args):
        report(study, args.margin, args.out)


if __name__ == "__main__":
    run_cli(main)
