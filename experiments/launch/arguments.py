"""The command-line arguments that `sweep`, `ablate` and `reproduce` share: how many programs train at once, and where.

parser = argparse.ArgumentParser(...)
arguments.add(parser)
slurm = arguments.slurm(parser.parse_args())    # None: train on this machine
"""

import argparse
from typing import TYPE_CHECKING

from alexnet_jax.errors import UserError

if TYPE_CHECKING:
    from experiments.launch.slurm import Slurm


def add(parser: argparse.ArgumentParser) -> None:
    """Add the shared arguments to a command's parser."""
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--retry", action="store_true", help="also train the runs that failed before")
    parser.add_argument("--max-members", type=int, metavar="N", help="members of one program at most, if memory is short")
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local", help="where programs train (default: local)")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="programs that train at once (default: 1 on this machine, all with Slurm); several programs divide the machine's GPUs among "
        "them; on a TPU only one program can train",
    )
    group = parser.add_argument_group("with --launcher slurm, for each task")
    group.add_argument("--partition", default="", metavar="NAME")
    group.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes that train a program together (default: 1)")
    group.add_argument("--gpus", type=int, default=1, metavar="N", help="of each node (default: 1)")
    group.add_argument(
        "--time",
        default="24:00:00",
        metavar="TIME",
        help="time limit, written as for sbatch (default: 24:00:00); a longer training is queued again and continues",
    )
    group.add_argument("--cpus", type=int, default=8, metavar="N", help="default: 8")
    group.add_argument("--mem", type=float, default=0.0, metavar="GB", help="memory (default: the cluster's default)")
    group.add_argument("--account", default="", metavar="NAME")
    group.add_argument("--qos", default="", metavar="NAME")
    group.add_argument("--constraint", default="", metavar="FEATURES", help="features that a node must have")
    group.add_argument(
        "--setup", action="append", default=[], metavar="LINE", help="a shell line to run before the training; may be repeated"
    )
    group.add_argument("--sbatch", action="append", default=[], metavar="NAME=VALUE", help="any other option of sbatch; may be repeated")


def slurm(args: argparse.Namespace) -> "Slurm | None":
    """What to request from Slurm; None for runs on this machine.

    Raises:
      UserError: a time or an option can't be read, or an option for Slurm was given without --launcher slurm.
    """
    from experiments.launch.slurm import Slurm, minutes

    if args.launcher != "slurm":
        defaults = argparse.ArgumentParser()
        add(defaults)
        for name in ("partition", "nodes", "gpus", "time", "cpus", "mem", "account", "qos", "constraint", "setup", "sbatch"):
            if getattr(args, name) != defaults.get_default(name):
                raise UserError(f"--{name} is for --launcher slurm only; leave --{name} out, or add --launcher slurm")
        return None
    asked = Slurm(
        partition=args.partition,
        nodes=args.nodes,
        gpus=args.gpus,
        minutes=minutes(args.time),
        cpus=args.cpus,
        memory_gb=args.mem,
        account=args.account,
        qos=args.qos,
        constraint=args.constraint,
        setup=tuple(args.setup),
        extra=tuple(args.sbatch),
    )
    asked.parameters(1)
    return asked
