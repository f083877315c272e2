"""A study: factors of a config -> the points to train, and from their finished runs what each level makes of the test error.

A level's settings are taken relative to the config: those that it has anyway are dropped, so that the references of several factors, and
any levels that are the same network, are one point and trained once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError
from experiments.ablate.factors import FACTORS, Settings, Shape
from experiments.launch import points
from experiments.launch.points import Point, Program
from experiments.published import CLAIMS

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from experiments.ablate.comparison import Outcome
    from experiments.launch.results import Result

BASE = "as configured"


class ResolvedFactor(NamedTuple):
    """A factor's levels, the reference first, and what is to be known of them."""

    levels: dict[str, Point]
    notes: list[str]


class Study(NamedTuple):
    """What is to be trained, and how it is to be compared."""

    config: str
    overrides: tuple[str, ...]
    seeds: int
    factors: dict[str, ResolvedFactor]
    rates: tuple[str, ...]  # learning rates at which each level is tried; none: the config's
    compared: list[Program]  # the points of all factors but `ensemble`
    ensemble: list[Program]  # a run of the config's own, whose ensemble is of its seeds alone; none without that factor
    skipped: list[str]  # factors that this dataset or config can't answer, and why

    @property
    def programs(self) -> list[Program]:
        """All of them, each once."""
        return list({program.directory: program for program in (*self.compared, *self.ensemble)}.values())


def make_study(
    config: str,
    overrides: Sequence[str],
    factors: Sequence[str],
    seeds: int,
    root: Path,
    max_members: int | None = None,
    rates: Sequence[str] = (),
) -> Study:
    """Resolve factors against a config and its dataset. A factor that doesn't suit them is skipped, unless it is the only one.

    Args:
      rates: learning rates at which each level is trained, to be compared at its best by validation error; by default the config's.

    Raises:
      UserError: no factor is left, or the config makes no sense.
    """
    from alexnet_jax import data

    loaded = config_lib.load(config, overrides)
    shape = data.load(loaded.data).image_shape
    resolved, skipped, unsuited = dict[str, ResolvedFactor](), [], None
    for name in factors:
        try:
            if name == "ensemble" and seeds < 2:
                raise UserError("factor ensemble: an ensemble of one seed is none; it needs --seeds 2 or more")
            resolved[name] = resolve(name, loaded, shape)
        except UserError as error:
            skipped.append(f"skipped: {error}")
            unsuited = error
    if unsuited and not resolved:
        raise unsuited
    levels = [point for name in resolved if name != "ensemble" for point in resolved[name].levels.values()]
    distinct = {point.name: point for level in levels for point in at_rates(level, rates, loaded)}
    compared = points.pack(config, overrides, list(distinct.values()), seeds, root, max_members)
    ensemble = points.pack(config, overrides, [Point(BASE, {})], seeds, root, max_members) if "ensemble" in resolved else []
    return Study(config, tuple(overrides), seeds, resolved, tuple(rates), compared, ensemble, skipped)


def resolve(factor: str, config: "ConfigDict", shape: Shape) -> ResolvedFactor:
    """The levels of a factor as points of a config, for images of a shape (height, width, channels).

    Raises:
      UserError: the factor doesn't suit the config or the images.
    """
    levels, notes = FACTORS[factor].levels(config, shape)
    resolved = ResolvedFactor({}, list(notes))
    for name, settings in levels.items():
        point = _point(settings, config)
        for other, same in resolved.levels.items():
            if same == point:
                resolved.notes.append(f"{name!r} and {other!r} are the same settings here: null by construction, and not compared")
        resolved.levels[name] = point
    return resolved


def at_rates(point: Point, rates: Sequence[str], config: "ConfigDict") -> list[Point]:
    """A point at each of some learning rates; without any, the point itself."""
    return [_point({**point.settings, "learning_rate": rate}, config) for rate in rates] or [point]


def _point(settings: Settings, config: "ConfigDict") -> Point:
    """The point of the settings that change something, in their canonical spelling."""
    from alexnet_jax.hyper import FIELDS, SWITCHES, base_member

    base, fields = base_member(config), config_lib.flat(config)

    def changes(name: str, text: str) -> bool:
        if name in SWITCHES:
            return any(base[field] != value for field, value in SWITCHES[name][text].items())
        if name in FIELDS:
            return base[name] != float(text)
        return config_lib.convert(text, fields[name], name) != fields[name]  # type: ignore[arg-type]

    differing = {name: text for name, text in points.canonical(settings, fields).items() if changes(name, text)}
    return Point(" ".join(f"{name}={text}" for name, text in differing.items()) or BASE, differing)


def compare(study: Study, margin: float) -> list[dict[str, Any]]:
    """Each factor's question, levels, differences and verdicts, from the finished runs of a study; see comparison.py.

    Args:
      margin: the smallest difference that matters, in points.
    """
    from experiments.launch import results

    found = {result.point.name: result for result in results.collect(study.compared)}
    outcomes = {name: _outcome(result) for name, result in found.items()}
    reports = []
    for name in study.factors:
        report = {"factor": name, "question": FACTORS[name].question, "published": CLAIMS[name]}
        own = _ensemble(study, margin) if name == "ensemble" else _levels(name, study, found, outcomes, margin)
        reports.append(report | own)
    return reports


