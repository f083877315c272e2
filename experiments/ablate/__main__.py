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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, did_you_mean, run_cli
from experiments.ablate.factors import FACTORS
from experiments.launch import arguments

if TYPE_CHECKING:
    from experiments.ablate.study import Study
    from experiments.launch.points import Program

MARGIN = 0.5  # points of percent


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


def plan_only_here() -> None:
    """Keep this process off the accelerators: they are for the processes that train."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def train(programs: Sequence["Program"], out: Path, args: argparse.Namespace, notes: Sequence[str] = ()) -> bool:
    """Print the plan, and unless it is a dry run train what has not finished; False for a dry run.

    Raises:
      UserError: a run failed or was stopped.
    """
    from experiments.launch import cost
    from experiments.launch.launch import launch
    from experiments.launch.results import LOG
    from experiments.sweep import plan

    slurm = arguments.slurm(args)
    costs = {program.directory: found for program, found in zip(programs, cost.check(programs), strict=True)}
    print("\n".join([plan.describe(out, programs, costs), *notes]), flush=True)
    if args.dry_run:
        expected = cost.estimate(programs, costs, measure=slurm is None, retry=args.retry)
        print(f"\nestimated time, one program after the other: {expected or 'unknown'}")
        return False
    errors = launch(programs, costs, args.jobs, args.retry, slurm)
    failed = {directory: error for directory, error in errors.items() if error is not None}
    for directory, error in failed.items():
        again = "the same command goes on, with --retry also where a run failed"
        raise UserError(f"{len(failed)} of {len(errors)} runs did not finish; {directory.name}: {error} (see {directory / LOG}); {again}")
    return True


def train_study(study: "Study", out: Path, args: argparse.Namespace) -> bool:
    """`train` of a study's programs, with its levels in the plan."""
    return train(study.programs, out, args, _plan_notes(study))


def _plan_notes(study: "Study") -> list[str]:
    lines = [""]
    for name, (levels, notes) in study.factors.items():
        lines.append(f"{name}: {'; '.join(f'{level} ({point.name})' for level, point in levels.items())}")
        lines += [f"  note: {note}" for note in notes]
    if study.rates:
        lines.append(f"each level but of `ensemble` at the learning rates {', '.join(study.rates)}")
    return lines + study.skipped


def protocol(study: "Study") -> dict[str, str]:
    """How it was measured: from the records of a study's first run."""
    from alexnet_jax import run
    from alexnet_jax.runlog import read_events
    from experiments.launch import results

    first = study.programs[0]
    record, events = run.read_config(first.directory), read_events(first.directory)
    config, dataset = record["config"], record["dataset"]
    start, test = [event for event in events if event["event"] == "start"][-1], [event["test"] for event in events if "test" in event][-1]
    seconds = sum(event["seconds"] for program in study.programs for event in read_events(program.directory) if event["event"] == "end")
    split = results.same_split(study.programs)
    return {
        "config": " ".join([first.config, *(f"--config.{override}" for override in study.overrides)]),
        "dataset": f"{dataset['name']}, {len(dataset['classes'])} classes, {' x '.join(map(str, dataset['image_shape']))} pixels",
        "training": f"{start['images']:,} images ({config['data']['train_split']}), at most {config['train']['epochs']:g} epochs, "
        f"batches of {config['train']['batch_size']}",
        "test": f"{test['count']:,} images ({test['split']}), centre crop, the networks of the last step"
        + (f"; {split} is also the split that lowers the learning rate" if split else ""),
        "seeds": f"{study.seeds}, from {config['ensemble']['seed']}: of initialisation, dropout and augmentation, not of the images' order",
        "networks": f"{sum(program.members for program in study.programs)}, programs: {len(study.programs)}, {seconds:,.0f} s of training",
        "machine": f"{', '.join(record['devices'])}; jax {record['versions']['jax']}, python {record['versions']['python']}",
    }


def main(argv: list[str] | None = None) -> None:
    args = config_lib.parse_command_line(parser(), argv)
    names = parse_factors(args.factors)
    config_lib.load(args.config, args.overrides)
    if not 0 < args.margin < math.inf:
        raise UserError(f"--margin {args.margin:g} must be positive: the smallest difference in test error that matters, in points")

    from experiments.ablate import study as studies

    plan_only_here()
    study = studies.plan(args.config, args.overrides, names, args.seeds, args.out / "runs", args.max_members, parse_rates(args.rates))
    if train_study(study, args.out, args):
        report(study, args.margin, args.out)


def report(study: "Study", margin: float, out: Path) -> dict[str, Any]:
    """Compare a study's finished runs; print the table, write it and the figures below `out`, and return what ablation.json holds."""
    from alexnet_jax.runlog import command
    from experiments.ablate import files as ablation_files
    from experiments.ablate import study as studies

    found = {
        "command": command(),
        "protocol": protocol(study),
        "margin": margin,
        "skipped": study.skipped,
        "factors": studies.compare(study, margin),
    }
    print(f"\n{ablation_files.text(found)}\n\nwritten: {', '.join(map(str, ablation_files.write(found, out)))}")
    return found


if __name__ == "__main__":
    run_cli(main)
