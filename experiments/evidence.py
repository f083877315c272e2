"""The measurements behind docs/results.md in one command, the cheap ones first, each with the commands that users have.

    python -m experiments.evidence --dry-run                     what it would train, and for how long
    python -m experiments.evidence --hours 8                     train for so long, then stop; repeat it to continue
    python -m experiments.evidence --only figure1,drops
    python -m experiments.evidence --only recipe --jobs 2        on a GPU, which one of these programs doesn't fill

Fashion-MNIST must be prepared (see the README), and for `views` and `colour` the photographs (see docs/understanding.md). A piece is a
command of `ablate`, `reproduce` or `sweep`; its runs are in --out/PIECE. They are resumed, and finished pieces train nothing again. At the
end the command says how the results are put into the pages. `recipe` and `ensemble`, the last two, take days of two CPU cores, and minutes
of a large GPU.
"""

import argparse
import math
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, did_you_mean, run_cli
from alexnet_jax.tables import aligned
from alexnet_jax.train.inbox import StopSignal

POLL = 0.2  # seconds between two looks at a piece
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}  # as progress.duration writes them

NINE = "--orders 9 --seeds 1"  # of nine networks the narrowest interval, see ablate/coverage.py
LINEAR = "--config.plateau.mode=manual --config.optimizer.schedule=poly --config.optimizer.poly_power=1.0"
NARROW = "--config.model.width=0.125"
FASHION = f"--config configs/fashion_mnist.py {NARROW}"
FEW = f"{FASHION} --config.data.train_split=train[stratified:2000] --config.train.epochs=40 --config.train.checkpoint_every_epochs=20"
FEW_LINEAR = f"experiments.ablate {FEW} {LINEAR} --config.eval.every_epochs=20"
ALL = f"{FASHION} --config.train.epochs=5 --config.eval.every_epochs=2.5"
BETTER = f"--config.train.epochs=30 --config.train.batch_size=128 --config.eval.every_epochs=10 {LINEAR}"
FIGURE1 = f"experiments.reproduce figure1 {NINE}"


class Piece(NamedTuple):
    """A command without its --out, and the results that `publish` keeps: the name of each, and where it is below --out."""

    command: str
    results: dict[str, str]


PIECES = {
    "figure1": Piece(FIGURE1, {"figure1": "digits-quick/figure1"}),
    "figure1_lrn": Piece(f"{FIGURE1} --config.model.lrn=True", {"figure1_lrn": "digits-quick/figure1"}),
    "digits": Piece(
        f"experiments.ablate --config configs/digits.py {LINEAR} --factors augment,dropout,overlap,order --rates auto {NINE}",
        {"digits": "."},
    ),
    "digits_ensemble": Piece(
        f"experiments.ablate --config configs/digits.py {LINEAR} --factors ensemble --orders 5 --seeds 7", {"digits_ensemble": "."}
    ),
    "views": Piece(f"experiments.reproduce table1 --dataset photographs --scale full {NINE}", {"views": "photographs-full/table1"}),
    "colour": Piece(
        f"experiments.ablate --config configs/photographs.py --factors any_augment,colour --rates auto {NINE}", {"colour": "."}
    ),
    "precision": Piece(f"experiments.ablate --config configs/digits.py {LINEAR} --factors precision {NINE}", {"precision": "."}),
    "drops": Piece(f"experiments.ablate {FEW} --config.eval.every_epochs=2 --factors drops --rates auto {NINE}", {"drops": "."}),
    "few": Piece(f"{FEW_LINEAR} --factors activation,dropout,overlap --rates auto {NINE}", {"few": "."}),
    "few_precision": Piece(f"{FEW_LINEAR} --factors precision {NINE}", {"few_precision": "."}),
    "few_lrn": Piece(f"{FEW_LINEAR} --factors lrn,order --rates auto {NINE}", {"few_lrn": "."}),
    "parts": Piece(
        f"experiments.reproduce parts --dataset fashion_mnist --scale full {NARROW} --config.data.train_split=train[stratified:2000] "
        f"--config.train.epochs=20 --config.train.checkpoint_every_epochs=20 --config.eval.every_epochs=20 {LINEAR} --orders 5",
        {"parts": "fashion_mnist-full/parts"},
    ),
    "lrn": Piece(f"experiments.ablate {ALL} {LINEAR} --factors lrn,order --rates auto {NINE}", {"lrn": "."}),
    "augmentation": Piece(
        f"experiments.reproduce augmentation --dataset fashion_mnist --scale full {NARROW} --config.train.epochs=5 "
        f"--config.eval.every_epochs=2.5 --config.augment.rotation=10.0 {LINEAR} {NINE}",
        {
            "augmentation": "fashion_mnist-full/augmentation",
            **{f"augmentation_{size}": f"fashion_mnist-full/augmentation/{size}-images" for size in (250, 1000, 4000, 16000, 55000)},
        },
    ),
    "recipe": Piece(
        f"experiments.sweep --config configs/fashion_mnist.py {BETTER} "
        '--grid "model.width=.25,.5; learning_rate=.03,.06; dropout=.5,.25; augment.shift=0,.05"',
        {"recipe": "."},
    ),
    "ensemble": Piece(  # with the settings that `recipe` found best on the validation images
        f"experiments.reproduce ensemble --dataset fashion_mnist --scale full --orders 3 --seeds 7 {BETTER} --config.model.width=0.5 "
        "--config.optimizer.learning_rate=.03",
        {"ensemble": "fashion_mnist-full/ensemble", "ensemble_networks": "fashion_mnist-full/ensemble/networks"},
    ),
}


