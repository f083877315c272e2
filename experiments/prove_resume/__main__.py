"""Kill a run at random moments, start it again each time, and hold all that it leaves against an undisturbed run.

    python -m experiments.prove_resume --config configs/digits.py --kills 20 --out runs/prove_resume
    python -m experiments.prove_resume --config configs/digits.py:members=2 --kills 3 --seed 5 --config.train.epochs=2

A kill is a SIGKILL or a SIGTERM at the start, in the compilation, a step, an evaluation, the writing of a checkpoint or of the log, the
last evaluation, the test, or the report. Compared are every array of the last checkpoint (weights, momentum, plateau), every event of the
log but for times and speeds, the predictions, TensorBoard's points, the report's results, left-over files and the size on disk. The exit
code is 0 where nothing differs.
"""

import argparse
import random
import shutil
import sys
from pathlib import Path

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m experiments.prove_resume", description="Kill a run at random moments and hold it against an undisturbed one."
    )
    config_lib.add_arguments(parser)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="how often the run is killed (default: 20)")
    parser.add_argument("--seed", type=config_lib.count, default=0, help="of the moments and signals (default: 0)")
    parser.add_argument(
        "--out", type=config_lib.path, default=Path("runs/prove_resume"), metavar="DIR", help="made anew (default: runs/prove_resume)"
    )
    args = config_lib.parse_command_line(parser, argv)
    if args.kills < 1:
        raise UserError(f"--kills {args.kills} must be at least 1")
    config_lib.load(args.config, args.overrides)

    from experiments.prove_resume import compare, kills

    undisturbed, killed = args.out / "undisturbed", args.out / "killed"
    if args.out.exists() and not (undisturbed.exists() or not any(args.out.iterdir())):
        raise UserError(f"{args.out} holds something else; choose another --out")
    shutil.rmtree(args.out, ignore_errors=True)
    print(f"the undisturbed run: {undisturbed}", flush=True)
    process = kills.start(args.config, args.overrides, undisturbed)
    if process.wait():
        raise UserError(f"the undisturbed run ended with exit code {process.returncode}; its output is in {kills.output_of(undisturbed)}")
    dice = random.Random(args.seed)
    for number, kill in enumerate(kills.plan(args.kills, dice), 1):
        told = kills.carry_out(kill, args.config, args.overrides, killed, dice)
        print(f"kill {number:2} of {args.kills}: {told}", flush=True)
    process = kills.start(args.config, args.overrides, killed)
    if process.wait():
        raise UserError(f"the killed run ended with exit code {process.returncode}; its output is in {kills.output_of(killed)}")
    found = compare.differences(undisturbed, killed)
    print("\n".join(found) if found else f"after {args.kills} kills nothing differs: {compare.summary(killed)}")
    return int(bool(found))


if __name__ == "__main__":
    run_cli(main)
    sys.exit()
