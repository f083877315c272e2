"""The command that trains many settings, each with several seeds, in as few programs as possible, and ranks them in one table.

    python -m experiments.sweep --config configs/digits.py --grid "learning_rate=.01,.02; lrn=on,off; seeds=3" --out sweeps/rates
    python -m experiments.sweep --config configs/digits.py --points my_points.py --out sweeps/mine --dry-run
    python -m experiments.sweep --out sweeps/rates --table

Settings that differ only in hyperparameters, such as learning rates, augmentation strengths and LRN's constants, are members of one
program. Other settings need separate programs. A repeated command skips finished runs and continues interrupted ones.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli
from experiments.launch import arguments
from experiments.launch.train import describe, plan_only_here

if TYPE_CHECKING:
    from experiments.sweep.record import SweepRecord

EPILOG = """\
Points can also come from a function in a file, or in the config file itself:

    def sweep(add):
        for rate in (0.003, 0.01):
            add(learning_rate=rate, seeds=3)
        add("gentle", learning_rate=0.001, **{"model.activation": "tanh", "lrn": False})

Any field of the config can be changed for all points: --config.SECTION.FIELD=VALUE. python -m alexnet_jax.config FILE lists them.
After Ctrl-C, running trainings save and stop; repeat the command to continue. Slurm jobs are not stopped.
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "python -m experiments.sweep",
        description="Train many settings with several seeds each, in as few programs as possible, and compare their errors.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--config", metavar="FILE[:ARG=VALUE,...]", help="a config file, such as configs/digits.py")
    p.add_argument("--grid", metavar="AXES", help="'name=value,value; name=value,...; seeds=N': train every combination")
    p.add_argument("--points", type=config_lib.path, metavar="FILE", help="a Python file with a function sweep(add), which adds the points")
    p.add_argument("--seeds", type=int, metavar="N", help="seeds of every point (default: the number in the grid or the file, otherwise 1)")
    p.add_argument(
        "--orders", type=int, metavar="N", help="orders of the images; each trains every point, with seeds of its own (default: 1)"
    )
    p.add_argument("--out", type=config_lib.path, required=True, metavar="DIR", help="the sweep's directory; created if it doesn't exist")
    p.add_argument("--table", action="store_true", help="print and write the table of the finished runs, and stop")
    arguments.add(p)
    return p


def main(argv: list[str] | None = None) -> int:
    args = config_lib.parse_command_line(parser(), argv)
    from experiments.sweep import record

    if args.table:
        _refuse_with_table(args)
        _show_table(args.out, record.load(args.out).programs)
        return 0

    slurm = arguments.slurm(args)
    plan_only_here()  # called here, since it imports JAX, and --help, a wrong argument and --table don't need JAX
    from experiments.launch.cost import check, estimate
    from experiments.launch.launch import launch

    sweep = read_sweep(args)
    programs = sweep.programs
    record.check_directory(args.out, sweep)
    costs = {program.directory: cost for program, cost in zip(programs, check(programs), strict=True)}
    print(describe(args.out, programs, costs))
    expected = estimate(programs, costs, measure=slurm is None, retry=args.retry)
    unknown = "unknown: no run of this sweep has ended yet, and the speed of the devices that will train it can't be measured here"
    print(f"\nestimated time, one program after the other: {expected or unknown}", flush=True)
    if args.dry_run:
        return 0
    record.save(args.out, sweep)
    try:
        errors = launch(programs, costs, args.jobs, args.retry, slurm)
    except KeyboardInterrupt:
        _show_table(args.out, programs)
        raise
    _show_table(args.out, programs)
    return _tell_failures(errors)


def read_sweep(args: argparse.Namespace) -> "SweepRecord":
    """The sweep that the command line describes. Every point is checked.

    Raises:
      UserError: something is missing or unknown, or two arguments contradict each other.
    """
    from experiments.launch import points
    from experiments.sweep import grid, record

    if not args.config:
        raise UserError("--config is missing; give the config file that the points change, such as --config configs/digits.py")
    if args.grid and args.points:
        raise UserError("--grid and --points both define the points; leave one out")
    source = Path(config_lib.split(args.config)[0])
    config_lib.load(args.config)  # first, since its error about a mistake in the config file is the clearest
    wanted = grid.parse_grid(args.grid) if args.grid else grid.from_file(args.points or source)
    if wanted is None:
        if args.points:
            raise UserError(f"{args.points} has no function sweep(add)")
        raise UserError(f"nothing to sweep over: pass --grid or --points, or write a function sweep(add) in {source}")
    if args.seeds is not None and wanted.seeds not in (None, args.seeds):
        raise UserError(f"--seeds {args.seeds} contradicts seeds={wanted.seeds} of the {'grid' if args.grid else 'file'}; leave one out")
    _check_overrides(args.overrides, wanted.points)
    seeds = wanted.seeds if args.seeds is None else args.seeds
    programs = points.pack(
        args.config,
        args.overrides,
        wanted.points,
        1 if seeds is None else seeds,
        args.out,
        args.max_members,
        1 if args.orders is None else args.orders,
    )
    points.check_distinct(wanted.points, args.config, args.overrides)
    return record.make(args.config, args.overrides, programs)


def _check_overrides(overrides: list[str], wanted: list) -> None:
    """Refuse a field that is given twice, or given for all points although every point sets it.

    Raises:
      UserError: it names the field.
    """
    from experiments.launch.points import setting_name

    names = [override.partition("=")[0] for override in overrides]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(f"--config.{name} is given twice; give it once")
        if all(setting_name(name) in map(setting_name, point.settings) for point in wanted):
            raise UserError(
                f"--config.{overrides[i]} would have no effect, since every point sets {setting_name(name)}; leave one of the two out"
            )


def _refuse_with_table(args: argparse.Namespace) -> None:
    """`--table` reads the sweep from its directory and ignores the arguments that define one, so it refuses them.

    Raises:
      UserError: such an argument was given.
    """
    for name in ("config", "grid", "points", "seeds", "orders"):
        if getattr(args, name) is not None:
            raise UserError(f"--table shows the sweep that {args.out} holds; leave --{name} out")


def _show_table(root: Path, programs: list) -> None:
    from experiments.sweep import ranking

    found = ranking.rows(programs)
    print(f"\n{ranking.text(found)}\n\n{ranking.headline(found)}\n{ranking.caption(programs)}")
    print("written: " + ", ".join(str(path) for path in ranking.write(root, programs)))


def _tell_failures(errors: dict[Path, str | None]) -> int:
    from experiments.launch.results import LOG

    failed = {directory: error for directory, error in errors.items() if error is not None}
    for directory, error in failed.items():
        print(f"not finished: {directory.name}: {error} (see {directory / LOG})")
    if failed:
        print("repeat the command to continue stopped runs; add --retry to train failed runs again")
    return 1 if failed else 0


if __name__ == "__main__":
    run_cli(main)
