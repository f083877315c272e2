"""The plan of a sweep: its programs, as they are printed before anything starts, and as JSON in the sweep's directory.

So a directory holds one sweep: a repeated command finds its runs there, another sweep is refused, and `--table` needs neither the config
file nor the points.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.errors import UserError
from alexnet_jax.runlog import writing
from alexnet_jax.tables import aligned
from experiments.launch.cost import Cost
from experiments.launch.points import Point, Program
from experiments.launch.results import FAILURE, status

PLAN = "sweep.json"
NAMED = 4  # the printed plan names so many of a program's points


class Plan(NamedTuple):
    """A sweep in its directory."""

    base: dict[str, Any]  # the config that all points share: its fields, but for ensemble.members
    programs: list[Program]


def make(config: str, overrides: Sequence[str], programs: list[Program]) -> Plan:
    """The plan of programs that were packed with a config and its overrides."""
    from alexnet_jax import config as config_lib

    fields = config_lib.flat(config_lib.load(config, overrides))
    fields.pop("ensemble.members")
    return Plan(json.loads(json.dumps(fields)), programs)


def load(root: Path) -> Plan:
    """Read a sweep's plan back.

    Raises:
      UserError: the directory holds no sweep.
    """
    try:
        record = json.loads((root / PLAN).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{root} holds no sweep: it has no {PLAN}; pass the --out of a sweep that was started") from None
    except ValueError as error:
        raise UserError(f"{root / PLAN} is damaged ({error})") from None
    programs = [
        Program(
            root / fields["directory"],
            record["config"],
            tuple(fields["overrides"]),
            tuple(Point(point["name"], point["settings"]) for point in fields["points"]),
            record["seeds"],
        )
        for fields in record["programs"]
    ]
    return Plan(record["base"], programs)


def save(root: Path, plan: Plan) -> None:
    """Write the plan into the sweep's directory."""
    first = plan.programs[0]
    record = {
        "config": first.config,
        "seeds": first.seeds,
        "base": plan.base,
        "programs": [
            {
                "directory": program.directory.name,
                "overrides": program.overrides,
                "points": [{"name": point.name, "settings": point.settings} for point in program.points],
            }
            for program in plan.programs
        ],
    }
    with writing(root / PLAN):
        root.mkdir(parents=True, exist_ok=True)
        (root / PLAN).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check_directory(root: Path, plan: Plan) -> None:
    """Hold a plan against what its directory holds.

    Raises:
      UserError: another sweep, or anything else.
    """
    from alexnet_jax.run import RESUMABLE

    if not (root / PLAN).exists():
        if root.exists() and (not root.is_dir() or any(not path.name.startswith(".") for path in root.iterdir())):
            raise UserError(f"{root} exists and holds no sweep; use another --out")
        return
    found = load(root)
    for name in {**found.base, **plan.base}:
        before, after = found.base.get(name), plan.base.get(name)
        if before != after and name not in RESUMABLE:
            raise UserError(f"{root} holds a sweep with {name}={before}, now it is {after}; use another --out")
    before, after = ([(p.directory.name, p.points, p.seeds) for p in each.programs] for each in (found, plan))
    if before != after:
        raise UserError(
            f"{root} holds another sweep: {_size(found.programs)}, now it is {_size(plan.programs)}, or others; use another --out"
        )


def describe(root: Path, programs: Sequence[Program], costs: Mapping[Path, Cost]) -> str:
    """The plan in words, with where each program stands."""
    cells = [("program", "points", "members", "steps", "state")]
    for program in programs:
        steps = costs[program.directory].steps
        state = _state(program.directory, steps)
        cells.append((program.directory.name, str(len(program.points)), str(program.members), f"{steps:,}", state))
    heading, *rows = aligned(cells, "<>>><").splitlines()
    lines = [f"{root}: {_size(programs)}", "", heading]
    for program, row in zip(programs, rows, strict=True):
        names = [point.name for point in program.points]
        lines += [row, "    " + "; ".join(names[:NAMED] + [f"and {len(names) - NAMED} more"] * (len(names) > NAMED))]
    return "\n".join(lines)


def _size(programs: Sequence[Program]) -> str:
    points, seeds = sum(len(program.points) for program in programs), programs[0].seeds
    members = f"{_count(points, 'point')} x {_count(seeds, 'seed')} = {_count(points * seeds, 'member')}"
    return f"{members} in {_count(len(programs), 'program')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _state(directory: Path, steps: int) -> str:
    """Where a run stands that shall do so many steps."""
    found = status(directory)
    if found.state == "finished" and found.steps < steps:
        return f"finished {found.steps:,} steps, goes on"
    match found.state:
        case "waiting":
            return "to be trained"
        case "interrupted":
            return f"goes on at step {found.step:,}"
        case "failed":
            return f"failed ({FAILURE}): {found.error}"
        case state:
            return state
