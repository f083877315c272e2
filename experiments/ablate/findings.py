"""Reads the finished runs of a study: which programs it needs next, and how its levels compare.

report.py calls it:

    longer = extended(study)         # with the programs that depend on these results: other learning rates, levels at their best ones
    reports = compare(study, 0.5)    # a dictionary for each factor: question, levels, notes
"""

from typing import TYPE_CHECKING, Any

from alexnet_jax import config as config_lib
from experiments.ablate import rates as rates_lib
from experiments.ablate.factors import FACTORS
from experiments.ablate.rates import Tried
from experiments.ablate.study import Study, at_rates
from experiments.launch.points import Program
from experiments.published import CLAIMS

if TYPE_CHECKING:
    from experiments.ablate.comparison import Outcome
    from experiments.launch.results import Result


def extended(study: Study) -> Study:
    """The study with the programs that the results of its finished ones ask for; the same study if they ask for none.

    First further learning rates of the levels whose best is the smallest or largest one tried. Then, if the networks that choose are not
    compared, those that are: each level's at its best rate, in all orders of the images.
    """
    if not any(study.rates.values()):
        return study
    tried, loaded, levels = _tried(study), study.loaded, study.levels
    more = {name: rates_lib.wider(each, study.budget) for name, each in tried.items()}
    if any(more.values()):
        wider = {point.name: point for name, rates in more.items() if rates for point in at_rates(levels[name], rates, loaded)}
        known = {point.name for program in study.searched for point in program.points}
        new = [point for point in wider.values() if point.name not in known]
        return study._replace(rates={name: (*study.rates[name], *more[name]) for name in levels}).with_searched(new)
    if not study.compared:
        chosen = [at_rates(point, [rates_lib.best(tried[name]).rate], loaded)[0] for name, point in levels.items()]
        return study.with_compared(list({point.name: point for point in chosen}.values()))
    return study


def compare(study: Study, margin: float) -> list[dict[str, Any]]:
    """Each factor's question, levels, differences and verdicts, from the finished runs of a study; see comparison.py.

    Args:
      margin: the smallest difference in test error that matters, in percentage points.
    """
    found, tried = _found(study.compared), _tried(study)
    reports = []
    for name in study.factors:
        report = {"factor": name, "question": FACTORS[name].question, "published": CLAIMS[name]}
        own = _ensemble(study, margin) if name == "ensemble" else _levels(name, study, found, tried, margin)
        reports.append(report | own)
    return reports


def _found(programs: list[Program]) -> "dict[str, tuple[Result, Outcome]]":
    """The results of the points of some programs by their names."""
    from experiments.launch import results

    return {result.point.name: (result, _outcome(result)) for result in results.collect(programs)}


def _levels(
    name: str, study: Study, found: "dict[str, tuple[Result, Outcome]]", tried: dict[str, list[Tried]], margin: float
) -> dict[str, Any]:
    """The levels of a factor and notes on them. The keys are names of points: in `found` of the compared ones, in `tried` of the levels."""
    from experiments.ablate import comparison

    levels, notes = study.factors[name]
    first = {point.name: level for level, point in reversed(levels.items())}  # the first of several levels with the same point
    compared: dict[str, str] = {}  # level -> name of its point at the best learning rate
    rates: dict[str, dict[str, Any]] = {}  # level -> what its row says of learning rates
    whose = "the validation errors" + " of the networks that choose it" * study.chooses_apart
    for level, point in levels.items():
        if first[point.name] == level:
            compared[level], rates[level] = point.name, {}
            if mine := tried[point.name]:
                best = rates_lib.best(mine)
                compared[level] = at_rates(point, [best.rate], study.loaded)[0].name
                rates[level] = {
                    "rate": best.rate,
                    "highest_rate": rates_lib.highest_that_learns(mine),
                    "tried": [each._asdict() for each in rates_lib.ascending(mine)],
                }
                words = ", ".join(each.in_words for each in rates_lib.ascending(mine))
                beyond = "; this is the smallest or largest rate tried, so another one may be better" * rates_lib.at_an_end(mine)
                notes = [*notes, f"{level}: compared at learning rate {best.rate}; {whose} are {words}{beyond}"]
    rows = comparison.compare({level: found[chosen][1] for level, chosen in compared.items()}, margin)
    for row, (level, chosen) in zip(rows, compared.items(), strict=True):
        row |= {"settings": found[chosen][0].point.settings, "runs": _runs(found[chosen][0]), **rates[level]}
    warned = [f"{level}, {warning}" for level, chosen in compared.items() for warning in _warnings(found[chosen][0])]
    ranges = _lrn_range(study, compared) if name in ("lrn", "order") else []
    return {"levels": rows, "notes": [*notes, *ranges, *warned]}


def _tried(study: Study) -> dict[str, list[Tried]]:
    """What came of each level at each of its learning rates, by the name of the level's point."""
    found, loaded = _found(study.searched), study.loaded
    tried: dict[str, list[Tried]] = {name: [] for name in study.levels}
    for name, level in study.levels.items():
        for rate, point in zip(study.rates[name], at_rates(level, study.rates[name], loaded), strict=False):
            result, outcome = found[point.name]
            tried[name].append(Tried(rate, int(outcome.diverged.sum()), int(outcome.stalled.sum()), float(result.validation_error.mean())))
    return tried


def _outcome(result: "Result") -> "Outcome":
    import numpy as np

    from experiments.ablate.comparison import Outcome
    from experiments.launch import results

    answers = results.answers(result)
    wrong = answers.classes != answers.labels
    diverged = np.isin(result.seeds, result.diverged)
    return Outcome(result.seeds, result.orders, result.test_error, wrong, diverged, results.never_learnt(result, answers))


def _ensemble(study: Study, margin: float) -> dict[str, Any]:
    """The errors of ensembles of 1 .. seeds networks, and the gain of the largest ensemble; one in each order."""
    import numpy as np

    from alexnet_jax import history, run
    from experiments.ablate import comparison
    from experiments.launch import results

    (result,) = results.collect(study.ensemble)
    predictions = [run.load_predictions(workdir) for workdir, _ in result.runs]
    tests = [history.load(workdir).test for workdir, _ in result.runs]
    wrong = np.stack([each["ensemble_answer"] != each["label"] for each in predictions])
    gain = comparison.ensemble_gain(_outcome(result), wrong, [test["curve"] for test in tests], margin)
    return {**gain, "split": tests[0]["split"], "runs": _runs(result), "notes": _warnings(result)}


def _runs(result: "Result") -> list[str]:
    return [str(workdir) for workdir, _ in result.runs]


def _warnings(result: "Result") -> list[str]:
    """The warnings of a point's runs, with their steps, such as a network that hasn't learnt yet. The results include these networks."""
    from alexnet_jax import history

    told: dict[str, list[str]] = {}
    for order, (workdir, members) in enumerate(result.runs):
        own = [seed for seed, other in zip(result.seeds, result.orders, strict=True) if other == order]
        seeds = dict(zip(members, own, strict=True))
        for event in history.load(workdir).warnings:
            if event.get("member") in seeds:
                told.setdefault(event["message"], []).append(f"{seeds[event['member']]} at step {event['step']:,}")
    return [f"the run warned about seed {', '.join(those)}: {message}" for message, those in told.items()]


def _lrn_range(study: Study, levels: dict[str, str]) -> list[str]:
    """A note for each level: how much LRN's divisor varies before training. `levels` maps a level to the name of its point."""
    from alexnet_jax import data
    from experiments.ablate.lrn_range import CONSTANT, deviations

    notes = []
    for program in (each for each in study.compared if each.order == 0):
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
