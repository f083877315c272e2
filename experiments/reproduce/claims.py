"""The targets of `experiments.reproduce` that have no file of their own, and what the others use of them.

Each target is a function that the command (__main__.py) calls with a `Setting`. It trains what is missing and returns the lines of the
result, or None after a dry run:

    lines = claims.table1(setting.make("digits", "quick", 1, out, overrides, args))
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import history
from alexnet_jax.errors import UserError
from alexnet_jax.runlog import writing
from alexnet_jax.tables import aligned
from experiments import published
from experiments.ablate import comparison, figures, statistics
from experiments.ablate.rates import BUDGET
from experiments.ablate.report import MARGIN, report, train_study
from experiments.ablate.study import Study, make_study
from experiments.launch.train import train
from experiments.reproduce.setting import Setting, differences

ERRORS = ("top1_error", "top5_error")


def table1(setting: Setting) -> list[str] | None:
    """One network's errors, with the centre crop and with the paper's ten views."""
    if not train(setting.baselines, setting.root, setting.args):
        return None
    centre, ten = published.CENTRE, published.TEN_VIEWS
    rows = [["", "top-1", "top-5"]]
    rows += [[f"published, {name}", *_published(errors)] for name, errors in (("centre crop", centre), ("ten views", ten))]
    rows.append(["published, gain of ten views", *(f"{a - b:.1f}" for a, b in zip(centre[:2], ten[:2], strict=True))])
    results = {view: _evaluate(setting, view) for view in _views(setting)}
    measured = {
        view: [100 * np.mean([np.mean(np.array(each[name])[_kept(each)]) for each in found]) for name in ERRORS]
        for view, found in results.items()
    }
    rows += [[f"measured, {view}", *(f"{error:.2f} %" for error in errors)] for view, errors in measured.items()]
    if len(measured) == 2:
        gains = [a - b for a, b in zip(*measured.values(), strict=True)]
        rows.append(["measured, gain of ten views", *(f"{gain:.2f}" for gain in gains)])
    validation = published.ENSEMBLES[1]
    comparable = (
        "only the gain of ten views is comparable. The errors are comparable only on ImageNet: for the validation images of ILSVRC-2012 "
        f"the paper reports {validation.top1} / {validation.top5} % (its table 2); the published numbers above are for 2010's test images"
    )
    return [
        *aligned(rows, gap=3).splitlines(),
        f"published: {ten.source}; {centre.source}",
        *([_views_in_words(*results.values())] if len(results) == 2 else []),
        *lost_in_words(next(iter(results.values()))),
        *differences(setting, comparable, *_about_views(setting)),
    ]


def ensemble(setting: Setting) -> list[str] | None:
    """The paper's table 2: 1, 5 and 7 networks. `ensemble/networks` has the difference with its interval, for the centre crop."""
    found = ablate(setting, "ensemble/networks", "ensemble")
    if not found:
        return None
    view = _views(setting)[-1]
    results = _evaluate(setting, view)
    means = comparison.mean_curve([result["curve"] for result in results])
    curve, one = {row["members"]: row for row in means}, published.ENSEMBLES[1]
    rows = [["networks", "published: top-1 (cut)", "top-5 (cut)", "measured: top-1 (cut)", "top-5 (cut)"]]
    for size in sorted({*published.ENSEMBLES, *curve}):
        known, ours = published.ENSEMBLES.get(size), curve.get(size)
        left = [f"{b:.1f} %{_cut(a, b)}" for a, b in zip(one[:2], known[:2], strict=True)] if known else ["", ""]
        right = [f"{100 * ours[name]:.2f} %{_cut(curve[1][name], ours[name])}" for name in ERRORS] if ours else ["", ""]
        rows.append([str(size), *left, *right])
    factors = {size: errors.top1 / one.top1 for size, errors in published.ENSEMBLES.items() if size > 1}
    figure = figures.ensemble_figure(results[0]["protocol"]["split"], means, factors)
    figures.save(figure, setting.root / "ensemble" / "ensemble")
    return [
        *aligned(rows, gap=3).splitlines(),
        f"published: {published.ENSEMBLES[7].source}; (cut): the error's reduction relative to one network",
        f"measured: {view}, the networks' probabilities are averaged; for fewer than {len(curve)} networks the mean over subsets",
        _cut_in_words(results),
        *lost_in_words(results),
        f"measured, centre crop: all {len(curve)} networks together against one: {found['factors'][0]['verdict']['words']}",
        *differences(
            setting,
            "only the relative cut is comparable; the errors are comparable only on ImageNet",
            "two of the paper's seven networks are pre-trained on more data, so compare seven equal networks with the paper's five",
            *_about_views(setting),
        ),
    ]


