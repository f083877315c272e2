"""Write the full report of each run: report.html, and the figures of a lecture beside it, also while the run is going.

    python -m experiments.report RUN
    python -m experiments.report RUN RUN ...    also a page that compares them

The networks are asked again, on this machine's devices: what is not there any more, a checkpoint or the dataset, is named and left out.
"""

import argparse
from pathlib import Path

from alexnet_jax.errors import run_cli


def main() -> None:
    """Write the reports and print where they lie."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description="Write report.html and figures/ into run directories; several are compared."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory: one that alexnet_jax.train made")
    help_text = "where the page that compares several runs goes, its figure beside it (default: comparison.html in the folder of all runs)"
    parser.add_argument("--comparison", type=Path, metavar="FILE", help=help_text)
    args = parser.parse_args()

    from alexnet_jax import parallel  # after --help, which should not wait for its libraries
    from alexnet_jax.report.compare import comparison_path, write_comparison
    from alexnet_jax.report.network import network_sections
    from alexnet_jax.report.write import write_report

    parallel.start()
    for run in args.runs:
        _say(write_report(run, network_sections(run)))
    if len(args.runs) > 1:
        _say(write_comparison(args.runs, args.comparison or comparison_path(args.runs)))


def _say(page: Path) -> None:
    print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_cli(main)
