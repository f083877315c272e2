"""How much each layer of a run's networks knows of the classes: a linear classifier and nearest neighbours on its features.

    python -m experiments.probe --run runs/digits --out runs/digits/probe

Both are fitted with scikit-learn on features of training images and measured on other images: ridge regression to the classes, its
regularisation chosen by leave-one-out on the training features (Alain and Bengio, 2016, probe layers so, with logistic regression), and the
vote of the five nearest neighbours. Maps are averaged down to at most 6 x 6 places. `pixels` are the images themselves. In the folder:

    probe.json                  every error
    probe.png, probe.svg        error by depth
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli, say
from alexnet_jax.examples import stratified_count
from alexnet_jax.tables import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet_jax.data import Dataset
    from alexnet_jax.examples import Examples
    from alexnet_jax.subject import Subject

PLACES = 6  # maps are averaged down to so many places in height and width
NEIGHBOURS = 5
FITTED = 2000  # images, where none are asked for
REGULARISATIONS = np.logspace(-2, 6, 9)
PIXELS = "pixels"


def first_of(dataset: "Dataset", split: str, count: int) -> str:
    """A split, or a part of one, cut to its first examples: `train[:2000]`, and `train[stratified:2000]` of a stratified part."""
    places, (name, bracket, _) = dataset.source(split).places(), split.partition("[")
    if bracket and len(places) <= count:
        return split
    if stratified_count(split):
        return f"{name}[stratified:{count}]"
    return f"{name}[{places[0] or ''}:{places[0] + min(count, len(places))}]"


def collect(subject: "Subject", source: "Examples", layers: list[str]) -> dict[str, np.ndarray]:
    """The features of a split, float32 (M, N, dimensions), of each layer, the pixels (1, N, dimensions), and the `label` (N,)."""
    from alexnet_jax.features import batches

    found: dict[str, list[np.ndarray]] = {}
    for batch in batches(subject, source, layers, largest=PLACES):
        pixels = batch["image"].reshape(1, len(batch["label"]), -1).astype(np.float32)
        flat = {layer: batch[layer].reshape(*batch[layer].shape[:2], -1) for layer in layers}
        for name, values in {PIXELS: pixels, **flat, "label": batch["label"]}.items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values, axis=0 if name == "label" else 1) for name, values in found.items()}


def linear_error(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """The error of a linear classifier on features (N, dimensions)."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # In float64: on float32 features of 1e3 dimensions, the smallest regularisations lose all digits.
    probe = make_pipeline(StandardScaler(), RidgeClassifierCV(REGULARISATIONS))
    return float(1 - probe.fit(train.astype(np.float64), train_labels).score(test.astype(np.float64), test_labels))


