"""What a run's events and its config.json say in words and numbers: the page's texts and tables. No figure, no network."""

import json
import statistics
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError
from alexnet_jax.report.style import COLOURS
from alexnet_jax.runlog import describe
from alexnet_jax.tables import aligned

REASONS = {"epochs": "finished, all epochs done", "done": "finished, every member has plateaued", "stopped": "stopped"}
# Error in percent (top-1, top-5) of one and of five equal networks on ImageNet's 2012 validation images: table 2 of the 2012 paper.
PAPER_ONE, PAPER_FIVE = (40.7, 18.2), (38.1, 16.4)


# Events


def of_kind(events: list[dict], kind: str) -> list[dict]:
    return [event for event in events if event["event"] == kind]


def start_of(events: list[dict]) -> dict:
    return of_kind(events, "start")[-1]


def end_of(events: list[dict]) -> dict:
    """The event that ended the run; empty while it is going, also after an earlier end."""
    last = [event for event in events if event["event"] in ("start", "resume", "end")][-1]
    return last if last["event"] == "end" else {}


def test_of(events: list[dict]) -> dict:
    """The results of the finished run on its test split; empty where there are none."""
    return end_of(events).get("test") or {}


def epoch_of(event: dict, events: list[dict]) -> float:
    return event["step"] / start_of(events)["steps_per_epoch"]


def speeds(events: list[dict]) -> list[float]:
    """Images a second of all members together, as each training event has it."""
    return [event["images_per_second"] for event in of_kind(events, "train")]


def time_of(event: dict) -> datetime:
    return datetime.fromisoformat(event["time"])


# Texts and tables


def status(events: list[dict]) -> str:
    end, step, steps = end_of(events), events[-1]["step"], start_of(events)["steps"]
    return REASONS[end["reason"]] if end else f"still going, or was interrupted, at step {step:,} of {steps:,}"


def headline(events: list[dict]) -> str:
    """The result in a sentence."""
    test = test_of(events)
    if not test:
        return "There are no test results yet."
    if len(test["top1_error"]) == 1:
        return f"{100 * test['top1_error'][0]:.2f} % of the {test['split']} images are classified wrongly."
    single = f"{100 * test['mean_top1_error']:.2f} ± {100 * test['std_top1_error']:.2f} %"
    ensemble = f"{100 * test['ensemble_top1_error']:.2f} % for {_ensemble(test)}: {_fewer(test['relative_cut'])} errors"
    return f"{single} top-1 error on the {test['split']} images for one network, {ensemble}."


def summary(events: list[dict], record: dict) -> list[tuple[str, str]]:
    """(label, text) pairs on the run as a whole."""
    start, train, evals, step = start_of(events), of_kind(events, "train"), of_kind(events, "eval"), events[-1]["step"]
    names = start["member_names"] if start["members"] <= len(COLOURS) else [start["member_names"][0], "...", start["member_names"][-1]]
    rows = [("dataset", _dataset(record["dataset"]))] if "dataset" in record else []
    rows += [
        ("members", f"{start['members']}: {', '.join(names)}"),
        ("steps", f"{step:,} of {start['steps']:,}"),
        ("epochs", f"{step / start['steps_per_epoch']:.1f} of {start['steps'] / start['steps_per_epoch']:.1f}"),
    ]
    if train:
        rates = sorted(set(train[-1]["learning_rate"]), reverse=True)
        rows.append(("last learning rate", ", ".join(f"{rate:.3g}" for rate in rates)))
        rows.append(("speed", f"{statistics.median(speeds(events)):,.0f} images/s"))
    if evals:
        low, high = (f"{100 * bound(evals[-1]['top1_error']):.2f}" for bound in (min, max))
        rows.append((f"last {evals[-1]['split']} error", f"{low} %" if low == high else f"{low} to {high} %"))
    return [*rows, ("time", duration(events))]


def result_rows(events: list[dict]) -> list[tuple[str, str, str]]:
    """(label, top-1, top-5) rows of the test, the first of them the heading; none before there is a test."""
    test = test_of(events)
    if not test:
        return []
    rows = [(f"{test['split']}, {test['count']:,} images", "top-1 error", "top-5 error")]
    for name, top1, top5 in zip(start_of(events)["member_names"], test["top1_error"], test["top5_error"], strict=True):
        rows.append((name, f"{100 * top1:.2f} %", f"{100 * top5:.2f} %"))
    if len(rows) > 2:
        rows.append(("mean ± std", f"{100 * test['mean_top1_error']:.2f} ± {100 * test['std_top1_error']:.2f} %", ""))
        rows.append(("ensemble", f"{100 * test['ensemble_top1_error']:.2f} %", f"{100 * test['ensemble_top5_error']:.2f} %"))
        rows.append(("relative cut", f"{100 * test['relative_cut']:.1f} %", ""))
    return rows


