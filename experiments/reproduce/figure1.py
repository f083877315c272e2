"""The paper's figure 1: the epochs that ReLU and tanh need to reach a training error, each at the best of several learning rates.

The command (__main__.py) calls it for the target `figure1`:

    lines = figure1(setting.make("digits", "quick", 3, out, overrides, args))    # text for the terminal; None after a dry run
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_jax import history
from alexnet_jax.errors import UserError
from alexnet_jax.tables import aligned
from alexnet_jax.train.setup import validate
from experiments import published
from experiments.ablate import figures, statistics
from experiments.launch import points
from experiments.launch.points import Point, Program
from experiments.launch.results import status
from experiments.launch.train import train
from experiments.reproduce.setting import Setting, changed, differences

RATES = ("0.0003", "0.001", "0.003", "0.01", "0.03", "0.1")  # many: without LRN, ReLU networks don't learn at rates that work with LRN
THRESHOLDS = (published.FIGURE1[0], 0.10, 0.05)  # training errors; the first one decides which rate is the best
LOGGED = 4  # log lines an epoch; with more, a mean over few batches could cross a threshold by chance
# The paper: "No regularization of any kind was employed". Also no LRN, to compare the activations only, and a constant learning rate.
# Overrides of the user come later and win.
UNREGULARISED = ("model.lrn=False", "model.dropout=0", "optimizer.weight_decay=0", "plateau.mode=manual")

Curve = tuple[np.ndarray, np.ndarray]  # epochs (events,), training errors (events, seeds)


def figure1(setting: Setting) -> list[str] | None:
    """Measure the claim and save its figure; returns lines for the terminal, None after a dry run.

    Raises:
      UserError: an override changes what figure 1 sets itself, or a run failed.
    """
    for override in setting.args.overrides:
        if override.startswith(("augment.", "model.activation=", "optimizer.learning_rate=")):
            raise UserError(
                f"figure1 sets {override.partition('=')[0]} itself (no augmentation; ReLU and tanh, each at several rates); leave it out"
            )
    every = max(1, round(validate(setting.loaded, setting.dataset).timeline.steps_per_epoch / LOGGED))
    tried = {
        activation: [
            Point(f"{activation} at {rate}", {"model.activation": activation, "learning_rate": rate, "augment": "off"}) for rate in RATES
        ]
        for activation in ("relu", "tanh")
    }
    setting = setting._replace(overrides=changed((*UNREGULARISED, f"train.log_every_steps={every}"), setting.overrides))
    root = setting.root / "figure1"
    trained = _train(setting, root, tried)
    if trained is None:
        return None
    searched, compared, best = trained
    figures.save(figures.epochs_figure(compared, THRESHOLDS[0]), root / "figure1")
    rows = [["", *(f"epochs to {threshold:.0%}" for threshold in THRESHOLDS)]]
    rows += [[f"{name}{' *' if name in compared else ''}", *map(_epochs, _reached(curve))] for name, curve in searched.items()]
    config, orders = setting.loaded, [order for order in range(setting.args.orders) for _ in range(setting.seeds)]
    chosen_on, choosing = "chosen on the networks that are compared", ""
    if setting.args.orders > 1:
        rows += [[f"{name}, compared", *map(_epochs, _reached(curve))] for name, curve in compared.items()]
        chosen_on = f"chosen on {searched[best['relu']][1].shape[1]} networks of each, which are not compared"
        choosing = f", {chosen_on}; the rows `compared` and the ratio come from {len(orders)} other networks"
    relu, tanh = (_reached(compared[best[activation]]) for activation in ("relu", "tanh"))
    rows.append(["tanh * / relu *", *map(_ratio, tanh, relu)])
    threshold, factor, source = published.FIGURE1
    return [
        f"published: {threshold:.0%} training error in {factor:g} times fewer epochs with ReLU ({source})",
        f"measured: {in_words(compared[best['tanh']], compared[best['relu']], orders)}",
        f"  * the best learning rate of the activation{choosing}",
        *(f"  {line}" for line in aligned(rows, gap=3).splitlines()),
        *(
            f"note: the best rate of {activation} is the smallest or largest one tried; another may be better"
            for activation, name in best.items()
            if name in (tried[activation][0].name, tried[activation][-1].name)
        ),
        *differences(
            setting,
            "layers: five convolutions and three dense ones; the paper's figure: a four-layer network on CIFAR-10",
            f"rates: the best of {', '.join(RATES)}, {chosen_on}; the paper's: chosen independently for each network",
            f"training error: the mean of {config.train.log_every_steps} steps and of {len(orders)} networks",
            f"no augmentation; dropout {config.model.dropout:g}, weight decay {config.optimizer.weight_decay:g}, LRN "
            f"{'on' if config.model.lrn else 'off'}; the paper's: no regularisation of any kind",
        ),
    ]


def _train(setting: Setting, root: Path, tried: dict[str, list[Point]]) -> tuple[dict[str, Curve], dict[str, Curve], dict[str, str]] | None:
    """Train every point to choose the best rate of each activation; with several orders then these in all of them, by other networks.

    Returns:
      The curve of each point, those of the best ones that are compared, and the name of each activation's best point; None after a dry run.
    """
    args, several = setting.args, setting.args.orders > 1

    def pack(chosen: list[Point], to_choose: bool) -> list[Program]:
        common = (setting.config, setting.overrides, chosen, setting.seeds, root / "runs", args.max_members)
        return points.pack_to_choose(*common) if to_choose else points.pack(*common, args.orders)

    search = pack([point for rates in tried.values() for point in rates], several)
    known = several and args.dry_run and all(status(program.directory).state == "finished" for program in search)
    if not known and not train(search, root, args, later=len(tried) * setting.seeds * args.orders * several):
        return None
    searched = training_errors(search)
    best = {
        activation: min(rates, key=lambda point: (epochs_to(THRESHOLDS[0], searched[point.name]), _last(searched[point.name])))
        for activation, rates in tried.items()
    }
    names = {activation: point.name for activation, point in best.items()}
    if not several:
        return searched, {name: searched[name] for name in names.values()}, names
    others = pack(list(best.values()), to_choose=False)
    return (searched, training_errors(others), names) if train(others, root, args) else None


def training_errors(programs: Sequence[Program]) -> dict[str, Curve]:
    """The training curve of every point, by its name, with the networks of its runs, one run for each order of the images."""
    found: dict[str, Curve] = {}
    for program in programs:
        for name, (epochs, errors) in _training_errors(program).items():
            found[name] = (epochs, np.hstack([found[name][1], errors]) if name in found else errors)
    return found


def _training_errors(program: Program) -> dict[str, Curve]:
    """The training curve of every point of a run, by the point's name. A diverged member's errors are NaN.

    A log line has the mean error of the steps since the line before it. So the curve places it at the middle of these steps.
    """
    past = history.load(program.directory)
    steps, errors, losses = (np.array([event[name] for event in past.trains], float) for name in ("step", "error", "loss"))
    before = np.concatenate([[0], steps[:-1]])
    epochs = (before + steps - 1) / 2 / past.start["steps_per_epoch"]
    errors[~np.isfinite(losses)] = np.nan
    return {point.name: (epochs, errors[:, i * program.seeds : (i + 1) * program.seeds]) for i, point in enumerate(program.points)}


def epochs_to(threshold: float, curve: Curve) -> float:
    """Epochs until the mean over seeds reaches the threshold, interpolated linearly between two log lines; infinite if it never does."""
    epochs, mean = curve[0], curve[1].mean(1)
    below = np.flatnonzero(mean <= threshold)  # NaN <= threshold is False
    if not below.size:
        return float("inf")
    i = int(below[0])
    return float(np.interp(threshold, mean[[i, i - 1]], epochs[[i, i - 1]]) if i else epochs[0])


def in_words(tanh: Curve, relu: Curve, orders: Sequence[int]) -> str:
    """The epochs that tanh and ReLU need, compared in words: the geometric mean of their ratio over the orders of the images, or over
    seeds, with its interval. Where there is no interval, the ratio of the mean curves.

    Args:
      orders: for each network its order.
    """
    over = "orders" if len(set(orders)) > 1 else "seeds"
    groups = np.array(orders if over == "orders" else range(len(orders)))
    reached = np.array(
        [[epochs_to(THRESHOLDS[0], (epochs, each[:, groups == i])) for epochs, each in (tanh, relu)] for i in np.unique(groups)]
    )
    if np.isfinite(reached).all():
        log_ratio = statistics.mean_interval(np.log(reached[:, 0] / reached[:, 1]), over)
        if np.isfinite(log_ratio.low):
            ratio, low, high = np.exp(log_ratio[:3])
            return _ratio_in_words(ratio, low, high, f"mean over {log_ratio.pairs} {over}")
        why = "no interval: it needs several orders or seeds that differ"
    else:
        why = "no interval: some networks did not reach it"
    needed = [epochs_to(THRESHOLDS[0], curve) for curve in (tanh, relu)]
    if not np.isfinite(needed).any():
        return "neither ReLU nor tanh reached this error; try more epochs with --config.train.epochs=N"
    if not np.isfinite(needed).all():
        return f"only {'ReLU' if np.isfinite(needed[1]) else 'tanh'} reached this error"
    return _ratio_in_words(needed[0] / needed[1], np.nan, np.nan, why)


def _ratio_in_words(ratio: float, low: float, high: float, note: str) -> str:
    """The ratio of the epochs that tanh needs to those that ReLU needs, with its interval."""
    if ratio > 1:
        words = f"in {ratio:.1f} times fewer epochs with ReLU"
    else:
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
        words = f"NOT REPRODUCED: ReLU needs {ratio:.1f} times the epochs of tanh"
    interval = f", 95 % interval {low:.1f} to {high:.1f}" if np.isfinite(low) else ""
    return f"{words} ({note}{interval})"


def _reached(curve: Curve) -> list[float]:
    """The epochs to each threshold."""
    return [epochs_to(threshold, curve) for threshold in THRESHOLDS]


def _last(curve: Curve) -> float:
    """The last training error. It ranks learning rates at which the threshold is never reached."""
    last = float(curve[1][-1].mean())
    return last if np.isfinite(last) else float("inf")


def _epochs(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "not reached"


def _ratio(tanh: float, relu: float) -> str:
    return f"{tanh / relu:.1f}" if np.isfinite(tanh) and np.isfinite(relu) else "-"