def figure3(setting: Setting) -> list[str] | None:
    """The filters of the first layer."""
    copies = _report_figures(setting, "figure3", {"filters": "figure3"})
    seen = "published: 96 filters of 11 x 11 x 3: gratings and edges on one GPU, blobs of colour on the other (the paper, figure 3)"
    return copies and [seen, *copies, *differences(setting)]


def figure4(setting: Setting) -> list[str] | None:
    """Eight test images with their five most probable classes, and test images with their nearest neighbours in the last hidden layer."""
    copies = _report_figures(setting, "figure4", {"predictions": "figure4-left", "neighbours": "figure4-right"})
    seen = (
        "published: eight ILSVRC-2010 test images with their classes; five test images, each with the six training images that are nearest "
        "in the last hidden layer (the paper, figure 4)"
    )
    return copies and [seen, *copies, *differences(setting)]


def lrn(setting: Setting) -> list[str] | None:
    """Local response normalisation, division by its constant alone, and neither, each at its best rate."""
    found = ablate(setting, "lrn", "lrn", budget=BUDGET)
    return [f"published: {published.CLAIMS['lrn']}", *verdicts(found), *_lrn_in_words(found), *differences(setting)] if found else None


# Helpers of the targets


def ablate(setting: Setting, where: str, factor: str, budget: int = 0) -> dict[str, Any] | None:
    """The ablation of one factor, written below the setting's root; None after a dry run."""
    study = trained(setting, factor, budget)
    return report(study, MARGIN, setting.root / where) if study else None


def trained(setting: Setting, factor: str, budget: int = 0) -> Study | None:
    """The study of one factor whose programs have all been trained; None after a dry run."""
    where, args = setting.root / "runs", setting.args
    study = make_study(
        setting.config, setting.overrides, [factor], setting.seeds, where, args.max_members, budget=budget, orders=args.orders
    )
    return train_study(study, setting.root, args)


def verdicts(found: dict[str, Any]) -> list[str]:
    """The verdict on each level, from an ablation of one factor."""
    (factor,) = found["factors"]
    reference, *levels = factor["levels"]
    name = f"{reference['level']} ({100 * reference['mean_test_error']:.2f} % test error)"
    return [f"measured, {level['level']} against {name}: {level['verdict']['words']}" for level in levels]


def _lrn_in_words(found: dict[str, Any]) -> list[str]:
    """What normalising does and what scaling does: the differences of the factor's levels from the constant divisor."""
    words = {level["level"]: level["verdict"]["words"] for level in found["factors"][0]["levels"][1:]}
    return [
        f"normalising, LRN instead of dividing by the constant k^beta: {words['LRN']}",
        f"scaling, no division instead of dividing by the constant: {words['off']}",
        f"scaling, smaller initial weights of conv1 and conv2 instead of dividing by the constant: {words['off, scaled start']}",
    ]


def _views(setting: Setting) -> list[str]:
    """The views with which networks can be tested. Ten views include mirror images, so only networks trained with flips can use them."""
    return ["centre crop", "ten views"] if setting.loaded.augment.flip > 0 else ["centre crop"]


def _views_in_words(centre: list[dict[str, Any]], ten: list[dict[str, Any]]) -> str:
    """What ten views change in the top-1 error of the same networks, with the interval over orders or, with one order, over seeds."""
    orders = [order for order, result in enumerate(centre) for kept in _kept(result) if kept]
    ten_errors, errors = (np.concatenate([np.array(each["top1_error"])[_kept(each)] for each in results]) for results in (ten, centre))
    return (
        f"ten views against the centre crop: {statistics.verdict(statistics.paired_difference(ten_errors, errors, orders), MARGIN).words}"
    )


def _about_views(setting: Setting) -> list[str]:
    """Notes about the ten views for this setting."""
    config = setting.loaded
    if not config.augment.flip:
        return ["views: the centre crop only; half of the ten are mirror images, which this network has never seen (augment.flip=0)"]
    if min(setting.dataset.image_shape[:2]) == config.model.input_size:
        return ["views: the stored images are as large as the input, so the ten are the image and its mirror image, five times each"]
    return []