def words_of(name: str, out: Path, overrides: list[str], *options: str) -> list[str]:
    """The command of a piece: Python's arguments, `-m` first. Overrides replace those of the piece; the options are added to it."""
    more = [f"--config.{override}" for override in overrides]
    replaced = {override.partition("=")[0] for override in more}
    own = [word for word in shlex.split(PIECES[name].command) if word.partition("=")[0] not in replaced]
    return ["-m", *own, "--out", str(out / name), *more, *options]


def expected(output: str) -> float:
    """The seconds of the estimates in a dry run's output; a line on what depends on results replaces the one before it."""
    found: list[float] = []
    for line in output.splitlines():
        if line.startswith("estimated time"):
            found.append(_seconds(line.partition(":")[2].partition(",")[0]))
        elif line.startswith("with about") and found:
            found[-1] = _seconds(line.rpartition(":")[2])
    return sum(found)


def _seconds(duration: str) -> float:
    """`3 h 20 min` -> 12000."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"(\d+) (s|min|h|d)\b", duration))


def plan(names: list[str], out: Path, overrides: list[str]) -> None:
    """Print each piece's command and the time that its networks will take at the pace of a matrix product on this machine now."""
    rows, total = [("piece", "about", "command")], 0.0
    for name in names:
        done = subprocess.run([sys.executable, *words_of(name, out, overrides, "--dry-run")], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{name}: {done.stderr.strip().splitlines()[-1].removeprefix('error: ')}")
        seconds = expected(done.stdout)
        total += seconds
        rows.append((name, f"{seconds / 3600:.1f} h", shlex.join(["python", *words_of(name, out, overrides)])))
    print(aligned(rows, "<><"))
    print(
        f"\nin all about {total / 3600:.1f} h at the pace of a matrix product measured just now. Compilation, evaluation and other "
        "operations come on top. If other programs use this machine now, without them it would be faster"
    )


def train(name: str, out: Path, overrides: list[str], until: float, jobs: int = 1) -> bool:
    """Train a piece to its end, `jobs` programs at once, or stop it at a time of the monotonic clock; whether it came to its end.

    Raises:
      UserError: it failed.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, when the piece has saved and stopped.
    """
    at_once = ["--jobs", str(jobs)] if jobs > 1 else []
    process = subprocess.Popen([sys.executable, *words_of(name, out, overrides, *at_once)], start_new_session=True)
    with StopSignal() as stop:
        while process.poll() is None and not stop.requested and time.monotonic() < until:
            time.sleep(POLL)
        if process.poll() is None:
            process.terminate()  # no SIGINT: what is started in the background may ignore that
            process.wait()
            if not stop.requested:
                return False
    if stop.requested:
        raise KeyboardInterrupt
    if process.returncode:
        raise UserError(f"{name} failed; its message is above")
    return True


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.evidence", description="Measure everything behind the page of results.")
    parser.add_argument("--out", type=config_lib.path, default=Path("runs/evidence"), metavar="DIR", help="default: runs/evidence")
    parser.add_argument("--hours", type=float, default=math.inf, metavar="H", help="stop after so many hours; repeat to continue")
    parser.add_argument("--only", default=",".join(PIECES), metavar="PIECE,...", help=f"default: all, in this order: {', '.join(PIECES)}")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="programs of a piece that train at once, for a GPU (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="print the pieces and about how long they take, and stop")
    parser.epilog = "Any field of the pieces' configs can be changed: --config.SECTION.FIELD=VALUE."
    args = config_lib.parse_command_line(parser, argv)
    names = [name.strip() for name in args.only.split(",")]
    for name in names:
        if name not in PIECES:
            raise UserError(f"--only: unknown piece {name!r}{did_you_mean(name, PIECES)}")
    if not args.hours > 0:
        raise UserError(f"--hours is {args.hours:g}; it must be positive")
    if args.jobs < 1:
        raise UserError(f"--jobs is {args.jobs}; it must be at least 1")
    if args.dry_run:
        return plan(names, args.out, args.overrides)
    until, finished, failed = time.monotonic() + 3600 * args.hours, [], []
    for name in names:
        try:
            if not train(name, args.out, args.overrides, until, args.jobs):
                print(f"\nthe time is over during {name}; repeat the command to continue")
                break
        except UserError as error:  # the next ones may succeed, in a night that nobody watches
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed.append(name)
        else:
            finished.append(name)
    kept = [f"evidence_{result}={args.out / name / place}" for name in finished for result, place in PIECES[name].results.items()]
    if kept:
        print(f"\nto put the finished results into the pages: {shlex.join(['python', '-m', 'experiments.publish', *kept])}")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; repeat the command to continue, or leave them out with --only")


if __name__ == "__main__":
    run_cli(main)