def _levels(name: str, study: Study, found: dict[str, "Result"], outcomes: dict[str, "Outcome"], margin: float) -> dict[str, Any]:
    """The levels of a factor and notes on them. `found` and `outcomes` are by the points' names."""
    from experiments.ablate import comparison

    levels, notes = study.factors[name]
    first = {point.name: level for level, point in reversed(levels.items())}  # of those that are the same point
    config = config_lib.load(study.config, study.overrides)
    compared: dict[str, str] = {}  # level -> the name of its point, at the best of the rates
    for level, point in levels.items():
        if first[point.name] == level:
            tried = at_rates(point, study.rates, config)
            compared[level] = best = min((each.name for each in tried), key=lambda each: _validation(found[each]))
            if study.rates:
                rate = study.rates[[each.name for each in tried].index(best)]
                words = ", ".join(f"{_validation_in_words(found[each.name])} at {at}" for at, each in zip(study.rates, tried, strict=True))
                at_an_end = float(rate) in (min(map(float, study.rates)), max(map(float, study.rates)))
                beyond = "; it is at an end, so a better one may lie beyond" * at_an_end
                notes = [*notes, f"{level}: at learning rate {rate}, by validation errors of {words}{beyond}"]
    rows = comparison.compare({level: outcomes[best] for level, best in compared.items()}, margin)
    for row, best in zip(rows, compared.values(), strict=True):
        row |= {"settings": found[best].point.settings, "run": str(found[best].workdir)}
    warned = [f"{level}, {warning}" for level, best in compared.items() for warning in _warnings(found[best])]
    ranges = _lrn_range(study, compared) if name in ("lrn", "order") else []
    return {"levels": rows, "notes": [*notes, *ranges, *warned]}


def _validation(result: "Result") -> tuple[int, float]:
    """What the rates of a level are ranked by: how many seeds diverged, and the mean validation error."""
    return len(result.diverged), float(result.validation_error.mean())


def _validation_in_words(result: "Result") -> str:
    lost, error = _validation(result)
    return f"{100 * error:.2f} %" + f" ({lost} diverged)" * bool(lost)


def _outcome(result: "Result") -> "Outcome":
    import numpy as np

    from alexnet_jax import run
    from experiments.ablate.comparison import Outcome

    predictions = run.load_predictions(result.workdir)
    answers = predictions["answer"][result.members]
    diverged = np.isin(result.seeds, result.diverged)
    stalled = (answers == answers[:, :1]).all(1) & ~diverged
    return Outcome(result.seeds, result.test_error, answers != predictions["label"], diverged, stalled)


def _ensemble(study: Study, margin: float) -> dict[str, Any]:
    """The curve of ensembles of 1 .. seeds networks, and what all of them gain."""
    from alexnet_jax import history, run
    from experiments.ablate import comparison
    from experiments.launch import results

    (result,) = results.collect(study.ensemble)
    predictions = run.load_predictions(result.workdir)
    test = history.load(result.workdir).test
    wrong = predictions["ensemble_answer"] != predictions["label"]
    gain = comparison.ensemble_gain(_outcome(result), wrong, test["curve"], margin)
    return {**gain, "split": test["split"], "run": str(result.workdir), "notes": _warnings(result)}


def _warnings(result: "Result") -> list[str]:
    """What a point's runs warned of and when, such as networks that did not learn by then: they count all the same."""
    from alexnet_jax import history

    seeds = dict(zip(result.members, result.seeds, strict=True))
    told: dict[str, list[str]] = {}
    for event in history.load(result.workdir).warnings:
        if event.get("member") in seeds:
            told.setdefault(event["message"], []).append(f"{seeds[event['member']]} at step {event['step']:,}")
    return [f"warned of seed {', '.join(those)}: {message}" for message, those in told.items()]


def _lrn_range(study: Study, levels: dict[str, str]) -> list[str]:
    """For each level by its point's name, how far LRN's divisor is from a constant where training starts."""
    from alexnet_jax import data
    from experiments.ablate.lrn_range import CONSTANT, deviations

    notes = []
    for program in study.compared:
        numbers = {point.name: i * program.seeds for i, point in enumerate(program.points)}
        mine = {level: numbers[point] for level, point in levels.items() if point in numbers}
        if mine:
            config = config_lib.load(program.config, program.overrides)
            found = deviations(config, data.load(config.data, config.model.pixel_mean), list(mine.values()))
            for level, deviation in zip(mine, found, strict=True):
                if deviation > CONSTANT:
                    notes.append(
                        f"{level}: where training starts, LRN divides by up to {1 + deviation:.2f} times k^beta, its smallest divisor"
                    )
                elif deviation > 0:
                    notes.append(
                        f"{level}: NULL BY CONSTRUCTION: where training starts, LRN's divisor is a constant to {100 * deviation:.2g} %; "
                        "such a level normalises nothing"
                    )
    return notes