def _cut_in_words(results: list[dict[str, Any]]) -> str:
    """By how much all networks of an order together cut the error of one: the mean over orders, with its interval."""
    if len(results) == 1:
        return "one order of the images: the cut may be another with another order"
    curves = [result["curve"] for result in results if result["curve"][0]["top1_error"] > 0]
    cuts = np.array([100 * (1 - curve[-1]["top1_error"] / curve[0]["top1_error"]) for curve in curves])
    perfect = f"; the networks of {len(results) - len(cuts)} orders make no error" if len(cuts) < len(results) else ""
    mean, low, high, *_ = statistics.mean_interval(cuts, "orders")
    if np.isnan(low):
        known = f"{mean:.1f} % in each of {len(cuts)} orders, so it has no interval" if len(cuts) else "none"
        return f"cut of the top-1 error by all networks: {known}{perfect}"
    interval = f"({low:.1f} to {high:.1f}), mean and 95 % interval over {len(cuts)} orders"
    return f"cut of the top-1 error by all networks: {mean:.1f} % {interval}{perfect}"


def _evaluate(setting: Setting, view: str) -> list[dict[str, Any]]:
    """The results of `alexnet_jax.evaluate` for the baselines, one for each order of the images; each is stored with its run."""
    split = setting.loaded.data.test_split
    name = f"evaluation-{split}-{view.replace(' ', '-')}.json"
    return [evaluate([program.directory], program.directory / name, view, split) for program in setting.baselines]


def evaluate(directories: list[Path], path: Path, view: str, split: str) -> dict[str, Any]:
    """The result of `alexnet_jax.evaluate` for the networks of some runs, stored in `path`. It runs in a process with the devices.

    Raises:
      UserError: all networks have diverged.
    """
    if not _is_of(path, directories):
        _evaluate_again(directories, path, view, split)
    found = json.loads(path.read_text(encoding="utf-8"))
    if len(found["diverged"]) == len(found["members"]):
        raise UserError(f"all networks of {', '.join(map(str, directories))} have diverged; lower optimizer.learning_rate")
    return found


def _is_of(path: Path, directories: list[Path]) -> bool:
    """Whether a kept result is that of these runs, as they are now: neither trained further since, nor deleted and trained anew."""
    if not path.exists() or any(path.stat().st_mtime < (directory / history.EVENTS).stat().st_mtime for directory in directories):
        return False
    return json.loads(path.read_text(encoding="utf-8")).get("runs") == [str(directory) for directory in directories]


def _evaluate_again(directories: list[Path], path: Path, view: str, split: str) -> None:
    options = ["--ten-crop"] if view == "ten views" else []
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _python("alexnet_jax.evaluate", "--run", *map(str, directories), "--split", split, "--json", str(path), *options)


def lost_in_words(results: list[dict[str, Any]]) -> list[str]:
    """A line that says how many networks have diverged and are left out; none where none has."""
    lost, networks = (sum(len(result[name]) for result in results) for name in ("diverged", "members"))
    return [f"left out: {lost} of {networks} networks, which diverged"] if lost else []


def _kept(result: dict[str, Any]) -> np.ndarray:
    """Which networks of a result have not diverged, bool (N,)."""
    return ~np.isin(result["members"], result["diverged"])


def _report_figures(setting: Setting, target: str, names: dict[str, str]) -> list[str] | None:
    """Copy figures of the baseline's report beside the other results, and return a line for each file; None after a dry run.

    Args:
      names: name in the report -> name of the copy.

    Raises:
      UserError: the report has no such figure, or a run failed.
    """
    if setting.args.orders > 1:
        raise UserError(f"{target} shows the networks of one order of the images; leave --orders out")
    (program,) = setting.baselines
    directory = program.directory
    if not train([program], setting.root, setting.args):
        return None
    _python("experiments.report", str(directory))
    copies = []
    for name, ours in names.items():
        for kind in ("png", "svg"):
            source, copy = directory / "figures" / f"{name}.{kind}", setting.root / target / f"{ours}.{kind}"
            if not source.exists():
                raise UserError(f"the report of {directory} has no figure {name}; {directory / 'report.html'} says why")
            with writing(copy):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
            copies.append(f"measured: {copy}")
    return copies


def _python(module: str, *options: str) -> None:
    """Run a command of this project in its own process.

    Raises:
      UserError: the command failed; the message has the last line of its output.
    """
    done = subprocess.run([sys.executable, "-m", module, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UserError(f"python -m {module} {' '.join(options)} failed: {words.removeprefix('error: ')}")


def _cut(before: float, after: float) -> str:
    """The relative cut of an error, in brackets; empty if the error is the same."""
    return f" ({1 - after / before:.1%})" if before and before != after else ""


def _published(errors: published.Errors) -> list[str]:
    return [f"{errors.top1:.1f} %", f"{errors.top5:.1f} %"]
