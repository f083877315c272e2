"""How alike are networks: of several seeds, of several runs, at several checkpoints?

    python -m experiments.similarity --runs runs/digits --out similarity
    python -m experiments.similarity --runs runs/digits runs/no_lrn --members 3 --out similarity
    python -m experiments.similarity --runs runs/digits@100 runs/digits --members 1 --out similarity

The page similarity.html shows how alike their layers are (linear CKA), how well their first filters match one to one, and how differently
they answer: disagreement, Q statistic, KL divergence, and which pairs carry the gain of the ensemble.
"""

import argparse

from alexnet_jax import config as config_lib
from alexnet_jax.errors import run_cli, say


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.similarity", description="Compare the layers, first filters and answers of networks."
    )
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="run directories; RUN@STEP takes an earlier checkpoint")
    parser.add_argument("--members", type=config_lib.positive, default=4, metavar="N", help="the first networks of each run (default: 4)")
    parser.add_argument("--layers", default="conv1..fc8", metavar="LAYERS", help="one layer, or a range (default: conv1..fc8)")
    parser.add_argument("--split", default="test", help="a split of the runs' dataset, or a slice of one (default: test)")
    parser.add_argument(
        "--data-dir", type=config_lib.path, metavar="DIR", help="the directory of the dataset (default: the config's data.dir)"
    )
    parser.add_argument("--note", default="", help="a line for every figure, such as `the weights are random`")
    parser.add_argument("--out", required=True, type=config_lib.path, metavar="DIR", help="the folder for the page and its files")
    args = parser.parse_args(argv)

    from alexnet_jax import parallel
    from alexnet_jax.subject import layer_range
    from experiments.similarity import report
    from experiments.similarity.compare import compare, networks_of

    layers = layer_range(args.layers)
    parallel.start()
    found = compare([networks_of(run, args.members) for run in args.runs], args.split, layers, args.data_dir)._replace(note=args.note)
    path = report.write(found, args.out)
    say(report.in_text(found))
    say(f"written to {path}")


if __name__ == "__main__":
    run_cli(main)
