"""Draws the curves of a run from its history: training loss, evaluation error, learning rate and speed.

The report (write.py) calls it, and compare.py uses its parts:

    figure = curves_figure(history.load("runs/digits"))
"""

import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax.history import History
from alexnet_jax.report.style import COLOURS, INK, WIDTH, member_colour, printable, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 200  # a training curve has at most this many points, each the mean of neighbouring events


def curves_figure(past: History) -> "Figure":
    """Training loss, evaluation error and learning rate against epochs; a triangle marks each drop of a member's learning rate.

    Up to ten members have a colour and a name each. More members are thin lines of one colour, with their mean.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    names = [printable(name) for name in past.start["member_names"]]
    evals = [event for event in past.evals if event["split"] == past.evals[0]["split"]]
    figure = Figure(figsize=(WIDTH, 8), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    loss, error, rate = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.25, 0.8))
    _draw_loss(loss, past.trains, names)
    _draw_error(error, evals, names)
    _draw_rate(rate, past, len(names))
    _mark_drops(error, rate, past, evals, len(names))
    for axes in (loss, error, rate):
        style_axes(axes)
    rate.set_xlabel("epoch", color=INK)
    handles, labels = error.get_legend_handles_labels()
    if len(handles) > 1:
        columns = max(1, 80 // (6 + max(map(len, labels))))  # as many as fit
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name may contain dollar signs
    return figure


def throughput_figure(past: History) -> "Figure":
    """Images that the run reads in a second, against epochs, with the median as a line."""
    from matplotlib.figure import Figure

    epochs, values = np.array([event["epoch"] for event in past.trains]), np.array(past.speeds)
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, values, color=COLOURS[0], linewidth=1.5, marker=".", markersize=3 if len(values) > POINTS else 6)
    median = statistics.median(values)
    axes.axhline(median, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_title(f"Speed (images/s); dashed: median, {median:,.0f}")
    axes.set_ylim(0, 1.15 * values.max())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("epoch")
    style_axes(axes)
    return figure


# The figure's parts


def _draw_loss(axes: "Axes", train: list[dict], names: list[str]) -> None:
    epochs, loss = thinned(*series(train, "loss", len(names)))
    _draw_members(axes, epochs, loss, names)
    axes.set_title("Training loss" if train else "Training loss: none yet")
    scale(axes, loss)


def _draw_error(axes: "Axes", evals: list[dict], names: list[str]) -> None:
    epochs, error = series(evals, "top1_error", len(names))
    _draw_members(axes, epochs, 100 * error, names)
    scale(axes, error)
    axes.set_title(f"{evals[0]['split'].capitalize()} top-1 error (%)" if evals else "Evaluation: none yet")
    if len(names) > 1:
        axes.plot(
            epochs, [100 * event["ensemble_top1_error"] for event in evals], color=INK, linewidth=2.6, label="ensemble", marker=_dot(epochs)
        )
    if evals and np.isfinite(last := 100 * evals[-1]["ensemble_top1_error"]):
        axes.annotate(f"{last:.1f} %", (epochs[-1], last), (6, 0), textcoords="offset points", va="center", color=INK)


def _draw_rate(axes: "Axes", past: History, members: int) -> None:
    """Draw the learning rates as steps exactly where they change, although training events are rarer."""
    epochs = [epoch for epoch, _ in past.rate_curve]
    values = np.array([rates for _, rates in past.rate_curve], float).reshape(-1, members)
    for m in range(members):
        axes.plot(epochs, values[:, m], color=member_colour(m, members), linewidth=1.5, drawstyle="steps-post")
    axes.set_title("Learning rate" if epochs else "Learning rate: none yet")
    positive = values[values > 0]
    if positive.size:
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(positive.min() / 3.2, positive.max() * 3.2)  # the axis shows at least one power of ten
        axes.minorticks_off()
        distinct = np.unique([float(f"{rate:.3g}") for rate in positive])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if len(distinct) <= 6 and (distinct[1:] > 3 * distinct[:-1]).all():  # far enough apart to label each rate
            axes.set_yticks(distinct, [f"{rate:g}" for rate in distinct])


def _mark_drops(error: "Axes", rate: "Axes", past: History, evals: list[dict], members: int) -> None:
    """Draw a triangle at each drop: on the member's error curve, and at its new learning rate."""
    epochs, errors = series(evals, "top1_error", members)
    style: dict[str, Any] = {"marker": "v", "markersize": 6 if members <= len(COLOURS) else 3, "linestyle": "none"}
    for event in past.drops:
        x, member = past.epoch_of(event), event["member"]
        rate.plot(x, event["learning_rate"], color=member_colour(member, members), **style)
        if evals:
            error.plot(x, 100 * np.interp(x, epochs, errors[:, member]), color=member_colour(member, members), **style)
    if past.drops:
        error.plot([], [], color=INK, label="rate drops", **style)


def _draw_members(axes: "Axes", epochs: np.ndarray, values: np.ndarray, names: list[str]) -> None:
    """Draw a line for each member; values (events, members)."""
    if len(names) <= len(COLOURS):
        for m, name in enumerate(names):
            axes.plot(epochs, values[:, m], color=COLOURS[m], linewidth=1.5, label=name, marker=_dot(epochs))
    else:
        lines = axes.plot(epochs, values, color=COLOURS[0], linewidth=0.6, alpha=0.5)
        lines[0].set_label(f"{len(names)} members")
        axes.plot(epochs, np.ma.masked_invalid(values).mean(axis=1), color=COLOURS[2], linewidth=2, label="their mean")


def _dot(epochs: np.ndarray) -> str:
    """The marker of a curve: a single point needs one, since it has no line."""
    return "o" if len(epochs) == 1 else ""


# Shared with other figures of events


def scale(axes: "Axes", values: np.ndarray) -> None:
    """Start the axis at zero, or make it logarithmic if the values span more than a factor of 30, so that the end of a run is readable."""
    from matplotlib.ticker import LogLocator

    positive = values[values > 0]  # this drops NaN too
    if positive.size and positive.max() > 30 * positive.min():
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if positive.max() < 1000 * positive.min() else (1,)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0)


def series(events: list[dict], field: str, members: int) -> tuple[np.ndarray, np.ndarray]:
    """Epochs (events,) and the field's values (events, members)."""
    return np.array([e["epoch"] for e in events], float), np.array([e[field] for e in events], float).reshape(-1, members)


def thinned(epochs: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduce a curve (events,), (events, members) to at most `POINTS` points, by means of neighbours."""
    size = -(-len(epochs) // POINTS) or 1
    means = (np.stack([part[i : i + size].mean(axis=0) for i in range(0, len(part), size)]) for part in (epochs, values))
    return (epochs, values) if size == 1 else tuple(means)  # type: ignore[return-value]
