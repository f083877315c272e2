"""A study: turns the factors of a config into points to train, and their finished runs into comparisons of the levels.

`ablate` and `reproduce` call it:

    study = make_study("configs/digits.py", [], ["lrn", "dropout"], seeds=5, root=out / "runs")
    ...                                # train study.programs
    reports = compare(study, 0.5)      # a dictionary for each factor: question, levels, notes

Settings of a level that equal the config's are dropped. So the reference levels of several factors, and any other levels with the same
settings, are the same point, which is trained only once.
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
    """The points of a factor's levels, by the level's name, the reference first; and notes for the reader of the results."""

    levels: dict[str, Point]
    notes: list[str]


class Study(NamedTuple):
    """The programs to train, and how their results are compared."""

    config: str
    overrides: tuple[str, ...]
    seeds: int
    factors: dict[str, ResolvedFactor]
    rates: tuple[str, ...]  # learning rates at which each level is trained; empty: the config's rate
    compared: list[Program]  # the points of all factors except `ensemble`
    ensemble: list[Program]  # for the factor `ensemble`: the config's own run, whose members differ only in their seeds
    skipped: list[str]  # messages about factors that don't suit this dataset or config

    @property
    def programs(self) -> list[Program]:
        """All programs, each once."""
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
    """Make the study of some factors for a config and its dataset. Factors that don't suit them are skipped.

    Args:
      rates: learning rates at which each level is trained; levels are compared at the rate with their lowest validation error. Empty: the
        config's rate.

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
    distinct = {point.name: point for level in levels for point in at_rates(level, rates, loaded)}
    compared = points.pack(config, overrides, list(distinct.values()), seeds, root, max_members)
    ensemble = points.pack(config, overrides, [Point(BASE, {})], seeds, root, max_members) if "ensemble" in resolved else []
    return Study(config, tuple(overrides), seeds, resolved, tuple(rates), compared, ensemble, skipped)


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
            return base[name] != float(text)
        return config_lib.convert(text, fields[name], name) != fields[name]  # type: ignore[arg-type]

    differing = {name: text for name, text in points.canonical(settings, fields).items() if changes(name, text)}
    return Point(" ".join(f"{name}={text}" for name, text in differing.items()) or BASE, differing)


def compare(study: Study, margin: float) -> list[dict[str, Any]]:
    """Each factor's question, levels, differences and verdicts, from the finished runs of a study; see comparison.py.

    Args:
      margin: the smallest difference in test error that matters, in percentage points.
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
    """The levels of a factor and notes on them. The keys of `found` and `outcomes` are names of points."""
    from experiments.ablate import comparison

    levels, notes = study.factors[name]
    first = {point.name: level for level, point in reversed(levels.items())}  # the first of several levels with the same point
    config = config_lib.load(study.config, study.overrides)
    compared: dict[str, str] = {}  # level -> name of its point at the best learning rate
    for level, point in levels.items():
        if first[point.name] == level:
            tried = at_rates(point, study.rates, config)
            compared[level] = best = min((each.name for each in tried), key=lambda each: _validation(found[each]))
            if study.rates:
                rate = study.rates[[each.name for each in tried].index(best)]
                words = ", ".join(f"{_validation_in_words(found[each.name])} at {at}" for at, each in zip(study.rates, tried, strict=True))
                at_an_end = float(rate) in (min(map(float, study.rates)), max(map(float, study.rates)))
                beyond = "; this is the smallest or largest rate tried, so another one may be better" * at_an_end
                notes = [*notes, f"{level}: compared at learning rate {rate}; the validation errors are {words}{beyond}"]
    rows = comparison.compare({level: outcomes[best] for level, best in compared.items()}, margin)
    for row, best in zip(rows, compared.values(), strict=True):
        row |= {"settings": found[best].point.settings, "run": str(found[best].workdir)}
    warned = [f"{level}, {warning}" for level, best in compared.items() for warning in _warnings(found[best])]
    ranges = _lrn_range(study, compared) if name in ("lrn", "order") else []
    return {"levels": rows, "notes": [*notes, *ranges, *warned]}


def _validation(result: "Result") -> tuple[int, float]:
    """Learning rates are ranked by this: the number of diverged seeds, then the mean validation error."""
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
    """The errors of ensembles of 1 .. seeds networks, and the gain of the largest ensemble."""
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
    """The warnings of a point's run, with their steps, such as a network that hasn't learnt yet. The results include these networks."""
    from alexnet_jax import history

    seeds = dict(zip(result.members, result.seeds, strict=True))
    told: dict[str, list[str]] = {}
    for event in history.load(result.workdir).warnings:
        if event.get("member") in seeds:
            told.setdefault(event["message"], []).append(f"{seeds[event['member']]} at step {event['step']:,}")
    return [f"the run warned about seed {', '.join(those)}: {message}" for message, those in told.items()]


def _lrn_range(study: Study, levels: dict[str, str]) -> list[str]:
    """A note for each level: how much LRN's divisor varies before training. `levels` maps a level to the name of its point."""
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
                    notes.append(f"{level}: before training, LRN divides by up to {1 + deviation:.2f} times k^beta, its smallest divisor")
                elif deviation > 0:
                    notes.append(
                        f"{level}: NO NORMALISATION: before training, LRN's divisor varies by {100 * deviation:.2g} % only, so LRN "
                        "multiplies by a constant"
                    )
    return notes
