"""What LRN does in the trained networks of a run, and what happens without it.

    python -m experiments.lrn --run runs/digits --out runs/digits/lrn
    python -m experiments.lrn --run runs/digits --out runs/digits/lrn --retrain 2

The page lrn.html shows how much LRN changes the units of each layer, which filters inhibit which, and the errors when it is switched off
or its n, alpha and beta are moved: at once, and with --retrain after so many epochs of training on. `the constant k^beta alone` is the
control between: LRN's scale without its normalisation.
"""

import argparse

from alexnet_jax import config as config_lib
from alexnet_jax.errors import run_cli, say


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.lrn", description="Measure what LRN does in trained networks, and without it.")
    parser.add_argument("--run", required=True, type=config_lib.path, metavar="DIR", help="a run directory")
    parser.add_argument("--split", default="test", help="a split of the run's dataset, or a slice of one (default: test)")
    parser.add_argument(
        "--step", default="last", metavar="N", help="the checkpoint: last (default), best by validation accuracy, or a step"
    )
    parser.add_argument(
        "--data-dir", type=config_lib.path, metavar="DIR", help="the directory of the dataset (default: the config's data.dir)"
    )
    parser.add_argument("--retrain", type=_rate, metavar="EPOCHS", help="also train on for so many epochs with each change")
    parser.add_argument(
        "--rate", type=_rate, default=0.1, metavar="FACTOR", help="of the run's first learning rate, for --retrain (default: 0.1)"
    )
    parser.add_argument("--note", default="", help="a line for every figure, such as `the weights are random`")
    parser.add_argument("--out", required=True, type=config_lib.path, metavar="DIR", help="the folder for the page and its files")
    args = parser.parse_args(argv)

    from alexnet_jax import parallel
    from alexnet_jax.subject import ENSEMBLE, in_order, open_dataset, open_networks
    from experiments.lrn import report
    from experiments.lrn.changes import all_changes, errors, retrained
    from experiments.lrn.measure import measure

    parallel.start()
    subject = open_networks(args.run, ENSEMBLE, args.step)
    dataset = open_dataset(subject, args.data_dir)
    subject = in_order(subject, dataset)
    source, changes = dataset.source(args.split), all_changes(subject)
    layers = measure(subject, source)
    at_once, after = [errors(subject, source, change) for change in changes], None
    if args.retrain:
        after = [retrained(subject, change, args.retrain, args.rate, args.data_dir, args.out / "retrained") for change in changes]
    names = [change.text for change in changes]
    found = report.Found(subject, dataset.name, args.split, layers, names, at_once, after, args.retrain, args.rate, args.note)
    path = report.write(found, args.out)
    say(found.in_text())
    say(f"written to {path}")


if __name__ == "__main__":
    run_cli(main)
