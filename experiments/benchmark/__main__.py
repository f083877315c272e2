"""The command that measures speed and memory. Each part compares this project with a peer, and times the two in turn: A B A B ...

    python -m experiments.benchmark                  all parts
    python -m experiments.benchmark train members    only these parts
    python -m experiments.benchmark --quick          tiny sizes, to check that everything works
    python -m experiments.benchmark gpu              tests and measurements on one accelerator, within 8 minutes

Each line is printed as soon as it is measured. PART.json in --out has the time of every turn, the machine and the settings. The peer is
PyTorch, if it is installed (pip install -e ".[peers]"). Don't run other programs at the same time: the load of the machine at the start is
recorded.
"""

import argparse
import importlib
import textwrap
from pathlib import Path

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, did_you_mean, run_cli
from alexnet_jax.tables import aligned
from experiments.benchmark import PARTS
from experiments.benchmark import settings as settings_lib

VISIBLE = {"gpu": "CUDA_VISIBLE_DEVICES=0", "tpu": "TPU_VISIBLE_CHIPS=0"}  # makes only one device visible
IN_CHILDREN = ("members", "startup", "memory", "digits", "gpu")


def main(argv: list[str] | None = None) -> None:
    parts = textwrap.indent(aligned([(name, what) for name, (_, what) in PARTS.items()]), "  ")
    parser = argparse.ArgumentParser(
        "python -m experiments.benchmark",
        description=f"Measure speed and memory, and compare each part with PyTorch if it is installed:\n\n{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="only these (default: all but gpu)")
    parser.add_argument(
        "--out", type=config_lib.path, default=Path("benchmarks"), metavar="DIR", help="directory for PART.json (default: benchmarks)"
    )
    settings_lib.add_arguments(parser)
    args = parser.parse_args(argv)
    for part in args.parts:
        if part not in PARTS:
            raise UserError(f"unknown part {part!r}{did_you_mean(part, PARTS)}")
    settings = settings_lib.from_arguments(args)

    import jax

    from alexnet_jax import host
    from experiments.benchmark import measure, ours

    ours.start()
    if (backend := jax.default_backend()) in VISIBLE and jax.local_device_count() > 1:
        raise UserError(f"{jax.local_device_count()} devices are visible, but the peer uses only one; set {VISIBLE[backend]}")
    if measure.has_torch():
        from experiments.peers import torch_train

        torch_train.start(host.cores())
    machine = measure.machine()
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    print(f"{', '.join(machine['devices'])}\n{versions}\n{machine['threads']}")
    if not measure.has_torch():
        print('no peer: PyTorch is not installed; it comes with: pip install -e ".[peers]"')
    for part in args.parts or [part for part in PARTS if part != "gpu"]:
        if backend == "tpu" and part in IN_CHILDREN:
            print(f"\n{part} is left out: it needs other processes, which can't use the TPU while this process has it")
            continue
        importlib.import_module(f"experiments.benchmark.{PARTS[part][0]}").run(settings, args.out)
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    run_cli(main)
