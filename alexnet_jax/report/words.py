"""Makes the texts and tables of a report from a run's history and its config.json.

The report, the comparison of runs and the train command call it:

    print(words.results_table(history.load("runs/digits")))
"""

import json
import statistics
from collections import Counter
from typing import Any

from alexnet_jax.history import History, time_of
from alexnet_jax.report.style import COLOURS
from alexnet_jax.runlog import describe
from alexnet_jax.tables import aligned

FINISHED = {"epochs": "all epochs done", "done": "every member has plateaued"}  # by the reason of the end event
# Errors in percent (top-1, top-5) of one network and of five equal ones on ImageNet's 2012 validation images: table 2 of the 2012 paper.
PAPER_ONE, PAPER_FIVE = (40.7, 18.2), (38.1, 16.4)


def state(past: History) -> str:
    """`finished`, `stopped` or `training or interrupted`."""
    if not past.end:
        return "training or interrupted"
    return "finished" if past.end["reason"] in FINISHED else "stopped"


def status(past: History) -> str:
    """The state, with its reason or its newest step."""
    match state(past):
        case "finished":
            return f"finished, {FINISHED[past.end['reason']]}"
        case "stopped":
            return "stopped"
        case unfinished:
            return f"{unfinished}, at step {past.step:,} of {past.start['steps']:,}"


def headline(past: History) -> str:
    """The result in one sentence."""
    test = past.test
    if not test:
        return "There are no test results yet."
    if len(test["top1_error"]) == 1:
        return f"{100 * test['top1_error'][0]:.2f} % of the {test['split']} images are classified wrongly."
    single = f"{100 * test['mean_top1_error']:.2f} ± {100 * test['std_top1_error']:.2f} %"
    ensemble = f"{100 * test['ensemble_top1_error']:.2f} % for {_ensemble(test)}: {_fewer(test['relative_cut'])} errors"
    return f"{single} top-1 error on the {test['split']} images for one network, {ensemble}."


def summary(past: History, record: dict) -> list[tuple[str, str]]:
    """(label, text) pairs about the whole run."""
    start, evals, step = past.start, past.evals, past.step
    names = start["member_names"] if start["members"] <= len(COLOURS) else [start["member_names"][0], "...", start["member_names"][-1]]
    rows = [("dataset", _dataset(record["dataset"]))] if "dataset" in record else []
    rows += [
        ("members", f"{start['members']}: {', '.join(names)}"),
        ("steps", f"{step:,} of {start['steps']:,}"),
        ("epochs", f"{step / start['steps_per_epoch']:.1f} of {start['steps'] / start['steps_per_epoch']:.1f}"),
    ]
    if past.trains:
        rates = sorted(set(past.learning_rates), reverse=True)
        rows.append(("last learning rate", ", ".join(f"{rate:.3g}" for rate in rates)))
        rows.append(("speed", speed(past)))
        rows.append(("waiting for data", f"{past.waiting:.0%} of the time"))
    if evals:
        low, high = (f"{100 * bound(evals[-1]['top1_error']):.2f}" for bound in (min, max))
        rows.append((f"last {evals[-1]['split']} error", f"{low} %" if low == high else f"{low} to {high} %"))
    if past.damaged:
        rows.append(("damaged lines of the log", f"{past.damaged:,}, left out"))
    return [*rows, ("time", duration(past))]


def speed(past: History) -> str:
    """The median speed of the run: images read in a second, and for several members also images x members in a second."""
    several = f", {members_speed(past)} images x members a second" if past.start["members"] > 1 else ""
    return f"{statistics.median(past.speeds):,.0f} images/s{several}"


def members_speed(past: History) -> str:
    """The median of images x members in a second."""
    return f"{statistics.median(event['member_images_per_second'] for event in past.trains):,.0f}"


