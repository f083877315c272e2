"""The command that measures a claim of the paper or of the study post on a dataset that you have, beside the published numbers.

    python -m experiments.reproduce lrn                                     on scikit-learn's digits, in minutes on two CPU cores
    python -m experiments.reproduce figure1 --dataset fashion_mnist
    python -m experiments.reproduce ensemble --dataset imagenet --scale full

The command reuses the finished runs below --out and trains the missing ones. It prints the published numbers, the measured numbers and the
differences between the two protocols, and writes them to a file beside the runs.

    figure1        ReLU and tanh: epochs until a training error is reached (figure1.py; the other targets are in claims.py)
    table1         top-1 and top-5 error of one network, with one view and with ten views of each image
    ensemble       errors of ensembles of 1 to 7 networks: the paper's table 2
    figure3        the filters of the first layer
    figure4        test images with their most probable classes and their nearest neighbours
    lrn            local response normalisation, its constant divisor alone, and neither
    augmentation   the error with and without augmentation against the number of training images (sizes.py)
    parts          how much an ensemble gains by other seeds, by other orders of the images, and by all (parts.py)
"""

import argparse
from pathlib import Path

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, did_you_mean, run_cli
from experiments.launch import arguments
from experiments.launch.train import plan_only_here

# Target -> the number of seeds without --seeds.
TARGETS = {"figure1": 3, "table1": 1, "ensemble": 7, "figure3": 1, "figure4": 1, "lrn": 5, "augmentation": 5, "parts": 7}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("python -m experiments.reproduce", description="Measure a published claim on a dataset that you have.")
    p.add_argument("target", metavar="TARGET", help=", ".join(TARGETS))
    p.add_argument("--dataset", default="digits", metavar="NAME", help="a prepared dataset (default: digits, which need no download)")
    p.add_argument(
        "--scale",
        choices=("quick", "full"),
        default="quick",
        help="full: the dataset's config unchanged; quick (default): fewer epochs, for some datasets fewer images or narrower networks",
    )
    p.add_argument("--seeds", type=int, metavar="N", help=f"default: {', '.join(f'{name} {count}' for name, count in TARGETS.items())}")
    p.add_argument("--orders", type=int, default=1, metavar="N", help="orders of the images, each with seeds of its own (default: 1)")
    p.add_argument("--out", type=config_lib.path, default=Path("runs/reproduce"), metavar="DIR", help="default: runs/reproduce")
    arguments.add(p)
    p.epilog = "Any field of the dataset's config can be changed: --config.SECTION.FIELD=VALUE."
    return p


def main(argv: list[str] | None = None) -> None:
    args = config_lib.parse_command_line(parser(), argv)
    if args.target not in TARGETS:
        raise UserError(f"unknown target {args.target!r}{did_you_mean(args.target, TARGETS)}")

    from alexnet_jax.runlog import command, writing
    from experiments.reproduce import claims, figure1, parts, setting, sizes

    plan_only_here()
    seeds = TARGETS[args.target] if args.seeds is None else args.seeds
    asked = setting.make(args.dataset, args.scale, seeds, args.out, args.overrides, args)
    where = {"figure1": figure1, "augmentation": sizes, "parts": parts}.get(args.target, claims)
    lines = getattr(where, args.target)(asked)
    if lines is None:
        return  # a dry run
    text = "\n".join([command(), "", *lines, f"machine: {setting.machines(asked, args.target)}"])
    path = asked.root / args.target / "result.txt"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nwritten: {path}")


if __name__ == "__main__":
    run_cli(main)
