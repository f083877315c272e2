"""The paper's and the study post's claims on a dataset at hand: what was published beside what is measured.

    python -m experiments.reproduce lrn                                     on scikit-learn's digits, in minutes on two CPU cores
    python -m experiments.reproduce figure1 --dataset fashion_mnist
    python -m experiments.reproduce ensemble --dataset imagenet --scale full

Trains what is missing, reuses the finished runs below --out, prints the published numbers, the measured ones and in what the protocols
differ, and writes all of it beside the runs.

    figure1        ReLU against tanh: epochs to a training error        (figure1.py, the others in claims.py)
    table1         top-1 and top-5 errors of one network, one view and ten
    ensemble       errors of 1 to 7 networks: the paper's table 2
    figure3        the filters of the first layer
    figure4        test images with their likeliest classes and their nearest neighbours
    lrn            local response normalisation on, at the wrong scale, off
    augmentation   each augmentation, on all training images and on few
"""

import argparse
from pathlib import Path

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, did_you_mean, run_cli
from experiments.launch import arguments
from experiments.launch.train import plan_only_here

# A target and how many seeds it takes unless --seeds says otherwise.
TARGETS = {"figure1": 3, "table1": 1, "ensemble": 7, "figure3": 1, "figure4": 1, "lrn": 5, "augmentation": 5}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("python -m experiments.reproduce", description="Published claims, measured on a dataset at hand.")
    p.add_argument("target", metavar="TARGET", help=", ".join(TARGETS))
    p.add_argument("--dataset", default="digits", metavar="NAME", help="a prepared one (default: digits, which need no download)")
    p.add_argument(
        "--scale", choices=("quick", "full"), default="quick", help="the dataset's config as it is: full; fewer epochs: quick (default)"
    )
    p.add_argument("--seeds", type=int, metavar="N", help=f"default: {', '.join(f'{name} {count}' for name, count in TARGETS.items())}")
    p.add_argument("--out", type=Path, default=Path("runs/reproduce"), metavar="DIR", help="default: runs/reproduce")
    arguments.add(p)
    p.epilog = "Any field of the dataset's config can be changed: --config.SECTION.FIELD=VALUE."
    return p


def main(argv: list[str] | None = None) -> None:
    args = config_lib.parse_command_line(parser(), argv)
    if args.target not in TARGETS:
        raise UserError(f"unknown target {args.target!r}{did_you_mean(args.target, TARGETS)}")

    from alexnet_jax.runlog import command, writing
    from experiments.reproduce import claims, setting
    from experiments.reproduce.figure1 import figure1

    plan_only_here()
    seeds = TARGETS[args.target] if args.seeds is None else args.seeds
    asked = setting.make(args.dataset, args.scale, seeds, args.out, args.overrides, args)
    lines = figure1(asked) if args.target == "figure1" else getattr(claims, args.target)(asked)
    if lines is None:
        return  # a dry run
    text, path = "\n".join([command(), "", *lines]), asked.root / args.target / "result.txt"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nwritten: {path}")


if __name__ == "__main__":
    run_cli(main)
