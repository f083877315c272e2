"""A command that writes the full report of each run: report.html, and figures for a lecture in figures/. The run may still be training.

    python -m experiments.report RUN
    python -m experiments.report RUN RUN ...    also a page that compares the runs

The command loads the checkpoint and the dataset, and runs the networks on this machine's devices. If the checkpoint or the dataset is gone,
the report says so and leaves out the sections that need it.
"""

import argparse
from pathlib import Path

from alexnet_jax import config as config_lib
from alexnet_jax.errors import run_cli, say


def main(argv: list[str] | None = None) -> None:
    """Write the reports and print their paths."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description="Write report.html and figures/ into each run directory, and for several runs a page that compares them.",
    )
    parser.add_argument("runs", nargs="+", type=config_lib.path, metavar="RUN", help="a run directory that alexnet_jax.train has made")
    help_text = "the page that compares several runs; its figure goes beside it (default: comparison.html in the folder of all runs)"
    parser.add_argument("--comparison", type=config_lib.path, metavar="FILE", help=help_text)
    args = parser.parse_args(argv)

    from alexnet_jax import parallel  # imported here, so that --help doesn't wait for JAX
    from alexnet_jax.report.compare import comparison_path, write_comparison
    from alexnet_jax.report.network import network_sections
    from alexnet_jax.report.write import write_report
    from experiments.report.explained import explained_sections

    parallel.start()
    for run in args.runs:
        _say(write_report(run, [*network_sections(run), *explained_sections(run)]))
    if len(args.runs) > 1:
        _say(write_comparison(args.runs, args.comparison or comparison_path(args.runs)))


def _say(page: Path) -> None:
    say(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_cli(main)
