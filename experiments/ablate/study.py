"""A study: turns the factors of a config into points to train.

`ablate` and `reproduce` make one; report.py trains it, with what findings.py adds to it:

    study = make_study("configs/digits.py", [], ["lrn", "dropout"], seeds=5, root=out / "runs")
    study.programs    # to be trained first

Settings of a level that equal the config's are dropped. So the reference levels of several factors, and any other levels with the same
settings, are the same point, which is trained only once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError
from experiments.ablate import rates as rates_lib
from experiments.ablate.factors import FACTORS, Settings, Shape
from experiments.launch import points
from experiments.launch.points import Point, Program

if TYPE_CHECKING:
    from ml_collections import ConfigDict

BASE = "as configured"


class ResolvedFactor(NamedTuple):
    """The points of a factor's levels, by the level's name, the reference first; and notes for the reader of the results."""

    levels: dict[str, Point]
    notes: list[str]


class Study(NamedTuple):
    """The programs to train, and how their results are compared."""

    config: str
    overrides: tuple[str, ...]
    seeds: int  # of each order
    orders: int  # of the images
    factors: dict[str, ResolvedFactor]
    root: Path  # of the runs
    max_members: int | None  # of one program
    rates: dict[str, tuple[str, ...]]  # name of a level's point -> the learning rates at which it is trained; empty: the config's rate
    budget: int  # learning rates of a level at most; 0: no others than the given ones
    searched: list[Program]  # the points of all levels at all their rates, to choose the best; with one order they are also compared
    compared: list[Program]  # the points of all factors except `ensemble`; empty until the rates are chosen, with several orders
    ensemble: list[Program]  # for the factor `ensemble`: the config's own run, whose members differ only in their seeds
    skipped: list[str]  # messages about factors that don't suit this dataset or config

    @property
    def programs(self) -> list[Program]:
        """All programs, each once."""
        return list({program.directory: program for program in (*self.compared, *self.searched, *self.ensemble)}.values())

    @property
    def loaded(self) -> "ConfigDict":
        return config_lib.load(self.config, self.overrides)

    @property
    def levels(self) -> dict[str, Point]:
        """The points of all levels by their names, except those of `ensemble`."""
        return {point.name: point for factor in self.factors.values() for point in factor.levels.values() if point.name in self.rates}

    @property
    def chooses_apart(self) -> bool:
        """Whether the learning rates are chosen on networks that are not compared: there are several orders, and rates to choose from."""
        return self.orders > 1 and any(len(rates) > 1 for rates in self.rates.values())

    @property
    def choosing(self) -> int:
        """The number of networks of each learning rate on which it is chosen."""
        return sum({program.order: program.seeds for program in self.searched}.values())

    def with_searched(self, tried: Sequence[Point]) -> "Study":
        """With the programs that train these points to choose among them."""
        if not self.chooses_apart:
            longer = self.with_compared(tried)
            return longer._replace(searched=longer.compared)
        more = points.pack_to_choose(self.config, self.overrides, tried, self.seeds, self.root, self.max_members)
        return self._replace(searched=[*self.searched, *more])

    def with_compared(self, levels: Sequence[Point]) -> "Study":
        """With the programs that train these points to compare them."""
        more = points.pack(self.config, self.overrides, levels, self.seeds, self.root, self.max_members, self.orders)
        return self._replace(compared=[*self.compared, *more])


def make_study(
    config: str,
    overrides: Sequence[str],
    factors: Sequence[str],
    seeds: int,
    root: Path,
    max_members: int | None = None,
    rates: Sequence[str] = (),
    budget: int = 0,
    orders: int = 1,
) -> Study:
    """Make the study of some factors for a config and its dataset. Factors that don't suit them are skipped.

    Levels are compared at the learning rate with their lowest validation error. With several orders and rates to choose from, the networks
    that choose are not compared (`points.pack_to_choose`); `extended` then adds those that are, each level's at its best rate.

    Args:
      rates: learning rates to choose from. Empty: the config's rate.
      budget: if it isn't 0, the rates are found (rates.py), so many of a level at most, and `rates` is empty.

    Raises:
      UserError: none of the factors suits the config and its dataset, or the config is wrong.
    """
    from alexnet_jax import data

    loaded = config_lib.load(config, overrides)
    shape = data.load(loaded.data).image_shape
    resolved, skipped, unsuited = dict[str, ResolvedFactor](), [], None
    for name in factors:
        try:
            if name == "ensemble" and seeds < 2:
                raise UserError("factor ensemble: an ensemble needs several networks; it needs --seeds 2 or more")
            resolved[name] = resolve(name, loaded, shape)
        except UserError as error:
            skipped.append(f"skipped: {error}")
            unsuited = error
    if unsuited and not resolved:
        raise unsuited
    levels = [point for name in resolved if name != "ensemble" for point in resolved[name].levels.values()]
    tried = tuple(rates) or (rates_lib.first(loaded.optimizer.learning_rate) if budget else ())
    ensemble = points.pack(config, overrides, [Point(BASE, {})], seeds, root, max_members, orders) if "ensemble" in resolved else []
    per_level = {level.name: tried for level in levels}
    study = Study(config, tuple(overrides), seeds, orders, resolved, root, max_members, per_level, budget, [], [], ensemble, skipped)
    distinct = {point.name: point for level in levels for point in at_rates(level, tried, loaded)}
    return study.with_searched(list(distinct.values())) if tried else study.with_compared(list(distinct.values()))


def resolve(factor: str, config: "ConfigDict", shape: Shape) -> ResolvedFactor:
    """The levels of a factor as points, for a config and images of a shape (height, width, channels).

    Raises:
      UserError: the factor doesn't suit the config or the images.
    """
    levels, notes = FACTORS[factor].levels(config, shape)
    resolved = ResolvedFactor({}, list(notes))
    for name, settings in levels.items():
        point = _point(settings, config)
        for other, same in resolved.levels.items():
            if same == point:
                resolved.notes.append(f"{name!r} and {other!r} are the same settings here: there is nothing to compare")
        resolved.levels[name] = point
    return resolved


def at_rates(point: Point, rates: Sequence[str], config: "ConfigDict") -> list[Point]:
    """The point at each of these learning rates; the point itself if there are none."""
    return [_point({**point.settings, "learning_rate": rate}, config) for rate in rates] or [point]


def _point(settings: Settings, config: "ConfigDict") -> Point:
    """The point with only those settings that change the config, in their canonical form."""
    from alexnet_jax.hyper import FIELDS, SWITCHES, base_member

    base, fields = base_member(config), config_lib.flat(config)

    def changes(name: str, text: str) -> bool:
        if name in SWITCHES:
            return any(base[field] != value for field, value in SWITCHES[name][text].items())
        if name in FIELDS:
            return base.get(name) != float(text)
        return config_lib.convert(text, fields[name], name) != fields[name]  # type: ignore[arg-type]

    differing = {name: text for name, text in points.canonical(settings, fields).items() if changes(name, text)}
    return Point(" ".join(f"{name}={text}" for name, text in differing.items()) or BASE, differing)
