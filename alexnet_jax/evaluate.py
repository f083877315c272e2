"""Measures the exact top-1 and top-5 errors of trained runs, with one view or ten crops, and the ensemble curve.

    python -m alexnet_jax.evaluate --run runs/digits
    python -m alexnet_jax.evaluate --run runs/five runs/two --split test --ten-crop
    python -m alexnet_jax.evaluate --run runs/places --classes categories.txt

The networks see every example of the split exactly once, for any batch size: the last batch is padded and masked. Several runs form one
ensemble. Ensembles and ten-crop average probabilities, after the softmax, as the paper does. The classes of a run and of its dataset are
matched by name, whatever their order. The report calls `predict_run`:

    predictions, protocol = predict_run("runs/digits", "test")
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import classes, cluster
from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli, say
from alexnet_jax.history import plain
from alexnet_jax.metrics import Predictions, predict_split, summarise
from alexnet_jax.runlog import check_place, replacing
from alexnet_jax.tables import aligned


def predict_run(
    workdir: str | Path,
    split: str,
    ten_crop: bool = False,
    batch_size: int | None = None,
    classes_file: Path | None = None,
    same_order: bool = False,
    step: str = "last",
    data_dir: Path | None = None,
) -> tuple[Predictions, dict]:
    """The predictions of all members of a run on a split of its dataset, and the protocol.

    Classes are matched by name, and the predictions are for the dataset's classes, in its order. If the run has no class names,
    `classes_file` gives them, or `same_order` says that they are the dataset's one for one.

    The protocol says how the predictions were made: `dataset` and its `digest`, `split`, `step` of the checkpoint, `views` (1 or 10) of
    `input_size` pixels from images of `stored_size` pixels, `averaging`: what is averaged over members and views, and how `classes` were
    matched.

    Raises:
      UserError: the run can't be loaded, its classes are not those of the dataset, its dataset has changed, or the devices can't share
        `batch_size` evenly.
    """
    from alexnet_jax import data, exchange, parallel, run, turns
    from alexnet_jax.model.forward import make_log_probs

    loaded = run.load(workdir, step)
    dataset = run.open_dataset(loaded, data_dir)
    if classes_file:
        if loaded.classes != classes.unnamed(len(loaded.classes)):
            raise UserError(f"--classes {classes_file}: {workdir} has names for its classes, as {loaded.classes[0]!r}; leave it out")
        loaded = loaded._replace(classes=classes.read(classes_file, len(loaded.classes)))
    loaded = run.in_order(loaded, dataset.name, dataset.classes, same_order)
    if batch_size is not None:
        parallel.check_batch_size(batch_size, "--batch-size")
    views = 10 if ten_crop else 1
    batch_size = batch_size or parallel.even(max(1, loaded.config.eval.batch_size // views))
    source = dataset.source(split)
    batch_size = min(batch_size, parallel.even(len(source)))  # a larger one would be padding
    log_probs = make_log_probs(loaded.network.model, loaded.stats, ten_crop)
    in_turn = turns.plan(loaded.network.hyper.members, loaded.config.train.members_per_program)
    predictions = predict_split(
        turns.predictor(log_probs, in_turn, turns.place(loaded.state.params, in_turn), turns.place(loaded.state.hyper, in_turn)),
        parallel.whole_but_images(
            data.eval_batches(source, batch_size=batch_size, threads=loaded.config.data.threads, process=exchange.process())
        ),
        len(source),
        loaded.network.member_names,
    )
    return predictions, {
        "dataset": dataset.name,
        "digest": dataset.digest,
        "split": split,
        "step": int(loaded.state.step),
        "views": views,
        "input_size": loaded.network.model.arch.input_size,
        "stored_size": dataset.image_shape[0],
        "resize": dataset.resize,
        "interpolation": dataset.interpolation,
        "averaging": "softmax",
        "classes": "in the same order" if same_order else "by name",
    }


def views_in_words(protocol: dict[str, Any]) -> str:
    """The views of a protocol in words: `centre crop of 227 from 256 pixels`."""
    crop = "centre crop" if protocol["views"] == 1 else "ten crops (corners, centre, mirrored)"
    return f"{crop} of {protocol['input_size']} from {protocol['stored_size']} pixels"


def heading(runs: list[Path], protocols: list[dict[str, Any]], count: int) -> str:
    """What was evaluated, and by which views: those of each run, where they differ."""
    what = f"{protocols[0]['dataset']} {protocols[0]['split']}, {count:,} examples"
    views = list(map(views_in_words, protocols))
    if len(set(views)) == 1:
        return f"{what}, {views[0]}"
    return "\n".join([what, *(f"{workdir}: {each}" for workdir, each in zip(runs, views, strict=True))])


def check_one_dataset(runs: list[Path], protocols: list[dict[str, Any]]) -> None:
    """Refuse runs on different datasets: where their labels happen to be the same numbers, they would pass for one ensemble.

    Raises:
      UserError: it names the datasets.
    """
    for workdir, each in zip(runs, protocols, strict=True):
        if each["dataset"] != protocols[0]["dataset"]:
            what = f"one is of the dataset {each['dataset']}, the other of {protocols[0]['dataset']}"
        elif each["digest"] != protocols[0]["digest"]:
            what = f"the dataset {each['dataset']} of one has other classes or images; name one of them for both with --data-dir"
        else:
            continue
        raise UserError(f"{workdir} and {runs[0]} can't form one ensemble: {what}")


def combine(parts: list[tuple[Path, Predictions]]) -> Predictions:
    """Join the predictions of several runs as one ensemble.

    Raises:
      UserError: the runs do not predict the same examples and classes; or a network is in two of them, which would count as two.
    """
    (first_run, first), *rest = parts
    for other_run, other in rest:
        if other.log_probs.shape[1:] != first.log_probs.shape[1:] or not np.array_equal(other.labels, first.labels):
            raise UserError(f"{other_run} and {first_run} don't predict the same examples and classes, so they can't form one ensemble")
    for (one_run, one), (other_run, other) in itertools.combinations(parts, 2):
        for (i, name), (j, other_name) in itertools.product(enumerate(one.member_names), enumerate(other.member_names)):
            if np.array_equal(one.log_probs[i], other.log_probs[j]):
                both = f"{name} of {one_run} and {other_name} of {other_run}"
                raise UserError(f"{both} give the same answers: the same network would count as two; leave one of the runs out")
    names = [name if not rest else f"{workdir.name}: {name}" for workdir, part in parts for name in part.member_names]
    return Predictions(first.labels, np.concatenate([part.log_probs for _, part in parts]), names)


def table(result: dict[str, Any]) -> str:
    """The summary as text for a terminal; errors in percent."""
    columns = ("top1_error", "top5_error", "nll", "ece")
    rows = [*zip(result["members"], *(result[name] for name in columns), strict=True)]
    if len(rows) > 1:
        rows.append(("ensemble", *(result[f"ensemble_{name}"] for name in columns)))
    cells = [(name, f"{top1:.2%}", f"{top5:.2%}", f"{nll:.4f}", f"{ece:.4f}") for name, top1, top5, nll, ece in rows]
    lines = [aligned([("", "top-1", "top-5", "NLL", "ECE"), *cells], "<>")]
    if len(result["members"]) > 1:
        if result["diverged"]:
            lines.append(f"diverged, and left out of what follows: {', '.join(result['diverged'])}")
        lines += [
            f"mean +- std of the members' top-1 errors: {result['mean_top1_error']:.2%} +- {100 * result['std_top1_error']:.2f}",
            f"relative cut of the error by the ensemble: {result['relative_cut']:.1%}; members disagree on {result['disagreement']:.1%}",
            "ensemble of K: " + "  ".join(f"{row['members']}: {100 * row['top1_error']:.2f}%" for row in result["curve"]),
        ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m alexnet_jax.evaluate", description="Measure the exact errors of trained runs, of each member and of the ensemble."
    )
    parser.add_argument(
        "--run", nargs="+", required=True, metavar="DIR", type=config_lib.path, help="run directories; several form one ensemble"
    )
    parser.add_argument("--split", default="test", help="a split of the runs' dataset (default: test)")
    parser.add_argument("--ten-crop", action="store_true", help="average the paper's ten views")
    naming = parser.add_mutually_exclusive_group()
    naming.add_argument(
        "--classes", type=config_lib.path, metavar="FILE", help="the classes' names, of a network that came without: one a line, or JSON"
    )
    naming.add_argument("--same-order", action="store_true", help="take the network's classes for the dataset's, one for one")
    parser.add_argument(
        "--step", default="last", metavar="N", help="the checkpoint: last (default), best by validation accuracy, or a step"
    )
    parser.add_argument(
        "--data-dir", type=config_lib.path, metavar="DIR", help="the directory of the dataset (default: the config's data.dir)"
    )
    parser.add_argument(
        "--batch-size", type=int, help="examples in a batch (default: the config's eval.batch_size, a tenth of it for ten crops)"
    )
    parser.add_argument(
        "--json", type=config_lib.path, metavar="FILE", help="the file for the result (default: evaluation-SPLIT.json in the first run)"
    )
    cluster.add_arguments(parser)
    args = parser.parse_args(argv)
    place = cluster.place(args)
    cluster.watch(place)

    from alexnet_jax import exchange, parallel

    with parallel.started(place):
        if args.json:
            exchange.first_says(lambda: check_place(args.json))
        asked = (args.split, args.ten_crop, args.batch_size, args.classes, args.same_order, args.step, args.data_dir)
        parts = [(workdir, *predict_run(workdir, *asked)) for workdir in args.run]
        path = args.json or args.run[0] / f"evaluation-{args.split}{'-ten-crop' if args.ten_crop else ''}.json"
        exchange.first_says(lambda: _conclude(args.run, parts, path))


def _conclude(runs: list[Path], parts: list[tuple[Path, Predictions, dict]], path: Path) -> None:
    """Write the result of all runs together to a file, and print it.

    Raises:
      UserError: the runs can't form an ensemble, or the file can't be written.
    """
    protocols = [protocol for _, _, protocol in parts]
    check_one_dataset(runs, protocols)
    result = summarise(combine([(workdir, predictions) for workdir, predictions, _ in parts]))
    shared = {name: value for name, value in protocols[0].items() if all(each[name] == value for each in protocols)}
    made_of = {"runs": list(map(str, runs)), "steps": [each["step"] for each in protocols], "protocol": shared}
    if shared != protocols[0]:
        made_of["protocols"] = [{name: value for name, value in each.items() if name not in shared} for each in protocols]
    with replacing(path) as file:
        file.write_text(json.dumps(plain({**made_of, **result}), indent=2) + "\n")
    say(f"{heading(runs, protocols, result['count'])}\n{table(result)}\nwritten to {path}")


if __name__ == "__main__":
    run_cli(main)
