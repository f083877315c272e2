"""A run directory -> report.html and figures/: what was trained, how it went, and how well it does.

A new section is one function here that takes the events or the contents of config.json, one argument of `render` in `write_report`, and one
block in report.html.jinja.
"""

import io
import json
import statistics
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.runlog import describe, read_events, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, RULE = "#1f2328", "#d8dce1"  # text and strong lines; grids. The page gives both the colours of its light or dark mode
# Matplotlib's petroff10 (arXiv 2107.02270): ten colours that colour-blind readers tell apart
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
POINTS = 200  # a training curve is drawn through at most so many means, however many steps were logged
REASONS = {"epochs": "finished, all epochs done", "done": "finished, every member has plateaued", "stopped": "stopped"}


def write_report(workdir: str | Path) -> Path:
    """Write report.html and figures/curves.png and .svg into a run directory, finished or not; returns the report's path.

    Raises:
      UserError: not a run directory, or one that cannot be read or written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    workdir = Path(workdir)
    events, record = read_events(workdir), _read_config(workdir)
    if not any(event["event"] == "start" for event in events):
        raise UserError(f"{workdir} has nothing to report yet: no start event in its log")
    figure = curves_figure(events)
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    html = page.get_template("report.html.jinja").render(
        title=workdir.resolve().name,
        status=_status(events),
        headline=_headline(events),
        summary=_summary(events, record),
        curves=_inline_svg(figure),
        results=_result_rows(events),
        happenings=_happenings(events),
        environment=_environment(record),
        config=json.dumps(record["config"], indent=2) if "config" in record else None,
    )
    report = workdir / "report.html"
    with writing(report):
        (workdir / "figures").mkdir(exist_ok=True)
        figure.savefig(workdir / "figures" / "curves.png", dpi=160)
        figure.savefig(workdir / "figures" / "curves.svg")
        report.write_text(html, encoding="utf-8")
    return report


def results_table(events: list[dict]) -> str:
    """The test results as plain text: each member's errors, mean and standard deviation, the ensemble's, and the cut of the errors."""
    rows = _result_rows(events)
    if not rows:
        return f"No test results: the run is {_status(events)}."
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(f"{label:<{widths[0]}}   {top1:>{widths[1]}}   {top5:>{widths[2]}}".rstrip() for label, top1, top5 in rows)


def curves_figure(events: list[dict]) -> "Figure":
    """Training loss, evaluation error and learning rate against epochs; a triangle where a member's learning rate drops.

    Up to ten members have a colour and a name each; more are a bundle of thin lines and its mean.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    names, evals = _start(events)["member_names"], _of(events, "eval")
    evals = [event for event in evals if event["split"] == evals[0]["split"]]
    figure = Figure(figsize=(6.2, 8), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    loss, error, rate = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.25, 0.8))
    _draw_loss(loss, _of(events, "train"), names)
    _draw_error(error, evals, names)
    _draw_rate(rate, events, len(names))
    _mark_drops(error, rate, events, evals, len(names))
    for axes in (loss, error, rate):
        _style(axes)
    rate.set_xlabel("epoch", color=INK)
    handles, labels = error.get_legend_handles_labels()
    if len(handles) > 1:
        columns = max(1, 80 // (6 + max(map(len, labels))))  # as many as fit
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name may hold dollar signs
    return figure


# The figure's parts


def _draw_loss(axes: "Axes", train: list[dict], names: list[str]) -> None:
    epochs, loss = _series(train, "loss", len(names))
    if len(epochs) > POINTS:
        size = -(-len(epochs) // POINTS)
        epochs, loss = (np.stack([values[i : i + size].mean(axis=0) for i in range(0, len(values), size)]) for values in (epochs, loss))
    _draw_members(axes, epochs, loss, names)
    axes.set_title("Training loss" if train else "Training loss: none yet")
    _scale(axes, loss)


def _draw_error(axes: "Axes", evals: list[dict], names: list[str]) -> None:
    epochs, error = _series(evals, "top1_error", len(names))
    _draw_members(axes, epochs, 100 * error, names)
    _scale(axes, error)
    axes.set_title(f"{evals[0]['split'].capitalize()} top-1 error (%)" if evals else "Evaluation: none yet")
    if len(names) > 1:
        axes.plot(epochs, [100 * event["ensemble_top1_error"] for event in evals], color=INK, linewidth=2.6, label="ensemble")
    if evals and np.isfinite(last := 100 * evals[-1]["ensemble_top1_error"]):
        axes.annotate(f"{last:.1f} %", (epochs[-1], last), (6, 0), textcoords="offset points", va="center", color=INK)


def _draw_rate(axes: "Axes", events: list[dict], members: int) -> None:
    """Steps that fall exactly where the drops are, though the training events that carry the rates come less often."""
    epochs: list[float] = []
    rates: list[np.ndarray] = []
    for event in events:
        if event["event"] == "train":
            rates.append(np.array(event["learning_rate"]))
            epochs.append(event["epoch"])
        elif event["event"] == "drop" and rates:
            rates.append(rates[-1].copy())
            rates[-1][event["member"]] = event["learning_rate"]
            epochs.append(_epoch(event, events))
    values = np.array(rates, float).reshape(-1, members)
    for m in range(members):
        axes.plot(epochs, values[:, m], color=_colour(m, members), linewidth=1.5, drawstyle="steps-post")
    axes.set_title("Learning rate" if rates else "Learning rate: none yet")
    positive = values[values > 0]
    if positive.size:
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(positive.min() / 3.2, positive.max() * 3.2)  # at least one power of ten lies within
        axes.minorticks_off()
        distinct = np.unique([float(f"{rate:.3g}") for rate in positive])
        if len(distinct) <= 6 and (distinct[1:] > 3 * distinct[:-1]).all():  # room for each at its place
            axes.set_yticks(distinct, [f"{rate:g}" for rate in distinct])


def _mark_drops(error: "Axes", rate: "Axes", events: list[dict], evals: list[dict], members: int) -> None:
    """A triangle at each drop: on the curve of the member's error, and at its new learning rate."""
    epochs, errors = _series(evals, "top1_error", members)
    style: dict[str, Any] = {"marker": "v", "markersize": 6 if members <= len(COLOURS) else 3, "linestyle": "none"}
    for event in _of(events, "drop"):
        x, member = _epoch(event, events), event["member"]
        rate.plot(x, event["learning_rate"], color=_colour(member, members), **style)
        if evals:
            error.plot(x, 100 * np.interp(x, epochs, errors[:, member]), color=_colour(member, members), **style)
    if _of(events, "drop"):
        error.plot([], [], color=INK, label="rate drops", **style)


def _draw_members(axes: "Axes", epochs: np.ndarray, values: np.ndarray, names: list[str]) -> None:
    """One line a member; values (events, members)."""
    if len(names) <= len(COLOURS):
        for m, name in enumerate(names):
            axes.plot(epochs, values[:, m], color=COLOURS[m], linewidth=1.5, label=name)
    else:
        lines = axes.plot(epochs, values, color=COLOURS[0], linewidth=0.6, alpha=0.5)
        lines[0].set_label(f"{len(names)} members")
        axes.plot(epochs, np.ma.masked_invalid(values).mean(axis=1), color=COLOURS[2], linewidth=2, label="their mean")


def _scale(axes: "Axes", values: np.ndarray) -> None:
    """From zero, or where the values span more than a factor of thirty logarithmic, so that the end of a good run can be read."""
    from matplotlib.ticker import LogLocator

    positive = values[values > 0]  # which NaN is not
    if positive.size and positive.max() > 30 * positive.min():
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if positive.max() < 1000 * positive.min() else (1,)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0)


def _style(axes: "Axes") -> None:
    axes.set_title(axes.get_title(), loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_title("", loc="center")
    axes.set_facecolor("none")
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(colors=INK, length=0, labelbottom=True)


def _colour(member: int, members: int) -> str:
    return COLOURS[member if members <= len(COLOURS) else 0]


def _series(events: list[dict], field: str, members: int) -> tuple[np.ndarray, np.ndarray]:
    """Epochs (events,) and the field's values (events, members)."""
    return np.array([e["epoch"] for e in events], float), np.array([e[field] for e in events], float).reshape(-1, members)


def _inline_svg(figure: "Figure") -> str:
    """The figure as an <svg> element without a background, in the colours of the page's mode."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor="none")
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor").replace(RULE, "var(--rule)")


# The page's parts


def _headline(events: list[dict]) -> str:
    """The result in a sentence."""
    test = _end(events).get("test")
    if not test:
        return "There are no test results yet."
    if len(test["top1_error"]) == 1:
        return f"{100 * test['top1_error'][0]:.2f} % of the {test['split']} images are classified wrongly."
    single = f"{100 * test['mean_top1_error']:.2f} ± {100 * test['std_top1_error']:.2f} %"
    ensemble = f"{100 * test['ensemble_top1_error']:.2f} % for the ensemble of {len(test['top1_error'])}"
    return (
        f"{single} top-1 error on the {test['split']} images for one network, {ensemble}: {100 * test['relative_cut']:.1f} % fewer errors."
    )


def _summary(events: list[dict], record: dict) -> list[tuple[str, str]]:
    """(label, text) pairs on the run as a whole."""
    start, train, evals, step = _start(events), _of(events, "train"), _of(events, "eval"), events[-1]["step"]
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
        rows.append(("speed", f"{statistics.median(event['images_per_second'] for event in train):,.0f} images/s"))
    if evals:
        low, high = (f"{100 * bound(evals[-1]['top1_error']):.2f}" for bound in (min, max))
        rows.append((f"last {evals[-1]['split']} error", f"{low} %" if low == high else f"{low} to {high} %"))
    return [*rows, ("time", _duration(events))]


def _result_rows(events: list[dict]) -> list[tuple[str, str, str]]:
    """(label, top-1, top-5) rows of the test, the first of them the heading; none before there is a test."""
    test = _end(events).get("test")
    if not test:
        return []
    rows = [(f"{test['split']}, {test['count']:,} images", "top-1 error", "top-5 error")]
    for name, top1, top5 in zip(_start(events)["member_names"], test["top1_error"], test["top5_error"], strict=True):
        rows.append((name, f"{100 * top1:.2f} %", f"{100 * top5:.2f} %"))
    if len(rows) > 2:
        rows.append(("mean ± std", f"{100 * test['mean_top1_error']:.2f} ± {100 * test['std_top1_error']:.2f} %", ""))
        rows.append(("ensemble", f"{100 * test['ensemble_top1_error']:.2f} %", f"{100 * test['ensemble_top5_error']:.2f} %"))
        rows.append(("relative cut", f"{100 * test['relative_cut']:.1f} %", ""))
    return rows


def _happenings(events: list[dict]) -> list[tuple[str, str]]:
    """(time, line) of all that is neither a curve nor a checkpoint."""
    told = [event for event in events if event["event"] not in ("train", "eval", "checkpoint")]
    return [(f"{_time(event):%Y-%m-%d %H:%M}", describe(event)) for event in told]


def _environment(record: dict) -> list[tuple[str, str]]:
    """(label, text) pairs: how the run was started, and on what it ran."""
    rows = [("command", record["command"])] if "command" in record else []
    devices = Counter(record.get("devices", []))
    rows += [("devices", ", ".join(f"{count} x {device}" if count > 1 else device for device, count in devices.items()))] if devices else []
    return rows + list(record.get("versions", {}).items())


def _status(events: list[dict]) -> str:
    end, step, steps = _end(events), events[-1]["step"], _start(events)["steps"]
    return REASONS[end["reason"]] if end else f"still going, or was interrupted, at step {step:,} of {steps:,}"


def _duration(events: list[dict]) -> str:
    """How long processes worked on the run; the pauses before a start or a resume do not count."""
    seconds = sum((_time(b) - _time(a)).total_seconds() for a, b in pairwise(events) if b["event"] not in ("start", "resume"))
    minutes = round(seconds) // 60
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {round(seconds) % 60} s"


def _dataset(dataset: dict) -> str:
    shape, splits = (
        " x ".join(map(str, dataset["image_shape"])),
        ", ".join(f"{size:,} {split}" for split, size in dataset["split_sizes"].items()),
    )
    return f"{dataset['name']}: {len(dataset['classes'])} classes, {shape} pixels, {splits}"


# Events


def _of(events: list[dict], kind: str) -> list[dict]:
    return [event for event in events if event["event"] == kind]


def _start(events: list[dict]) -> dict:
    return _of(events, "start")[-1]


def _end(events: list[dict]) -> dict:
    """The event that ended the run; empty while it is going, also after an earlier end."""
    last = [event for event in events if event["event"] in ("start", "resume", "end")][-1]
    return last if last["event"] == "end" else {}


def _epoch(event: dict, events: list[dict]) -> float:
    return event["step"] / _start(events)["steps_per_epoch"]


def _time(event: dict) -> datetime:
    return datetime.fromisoformat(event["time"])


def _read_config(workdir: Path) -> dict:
    """config.json; empty where there is none."""
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