def neighbours_error(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """The error of the nearest neighbours' vote, by Euclidean distance between features (N, dimensions)."""
    from sklearn.neighbors import KNeighborsClassifier

    probe = KNeighborsClassifier(NEIGHBOURS, algorithm="brute")
    return float(1 - probe.fit(train, train_labels).score(test, test_labels))


def measure(train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> dict[str, dict[str, list[float]]]:
    """The errors of both classifiers on each layer's features: `{layer: {"linear": (M,), "neighbours": (M,)}}`."""
    labels = train["label"], test["label"]

    def errors(layer: str, error: Any) -> list[float]:
        return [error(one, labels[0], other, labels[1]) for one, other in zip(train[layer], test[layer], strict=True)]

    return {
        layer: {"linear": errors(layer, linear_error), "neighbours": errors(layer, neighbours_error)} for layer in train if layer != "label"
    }


def probe_figure(errors: dict[str, dict[str, list[float]]], own: list[float], note: str = "") -> "Figure":
    """Error by depth: means over the networks, each of them a dot, and the networks' own error."""
    from matplotlib.figure import Figure

    from alexnet_jax.report.style import COLOURS, INK, WIDTH, style_axes, write_note

    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(errors))
    for kind, label, colour in (
        ("linear", "linear classifier", COLOURS[0]),
        ("neighbours", f"{NEIGHBOURS} nearest neighbours", COLOURS[1]),
    ):
        each = [100 * np.array(of[kind]) for of in errors.values()]
        axes.plot(places, [one.mean() for one in each], color=colour, linewidth=2, label=label)
        for place, one in zip(places, each, strict=True):
            axes.plot(np.full(len(one), place), one, color=colour, marker="o", markersize=4, linestyle="none")
    axes.axhline(100 * float(np.mean(own)), color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label="the networks themselves")
    axes.set_xticks(places, list(errors))
    axes.set_ylim(0, None)
    axes.set_title("Error (%) of classifiers on each layer's features")
    style_axes(axes)
    axes.grid(False, axis="x")
    axes.legend(frameon=False, labelcolor=INK)
    write_note(figure, note)
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.probe", description="Measure what classifiers on each layer's features get wrong."
    )
    parser.add_argument("--run", required=True, type=config_lib.path, metavar="DIR", help="a run directory")
    parser.add_argument("--layers", default="conv1..fc7", metavar="LAYERS", help="one layer, or a range (default: conv1..fc7)")
    parser.add_argument(
        "--train", metavar="SPLIT", help=f"images to fit on (default: the first {FITTED:,} of those that the run was trained on)"
    )
    parser.add_argument("--test", default="test", metavar="SPLIT", help="images to measure on (default: test)")
    parser.add_argument("--member", default="all", metavar="NAME_OR_INDEX", help="one network (default: all)")
    parser.add_argument(
        "--step", default="last", metavar="N", help="the checkpoint: last (default), best by validation accuracy, or a step"
    )
    parser.add_argument(
        "--data-dir", type=config_lib.path, metavar="DIR", help="the directory of the dataset (default: the config's data.dir)"
    )
    parser.add_argument("--note", default="", help="a line for the figure, such as `the weights are random`")
    parser.add_argument("--out", required=True, type=config_lib.path, metavar="DIR", help="the folder for probe.json and the figure")
    args = parser.parse_args(argv)

    from alexnet_jax import parallel
    from alexnet_jax.history import plain
    from alexnet_jax.report.page import write_result
    from alexnet_jax.report.style import any_script
    from alexnet_jax.runlog import writing
    from alexnet_jax.subject import ENSEMBLE, in_order, layer_range, open_dataset, open_networks
    from experiments.ablate.figures import save

    parallel.start()
    layers = layer_range(args.layers)
    subject = open_networks(args.run, ENSEMBLE if args.member == "all" else args.member, args.step)
    dataset = open_dataset(subject, args.data_dir)
    subject = in_order(subject, dataset)
    args.train = args.train or first_of(dataset, subject.run.config.data.train_split, FITTED)
    if args.train.partition("[")[0] == args.test.partition("[")[0]:
        raise UserError(f"--train {args.train} and --test {args.test} are of one split; measure on images that were not fitted")
    sources = [dataset.source(split) for split in (args.train, args.test)]
    if len(sources[0]) < NEIGHBOURS:
        raise UserError(f"--train {args.train} holds {len(sources[0])} images; {NEIGHBOURS} nearest neighbours take at least {NEIGHBOURS}")
    train, test = (collect(subject, source, [*dict.fromkeys([*layers, "fc8"])]) for source in sources)
    own = (test["fc8"].argmax(-1) != test["label"]).mean(1).tolist()
    if "fc8" not in layers:
        del train["fc8"], test["fc8"]
    errors = measure(train, test)
    rows: list[tuple[str, ...]] = [("", "linear", f"{NEIGHBOURS} neighbours")]
    rows += [(layer, *(f"{100 * np.mean(of[kind]):.2f} %" for kind in ("linear", "neighbours"))) for layer, of in errors.items()]
    rows.append(("network", f"{100 * np.mean(own):.2f} %", ""))
    who = f"mean of {len(subject.members)} networks" if len(subject.members) > 1 else subject.members[0]
    about = f"{who}: {args.note}" if args.note else who
    where = f"{dataset.name}, fitted on {args.train}, errors on {args.test} ({len(test['label']):,} images), {about}"
    text = f"{where}\n{aligned(rows, '<>')}"
    record = {"run": str(args.run), "step": int(subject.run.state.step), "train": args.train, "test": args.test, "members": subject.members}
    path = Path(args.out) / "probe.json"
    with writing(path), any_script():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plain({**record, "errors": errors, "own": own}), indent=1) + "\n")
        save(probe_figure(errors, own, args.note), args.out / "probe")
        write_result(args.out, text)
    say(f"{text}\nwritten to {args.out}")


if __name__ == "__main__":
    run_cli(main)
