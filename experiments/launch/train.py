"""Prints the plan of an experiment, then trains the programs that aren't finished. A dry run stops after the plan.

`ablate` and `reproduce` call `train`. `sweep` has its own record and table, and uses only the plan from here:

    plan_only_here()
    if train(programs, out, args):    # False for a dry run
        ...
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_jax.errors import UserError
from alexnet_jax.tables import aligned
from experiments.launch import arguments

if TYPE_CHECKING:
    from experiments.launch.cost import Cost
    from experiments.launch.points import Program

NAMED = 4  # points that the printed plan names for each program


def plan_only_here() -> None:
    """Keep this process away from the accelerators: the processes that train need them."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def train(programs: Sequence["Program"], out: Path, args: argparse.Namespace, notes: Sequence[str] = (), later: int = 0) -> bool:
    """Print the plan and train the programs that aren't finished. A dry run only prints the plan and returns False.

    Args:
      later: networks that depend on the results of these programs and will be trained after them. A dry run tells their time too.

    Raises:
      UserError: a run failed or was stopped.
    """
    from experiments.launch import cost
    from experiments.launch.launch import launch
    from experiments.launch.progress import duration
    from experiments.launch.results import LOG

    slurm = arguments.slurm(args)
    costs = {program.directory: found for program, found in zip(programs, cost.check(programs), strict=True)}
    print("\n".join([describe(out, programs, costs), *notes]), flush=True)
    if args.dry_run:
        expected = cost.estimate(programs, costs, measure=slurm is None, retry=args.retry)
        print(f"\nestimated time, one program after the other: {expected or 'unknown'}")
        left = sum(program.members * cost.left(program.directory, costs[program.directory].steps, args.retry) for program in programs)
        if expected and later and left:
            more = expected.seconds * (left + later) / left
            print(f"with about {later} networks that depend on their results: {duration(more)}")
        return False
    errors = launch(programs, costs, args.jobs, args.retry, slurm)
    failed = {directory: error for directory, error in errors.items() if error is not None}
    for directory, error in failed.items():
        again = "repeat the command to continue; add --retry to train failed runs again"
        raise UserError(f"{len(failed)} of {len(errors)} runs did not finish; {directory.name}: {error} (see {directory / LOG}); {again}")
    return True


def describe(root: Path, programs: Sequence["Program"], costs: Mapping[Path, "Cost"]) -> str:
    """The plan in words, with the state of each program."""
    cells = [("program", "points", "members", "steps", "state")]
    for program in programs:
        steps = costs[program.directory].steps
        state = _state(program.directory, steps)
        cells.append((program.directory.name, str(len(program.points)), str(program.members), f"{steps:,}", state))
    heading, *rows = aligned(cells, "<>>><").splitlines()
    lines = [f"{root}: {size_in_words(programs)}", "", heading]
    for program, row in zip(programs, rows, strict=True):
        names = [point.name for point in program.points]
        lines += [row, "    " + "; ".join(names[:NAMED] + [f"and {len(names) - NAMED} more"] * (len(names) > NAMED))]
    return "\n".join(lines)


def size_in_words(programs: Sequence["Program"]) -> str:
    """`2 points x 3 seeds = 6 members in 1 program`; with several orders of the images `2 points x 3 orders x 3 seeds = 18 members ...`."""
    points = sum(len(program.points) for program in programs if program.order == programs[0].order)
    orders = len({program.order for program in programs})
    members, trained = sum(program.members for program in programs), f"in {_count(len(programs), 'program')}"
    if members != points * orders * programs[0].seeds:  # not every point has every order and as many seeds
        return f"{_count(members, 'member')} {trained}"
    factors = [_count(points, "point"), *([_count(orders, "order")] if orders > 1 else []), _count(programs[0].seeds, "seed")]
    return f"{' x '.join(factors)} = {_count(members, 'member')} {trained}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _state(directory: Path, steps: int) -> str:
    """The state, in words, of a run that has to do `steps` steps."""
    from experiments.launch.results import FAILURE, status

    found = status(directory)
    if found.state == "finished" and found.steps < steps:
        return f"finished {found.steps:,} steps, continues"
    match found.state:
        case "waiting":
            return "to be trained"
        case "interrupted":
            return f"continues at step {found.step:,}"
        case "failed":
            return f"failed ({FAILURE}): {found.error}"
        case state:
            return state
