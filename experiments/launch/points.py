"""Packs the points of an experiment into as few training runs as possible. `sweep`, `ablate` and `reproduce` call it.

A point is one experimental setting without its seed. Points that differ only in hyperparameters (the fields of `Hyper`) are members of one
program. Points that differ in anything else, such as the activation, need separate programs.

    points = [Point("slow", {"learning_rate": "0.01"}), Point("fast", {"learning_rate": "0.02"})]
    (program,) = pack("configs/digits.py", [], points, seeds=3, root=Path("sweeps/rates"))
    program.members    # 6
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.errors import UserError, did_you_mean

LONGEST_NAME = 80  # characters of the readable part of a directory's name, at most
CHOOSING_ORDER = 1_000_000  # the number of the order in which settings are chosen: beyond those of every comparison, also of later ones
# A setting is chosen by the mean of so many networks, at least. One network can't tell neighbouring learning rates apart. The mean of three
# has 0.58 of its standard error, and three at each of three rates already cost as much as one in each of nine orders.
CHOOSING_NETWORKS = 3


class Point(NamedTuple):
    """One experimental setting without its seed.

    A key of `settings` is a `Hyper` field (learning_rate), a switch (lrn=on|off, augment=on|off), or a config field (model.activation).
    Values are text, as on the command line. A config field that gives every member its hyperparameter, such as optimizer.learning_rate, is
    treated as that `Hyper` field.
    """

    name: str
    settings: dict[str, str]


class Program(NamedTuple):
    """One training run, with one order of the images: member `i * seeds + s` is seed number s of point number i."""

    directory: Path
    config: str  # FILE or FILE:ARG
    overrides: tuple[str, ...]  # "section.field=value"; the last one sets ensemble.members
    points: tuple[Point, ...]
    seeds: int
    order: int = 0  # the number of its order of the images

    @property
    def members(self) -> int:
        return len(self.points) * self.seeds


def pack(
    config: str,
    overrides: Sequence[str],
    points: Sequence[Point],
    seeds: int,
    root: Path,
    max_members: int | None = None,
    orders: int = 1,
    first_order: int = 0,
) -> list[Program]:
    """The programs that train every point with `seeds` seeds in each of `orders` orders of the images, in directories below `root`.

    The members of a program see the same images in the same order, so each order has programs of its own. It also has seeds of its own:
    order number o is `data.seed + o`, and its first seed is `ensemble.seed + o * seeds`. So the networks of different orders share nothing,
    and the means of the orders are independent, as the statistics need (ablate/statistics.py).

    A directory's name depends on the settings alone, so a repeated command finds its runs again, also with more orders.

    Args:
      max_members: members of one program at most, if more don't fit into memory. All seeds of a point are in the same program.
      first_order: the number of the first order; the others follow it.

    Raises:
      UserError: a setting is unknown, its value has the wrong type or is out of range, or two settings contradict each other.
    """
    from alexnet_jax import config as config_lib

    if seeds < 1:
        raise UserError(f"seeds={seeds}: each point needs at least one seed")
    if not 1 <= orders <= CHOOSING_ORDER:
        raise UserError(f"orders={orders}: the images need at least one order, and at most {CHOOSING_ORDER:,}")
    if max_members is not None and max_members < seeds:
        raise UserError(
            f"the {seeds} seeds of a point train in one program, but --max-members allows only {max_members}; raise it, or lower the seeds"
        )
    for override in overrides:
        if override.partition("=")[0] == "ensemble.members":
            raise UserError(f"--config.{override}: the experiment sets the members itself, from its points and seeds; leave this out")
    loaded = config_lib.load(config, overrides)
    _check_start(loaded.train.init_from, len(points), orders + first_order)
    fields = config_lib.flat(loaded)
    groups: dict[tuple[str, ...], list[tuple[Point, dict[str, str]]]] = {}
    for point in points:
        settings = canonical(point.settings, fields)
        if orders + first_order > 1 and "data.seed" in settings:
            raise UserError(
                f"{point.name}: data.seed can't be a setting of a point that is trained in several orders; leave one of them out"
            )
        shape = tuple(f"{name}={text}" for name, text in sorted(settings.items()) if "." in name)
        groups.setdefault(shape, []).append((point, {name: text for name, text in settings.items() if "." not in name}))
    size = max(1, (max_members or len(points) * seeds) // seeds)
    programs = []
    for order, (shape, group) in itertools.product(range(first_order, first_order + orders), groups.items()):
        own = [f"data.seed={loaded.data.seed + order}", f"ensemble.seed={loaded.ensemble.seed + order * seeds}"] if order else []
        for first in range(0, len(group), size):
            chosen, members = zip(*group[first : first + size], strict=True)
            spec = "; ".join(", ".join([f"{name}={text}" for name, text in row.items()] + [f"seeds={seeds}"]) for row in members)
            readable = [*([f"order={order}"] if order else []), *shape, *(_items(members[0]) if len(members) == 1 else [])]
            directory = root / _directory_name(readable, [*own, *shape, spec])
            programs.append(Program(directory, config, (*overrides, *own, *shape, f"ensemble.members={spec}"), chosen, seeds, order))
    return programs


def _check_start(source: str, points: int, orders: int) -> None:
    """Refuse to start several points or orders from a run of several members: member m of each program would take its member m, so the
    points would start from different networks, and the orders from the same ones.

    Raises:
      UserError: it names the run.
    """
    from alexnet_jax import history

    members = history.load(source, missing_ok=True).start.get("members", 1) if source else 1
    if members > 1 and points * orders > 1:
        raise UserError(
            f"train.init_from={source} has {members} members: points that are compared would start from different ones, and orders from "
            "the same; choose a run with one member"
        )


def pack_to_choose(
    config: str, overrides: Sequence[str], points: Sequence[Point], seeds: int, root: Path, max_members: int | None = None
) -> list[Program]:
    """The programs that train every point to choose among them; `pack` makes those that then compare the chosen ones in several orders.

    No network does both: one that is good by chance makes its point the best, and would then make it look better than it is. So these
    networks have seeds and an order of the images that `pack` gives to no comparison, however many orders are added to it later.

    Each point has CHOOSING_NETWORKS networks, or `seeds` if that is more; in one order, unless `max_members` is less than that.

    Args:
      seeds: those of each order in the comparison.
      max_members: as of `pack`, whose errors this raises.
    """
    pack(config, overrides, points, seeds, root, max_members)  # raises what is wrong with the comparison before anything is trained
    networks = max(CHOOSING_NETWORKS, seeds)
    together = max(seeds, min(networks, max_members or networks))
    return pack(config, overrides, points, together, root, max_members, math.ceil(networks / together), CHOOSING_ORDER)


def canonical(settings: dict[str, str], fields: dict[str, Any]) -> dict[str, str]:
    """Settings with canonical names and values: `{"optimizer.learning_rate": ".010"}` becomes `{"learning_rate": "0.01"}`.

    Args:
      fields: the fields of the config, `{"section.field": value}`; they define the known names and their types.

    Raises:
      UserError: a setting is unknown, its value has the wrong type or is out of range, or two settings contradict each other.
    """
    from alexnet_jax.hyper import SWITCHES

    found: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for key, text in settings.items():
        name = _name(key, fields)
        if name in found:
            raise UserError(f"{spelled[name]} and {key} are the same setting; give it once")
        found[name], spelled[name] = _value(name, str(text).strip(), fields), key
    for switch in SWITCHES:
        for field in SWITCHES[switch].get(found.get(switch, ""), {}):
            if field in found:
                raise UserError(
                    f"{switch}={found[switch]} and {spelled[field]}={settings[spelled[field]]} contradict each other: both set it"
                )
    return found


def check_distinct(points: Sequence[Point], config: str, overrides: Sequence[str]) -> None:
    """Refuse two points with the same settings.

    Raises:
      UserError: it names the two points.
    """
    from alexnet_jax import config as config_lib

    fields = config_lib.flat(config_lib.load(config, overrides))
    seen: dict[tuple, str] = {}
    for point in points:
        settings = tuple(sorted(canonical(point.settings, fields).items()))
        if settings in seen:
            raise UserError(f"the points {seen[settings]!r} and {point.name!r} have the same settings; remove one of them")
        seen[settings] = point.name


def setting_name(key: str) -> str:
    """`optimizer.learning_rate` -> `learning_rate`, the `Hyper` field that it sets for every member; other keys are unchanged."""
    from alexnet_jax.hyper import FIELDS

    section, _, field = key.rpartition(".")
    return field if section in ("optimizer", "model", "augment") and field in FIELDS else key


def number(value: float) -> str:
    """A number as text, in the shortest form that converts back to the same number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def varying(rows: Sequence[dict[str, str]]) -> list[str]:
    """The keys whose values differ between rows, in the order of their first appearance."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if len({row.get(key) for row in rows}) > 1]


def _name(key: str, fields: dict[str, Any]) -> str:
    """The canonical name of a setting."""
    from alexnet_jax.hyper import FIELDS, SWITCHES

    if key in ("seed", "seeds", "ensemble.seed", "ensemble.members"):
        raise UserError(f"{key} can't be a setting of a point: every point is trained with the same seeds; write seeds=N")
    known = [*(field for field in FIELDS if field != "seed"), *SWITCHES, *fields]
    if key not in known:
        raise UserError(f"unknown setting {key!r}{did_you_mean(key, known)}")
    return setting_name(key)


def _value(name: str, text: str, fields: dict[str, Any]) -> str:
    """The canonical text of a setting's value."""
    from alexnet_jax import config as config_lib
    from alexnet_jax.hyper import FIELDS, SWITCHES, check_range

    if name in SWITCHES:
        if text not in SWITCHES[name]:
            raise UserError(f"{name}={text}: write on or off")
        return text
    like = 0 if name == "draws" else 0.0 if name in FIELDS else fields[name]
    value = config_lib.convert(text, like, name)
    if name in FIELDS:
        check_range(name, value)  # type: ignore[arg-type]
    return number(value) if isinstance(value, float) else str(value)


def _items(settings: dict[str, str]) -> list[str]:
    return [f"{name}={text}" for name, text in settings.items()]


def _directory_name(readable: list[str], exact: list[str]) -> str:
    """Fields and values in readable form, then a digest, since different settings may have the same readable form."""
    pairs = [item.partition("=") for item in readable]
    words = ",".join(f"{name.rpartition('.')[2]}={text}" for name, _, text in pairs) or "base"
    digest = hashlib.sha256(json.dumps(exact).encode()).hexdigest()[:6]
    return f"{re.sub(r'[^A-Za-z0-9.,=_+-]+', '-', words)[:LONGEST_NAME]}-{digest}"