def results_table(events: list[dict]) -> str:
    """The test results as plain text: each member's errors, mean and standard deviation, the ensemble's, and the cut of the errors."""
    rows = result_rows(events)
    return aligned(rows, "<>", gap=3) if rows else f"No test results: the run is {status(events)}."


def ensemble_in_words(test: dict) -> str:
    """How much of the error the ensemble cut, and how much the paper's did."""
    top1, top5 = (1 - five / one for one, five in zip(PAPER_ONE, PAPER_FIVE, strict=True))
    return (
        f"In the test {_ensemble(test)} makes {_fewer(test['relative_cut'])} top-1 errors than one of its networks does on average. "
        f"In the 2012 paper, on ImageNet, five networks instead of one took the top-1 error from {PAPER_ONE[0]} to {PAPER_FIVE[0]} %, a "
        f"relative cut of {100 * top1:.1f} %, and the top-5 error from {PAPER_ONE[1]} to {PAPER_FIVE[1]} %, a cut of {100 * top5:.1f} %. "
        "Its 15.4 % with seven counts two networks that had seen more data."
    )


def _ensemble(test: dict) -> str:
    """The networks that were averaged: those that diverged have no say."""
    lost = len(test["diverged"])
    return f"the ensemble of {len(test['top1_error']) - lost}" + (f" ({lost} diverged)" if lost else "")


def _fewer(cut: float) -> str:
    return f"{100 * abs(cut):.1f} % {'fewer' if cut >= 0 else 'more'}"


def happenings(events: list[dict]) -> list[tuple[str, str]]:
    """(time, line) of all that is neither a curve nor a checkpoint."""
    told = [event for event in events if event["event"] not in ("train", "eval", "checkpoint")]
    return [(f"{time_of(event):%Y-%m-%d %H:%M}", describe(event)) for event in told]


def environment(record: dict) -> list[tuple[str, str]]:
    """(label, text) pairs: how the run was started, and on what it ran."""
    rows = [("command", record["command"])] if "command" in record else []
    devices = Counter(record.get("devices", []))
    rows += [("devices", ", ".join(f"{count} x {device}" if count > 1 else device for device, count in devices.items()))] if devices else []
    return rows + list(record.get("versions", {}).items())


def recipe_differences(record: dict) -> list[tuple[str, ...]]:
    """(field, the study post's recipe, this run) where they differ. The recipe is configs/imagenet.py, which has every field."""
    from configs import imagenet

    recipe = json.loads(imagenet.get_config().to_json())
    return field_differences([recipe, record["config"]])


def field_differences(configs: list[dict[str, dict[str, Any]]]) -> list[tuple[str, ...]]:
    """(section.field, its value in each config) where these are not all the same; a dash where a config has no such field."""
    texts = [{name: _value(value) for name, value in flat(config).items()} for config in configs]
    names = dict.fromkeys(name for fields in texts for name in fields)
    rows = [(name, *(fields.get(name, "–") for fields in texts)) for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def flat(config: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`{"section.field": value}` of a config as config.json holds it."""
    return {f"{section}.{field}": value for section, fields in config.items() for field, value in fields.items()}


def duration(events: list[dict]) -> str:
    """How long processes worked on the run; the pauses before a start or a resume do not count."""
    seconds = sum((time_of(b) - time_of(a)).total_seconds() for a, b in pairwise(events) if b["event"] not in ("start", "resume"))
    minutes = round(seconds) // 60
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {round(seconds) % 60} s"


def read_record(workdir: Path) -> dict:
    """config.json; empty where there is none."""
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _dataset(dataset: dict) -> str:
    shape, splits = (
        " x ".join(map(str, dataset["image_shape"])),
        ", ".join(f"{size:,} {split}" for split, size in dataset["split_sizes"].items()),
    )
    return f"{dataset['name']}: {len(dataset['classes'])} classes, {shape} pixels, {splits}"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) and value else json.dumps(value)
