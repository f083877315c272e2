"""Write the report of each run: report.html, and the figures of a lecture beside it, also while the run is going.

python -m experiments.report RUN [RUN ...]
"""

import argparse
from pathlib import Path

from alexnet_jax.errors import run_cli


def main() -> None:
    """Write the reports and print where they lie."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description="Write report.html and figures/ into run directories."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory: one that alexnet_jax.train made")
    args = parser.parse_args()
    from alexnet_jax.report import write_report  # after --help, which should not wait for its libraries

    for run in args.runs:
        print(write_report(run))


if __name__ == "__main__":
    run_cli(main)
