"""Train M members at once: config + dataset -> a run directory.

    python -m alexnet_jax.train --config configs/digits.py --workdir runs/digits
    python -m alexnet_jax.train --config configs/fashion_mnist.py:members=7 --workdir runs/ensemble --config.model.lrn=False

Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 saves and stops, with exit code 75: run the same command again. It resumes in the middle of an epoch; on
CPUs it ends with the same bits. A second Ctrl-C ends the process at once.
`python -m alexnet_jax.control` steers a running run.

On several hosts, the same command runs on each (cluster.py):

    srun --nodes 2 --ntasks-per-node 1 python -m alexnet_jax.train --config configs/imagenet.py --workdir runs/imagenet
    python -m alexnet_jax.train ... --coordinator node1:9000 --processes 2 --process 0    # on node1; on the other host --process 1
"""

import argparse
from pathlib import Path
from typing import Any

from alexnet_jax import cluster
from alexnet_jax import config as config_lib
from alexnet_jax.errors import STOPPED, UserError, run_cli, say


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m alexnet_jax.train", description="Train the members of a config; the same command again resumes."
    )
    config_lib.add_arguments(parser)
    parser.add_argument("--workdir", required=True, type=config_lib.path, metavar="DIR", help="the run directory, made if it isn't there")
    parser.add_argument(
        "--profile",
        type=config_lib.positive,
        default=0,
        metavar="STEPS",
        help="write a trace of so many steps into DIR/profile, for TensorBoard and Perfetto; it begins after the first step",
    )
    cluster.add_arguments(parser)
    args = config_lib.parse_command_line(parser, argv)
    place, config = cluster.place(args), config_lib.load(args.config, args.overrides)
    cluster.watch(place)

    from alexnet_jax import exchange, parallel  # not before: --help and a wrong argument need none of JAX
    from alexnet_jax.train.loop import train

    with parallel.started(place):
        test = train(config, args.workdir, args.profile)
        return exchange.first_says(lambda: _conclude(args.workdir, test))


def _conclude(workdir: Path, test: dict[str, Any] | None) -> int:
    """Write the report and print the results; returns the exit code.

    Raises:
      UserError: nothing was learnt.
    """
    from alexnet_jax import history
    from alexnet_jax.report import words
    from alexnet_jax.report.write import write_report

    page = write_report(workdir)
    if test is None:
        say(f"stopped and saved in {workdir}; the same command goes on from there")
        return STOPPED
    say(words.results_table(history.load(workdir)))
    say(f"checkpoints in {workdir / 'checkpoints'}, figures in {workdir / 'figures'}, report: {page}")
    if len(test["diverged"]) == len(test["members"]):
        raise UserError(
            "every member has diverged, so nothing was learnt; the warnings say where; lower optimizer.learning_rate, in another --workdir"
        )
    return 0


if __name__ == "__main__":
    run_cli(main)
