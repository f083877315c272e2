"""How fast it is, each part against its peer, the two in turn within one run: A B A B ...

    python -m experiments.benchmark                  all parts
    python -m experiments.benchmark train members    these
    python -m experiments.benchmark --quick          tiny sizes, to see that everything works

A line is printed as soon as it is measured; PART.json in --out holds every turn's time, the machine and the settings. The peer is PyTorch,
where it is installed (pip install -e ".[peers]"). Nothing else should run on the machine meanwhile: the load at the start is recorded.
"""

import argparse
import importlib
import textwrap
from pathlib import Path

from alexnet_jax.errors import UserError, did_you_mean, run_cli
from alexnet_jax.tables import aligned
from experiments.benchmark import PARTS
from experiments.benchmark import settings as settings_lib

VISIBLE = {"gpu": "CUDA_VISIBLE_DEVICES=0", "tpu": "TPU_VISIBLE_CHIPS=0"}  # what leaves one device
IN_CHILDREN = ("members", "startup", "memory")


def main(argv: list[str] | None = None) -> None:
    parts = textwrap.indent(aligned([(name, what) for name, (_, what) in PARTS.items()]), "  ")
    parser = argparse.ArgumentParser(
        "python -m experiments.benchmark",
        description=f"Measure speed and memory, each part against PyTorch where it is installed:\n\n{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="only these (default: all)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), metavar="DIR", help="where PART.json goes (default: benchmarks)")
    settings_lib.add_arguments(parser)
    args = parser.parse_args(argv)
    for part in args.parts:
        if part not in PARTS:
            raise UserError(f"unknown part {part!r}{did_you_mean(part, PARTS)}")
    settings = settings_lib.from_arguments(args)

    import jax

    from alexnet_jax import parallel
    from experiments.benchmark import measure, ours

    ours.start()
    if (backend := jax.default_backend()) in VISIBLE and jax.local_device_count() > 1:
        raise UserError(f"{jax.local_device_count()} devices are visible, and the peer uses one; set {VISIBLE[backend]} to compare alike")
    if measure.has_torch():
        from experiments.peers import torch_train

        torch_train.start(parallel.cores())
    machine = measure.machine()
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    print(f"{', '.join(machine['devices'])}\n{versions}\n{machine['threads']}")
    if not measure.has_torch():
        print('no peer: PyTorch is not installed; it comes with: pip install -e ".[peers]"')
    for part in args.parts or PARTS:
        if backend == "tpu" and part in IN_CHILDREN:
            print(f"\n{part} is left out: it measures in processes of their own, and this one has the TPU")
            continue
        importlib.import_module(f"experiments.benchmark.{PARTS[part][0]}").run(settings, args.out)
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    run_cli(main)
