"""Reads the points of a sweep, from a grid on the command line or from a Python file. `sweep` calls it.

A grid has axes; every combination of their values is a point. This one has six points of three seeds each:

    parse_grid("learning_rate=.003,.01,.03; model.activation=relu,tanh; seeds=3")

A file has a function `sweep`, which `from_file` calls:

    def sweep(add):
        for rate in (0.003, 0.01, 0.03):
            add(learning_rate=rate, seeds=3)
        add("gentle", learning_rate=0.001, **{"model.activation": "tanh", "lrn": False})
"""

import itertools
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.errors import UserError
from experiments.launch.points import Point, number, varying


class Sweep(NamedTuple):
    """The points to train."""

    points: list[Point]
    seeds: int | None  # seeds of each point; None if not given


def parse_grid(text: str) -> Sweep:
    """Every combination of the axes `name=value,value`, which are separated by semicolons; `seeds=N` is the number of seeds of each point.

    Raises:
      UserError: an axis isn't written like this, is given twice, or has a value twice.
    """
    axes: dict[str, list[str]] = {}
    for item in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, values = (part.strip() for part in item.partition("="))
        if values.startswith("[") and values.endswith("]"):
            values = values[1:-1]
        words = _split(values)
        if not equals or not name or not all(words):
            raise UserError(f"--grid: {item!r} is not name=value,value; write for example 'learning_rate=.01,.03; seeds=3'")
        if name in axes:
            raise UserError(f"--grid: {name} is given twice; give all its values at once, as {name}={','.join([*axes[name], *words])}")
        second = next((word for word in words if re.match(r"[\w.]+=\s*[\w.\[(]", word)), None)
        if second:
            raise UserError(f"--grid: {item!r} contains the axis {second!r}: separate axes by semicolons")
        axes[name] = words
    seeds = axes.pop("seeds", None)
    if seeds is not None and len(seeds) > 1:
        raise UserError(f"--grid: seeds={','.join(seeds)}: write one number, which is the same for every point")
    if not axes and seeds is None:
        raise UserError(f"--grid {text!r} has no axis; write for example 'learning_rate=.01,.03; seeds=3'")
    rows = [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
    return Sweep(named([("", row) for row in rows]), count(seeds[0]) if seeds else None)


def from_file(path: Path) -> Sweep | None:
    """The points that a file's function `sweep(add)` adds; None if the file has no such function.

    Raises:
      UserError: the file doesn't exist, fails, or adds no point.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: --points must name a Python file that adds the points")
    rows: list[tuple[str, dict[str, str]]] = []
    seeds: set[int] = set()

    def add(name: str = "", **settings: Any) -> None:
        if "seeds" in settings:
            seeds.add(count(settings.pop("seeds")))
        rows.append((str(name), {key: _text(value, key) for key, value in settings.items()}))

    try:
        function = runpy.run_path(str(path)).get("sweep")
        if function is None:
            return None
        function(add)
    except UserError:
        raise
    except Exception as error:  # the user's own code, which may raise anything
        raise UserError(f"{path}: {type(error).__name__}: {error}") from None
    if not rows:
        raise UserError(f"{path}: sweep(add) adds no point; call add(learning_rate=.01) for each point")
    if len(seeds) > 1:
        raise UserError(
            f"{path}: seeds are {' and '.join(map(str, sorted(seeds)))}; use the same number for every point, so that points are comparable"
        )
    return Sweep(named(rows), seeds.pop() if seeds else None)


def count(value: Any) -> int:
    """A number of seeds, at least 1.

    Raises:
      UserError: the value isn't such a number.
    """
    try:
        if int(value) == float(value) >= 1:
            return int(value)
    except (TypeError, ValueError):
        pass
    raise UserError(f"seeds={value}: expected a whole number of at least 1")


def named(rows: list[tuple[str, dict[str, str]]]) -> list[Point]:
    """Points from (name, settings). A point without a name is named by those of its settings that differ between the points.

    Raises:
      UserError: two points have the same name.
    """
    points = [Point(name or label, settings) for (name, settings), label in zip(rows, labels([row for _, row in rows]), strict=True)]
    twice = next((point.name for i, point in enumerate(points) if point.name in [other.name for other in points[:i]]), None)
    if twice:
        raise UserError(f"two points are called {twice!r}; remove one, or give it another name")
    return points


def labels(rows: list[dict[str, str]]) -> list[str]:
    """Each row's settings as text; only settings that differ between the rows."""
    keys = varying(rows) or list(rows[0])
    words = short_names(keys)
    return [" ".join(f"{words[key]}={row[key]}" for key in keys if key in row) or "base" for row in rows]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Keys without their section, unless two keys would then have the same name."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def _split(values: str) -> list[str]:
    """Values separated by commas; commas within brackets don't separate."""
    return [word.strip() for word in re.split(r",(?![^(\[]*[)\]])", values)]


def _text(value: Any, key: str) -> str:
    """A Python value as it is written on the command line."""
    if isinstance(value, bool):
        return ("on" if value else "off") if "." not in key else str(value)
    return number(value) if isinstance(value, float) else str(value)
