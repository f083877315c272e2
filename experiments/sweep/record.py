"""The record of a sweep: its config and its programs, stored as sweep.json in the sweep's directory.

With it, a repeated command finds its runs, a different sweep in the same directory is refused, and `--table` needs neither the config file
nor the points. `experiments.sweep` writes and reads it:

    sweep = make(config, overrides, programs)
    check_directory(root, sweep)
    save(root, sweep)
    load(root).programs
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.errors import UserError
from alexnet_jax.runlog import command, writing
from experiments.launch.points import Point, Program
from experiments.launch.train import size_in_words

FILE = "sweep.json"


class SweepRecord(NamedTuple):
    """The content of sweep.json."""

    base: dict[str, Any]  # the fields of the config that all points share, without ensemble.members
    programs: list[Program]


def make(config: str, overrides: Sequence[str], programs: list[Program]) -> SweepRecord:
    """The record of programs that `points.pack` made from a config and its overrides."""
    from alexnet_jax import config as config_lib

    fields = config_lib.flat(config_lib.load(config, overrides))
    fields.pop("ensemble.members")
    return SweepRecord(json.loads(json.dumps(fields)), programs)


def load(root: Path) -> SweepRecord:
    """Read the record of a sweep.

    Raises:
      UserError: the directory holds no sweep, or sweep.json is damaged.
    """
    try:
        record = json.loads((root / FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{root} holds no sweep: it has no {FILE}; give the --out of a sweep that was started") from None
    except ValueError as error:
        raise UserError(f"{root / FILE} is damaged ({error})") from None
    programs = [
        Program(
            root / fields["directory"],
            record["config"],
            tuple(fields["overrides"]),
            tuple(Point(point["name"], point["settings"]) for point in fields["points"]),
            record["seeds"],
            fields.get("order", 0),
        )
        for fields in record["programs"]
    ]
    return SweepRecord(record["base"], programs)


def save(root: Path, sweep: SweepRecord) -> None:
    """Write a sweep's record, and the command of this process, into its directory."""
    first = sweep.programs[0]
    record = {
        "command": command(),
        "config": first.config,
        "seeds": first.seeds,
        "base": sweep.base,
        "programs": [
            {
                "directory": program.directory.name,
                "overrides": program.overrides,
                "order": program.order,
                "points": [{"name": point.name, "settings": point.settings} for point in program.points],
            }
            for program in sweep.programs
        ],
    }
    with writing(root / FILE):
        root.mkdir(parents=True, exist_ok=True)
        (root / FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check_directory(root: Path, sweep: SweepRecord) -> None:
    """Check that a directory is empty or holds this sweep.

    Raises:
      UserError: the directory holds another sweep, or other files.
    """
    from alexnet_jax.run import RESUMABLE

    if not (root / FILE).exists():
        if root.exists() and (not root.is_dir() or any(not path.name.startswith(".") for path in root.iterdir())):
            raise UserError(f"{root} exists and holds no sweep; use another --out")
        return
    found = load(root)
    for name in {**found.base, **sweep.base}:
        before, after = found.base.get(name), sweep.base.get(name)
        if before != after and name not in RESUMABLE:
            raise UserError(f"{root} holds a sweep with {name}={before}, now it is {after}; use another --out")
    before, after = ([(p.directory.name, p.points, p.seeds) for p in each.programs] for each in (found, sweep))
    if before != after:
        there, here = size_in_words(found.programs), size_in_words(sweep.programs)
        if there == here:
            here += " with other settings"
        raise UserError(f"{root} holds another sweep: {there}, now it is {here}; use another --out")