def result_rows(past: History) -> list[tuple[str, str, str]]:
    """(label, top-1, top-5) rows of the test results, with a heading first; empty if there are none yet."""
    test = past.test
    if not test:
        return []
    rows = [(f"{test['split']}, {test['count']:,} images", "top-1 error", "top-5 error")]
    for name, top1, top5 in zip(past.start["member_names"], test["top1_error"], test["top5_error"], strict=True):
        rows.append((name, f"{100 * top1:.2f} %", f"{100 * top5:.2f} %"))
    if len(rows) > 2:
        if test["diverged"]:
            rows.append((f"without {', '.join(test['diverged'])}, diverged:", "", ""))
        rows.append(("mean ± std", f"{100 * test['mean_top1_error']:.2f} ± {100 * test['std_top1_error']:.2f} %", ""))
        rows.append(("ensemble", f"{100 * test['ensemble_top1_error']:.2f} %", f"{100 * test['ensemble_top5_error']:.2f} %"))
        rows.append(("relative cut", f"{100 * test['relative_cut']:.1f} %", ""))
    return rows


def results_table(past: History) -> str:
    """The test results as plain text: the errors of each member, their mean and standard deviation, and the errors of the ensemble."""
    rows = result_rows(past)
    return aligned(rows, "<>", gap=3) if rows else f"No test results: the run is {status(past)}."


def ensemble_in_words(test: dict) -> str:
    """By how much the ensemble reduces the error, here and in the paper."""
    top1, top5 = (1 - five / one for one, five in zip(PAPER_ONE, PAPER_FIVE, strict=True))
    return (
        f"In the test, {_ensemble(test)} makes {_fewer(test['relative_cut'])} top-1 errors than one of its networks on average. "
        f"In the 2012 paper, on ImageNet, five networks reduce the top-1 error of one network from {PAPER_ONE[0]} to {PAPER_FIVE[0]} %, a "
        f"relative cut of {100 * top1:.1f} %, and the top-5 error from {PAPER_ONE[1]} to {PAPER_FIVE[1]} %, a cut of {100 * top5:.1f} %. "
        "The paper's 15.4 % is for seven networks, two of which were trained on more data."
    )


def _ensemble(test: dict) -> str:
    """The ensemble in words; networks that diverged do not belong to it."""
    lost = len(test["diverged"])
    return f"the ensemble of {len(test['top1_error']) - lost}" + (f" ({lost} diverged)" if lost else "")


def _fewer(cut: float) -> str:
    return f"{100 * abs(cut):.1f} % {'fewer' if cut >= 0 else 'more'}"


def happenings(past: History) -> list[tuple[str, str]]:
    """(time, line) of all events that are neither a point of a curve nor a checkpoint."""
    return [(f"{time_of(event):%Y-%m-%d %H:%M}", describe(event)) for event in past.happenings]


def environment(record: dict) -> list[tuple[str, str]]:
    """(label, text) pairs: the command of the run, its devices and versions."""
    rows = [("command", record["command"])] if "command" in record else []
    devices = Counter(record.get("devices", []))
    rows += [("devices", ", ".join(f"{count} x {device}" if count > 1 else device for device, count in devices.items()))] if devices else []
    return rows + list(record.get("versions", {}).items())


def recipe_differences(record: dict) -> list[tuple[str, ...]]:
    """(field, value in the study post's recipe, value in this run) of each field that differs. The recipe is configs/imagenet.py."""
    from configs import imagenet

    recipe = json.loads(imagenet.get_config().to_json())
    return field_differences([recipe, record["config"]])


def field_differences(configs: list[dict[str, dict[str, Any]]]) -> list[tuple[str, ...]]:
    """(section.field, its value in each config) of each field that differs; a dash if a config does not have the field."""
    texts = [{name: _value(value) for name, value in flat(config).items()} for config in configs]
    names = dict.fromkeys(name for fields in texts for name in fields)
    rows = [(name, *(fields.get(name, "–") for fields in texts)) for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def flat(config: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`{"section.field": value}` of a config as config.json holds it."""
    return {f"{section}.{field}": value for section, fields in config.items() for field, value in fields.items()}


def duration(past: History) -> str:
    """How long processes worked on the run: `2 h 5 min` or `3 min 20 s`."""
    minutes, seconds = divmod(round(past.seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"


def _dataset(dataset: dict) -> str:
    shape = " x ".join(map(str, dataset.get("image_shape", ())))
    splits = ", ".join(f"{size:,} {split}" for split, size in dataset.get("split_sizes", {}).items())
    return f"{dataset.get('name', '?')}: {len(dataset.get('classes', ()))} classes, {shape} pixels, {splits}"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) and value else json.dumps(value)
