"""The arguments of every command that trains programs: which of them, how many at once, and where, here or as a Slurm array job."""

import argparse
from typing import TYPE_CHECKING

from alexnet_jax.errors import UserError

if TYPE_CHECKING:
    from experiments.launch.slurm import Slurm


def add(parser: argparse.ArgumentParser) -> None:
    """Add them to a command's own."""
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--retry", action="store_true", help="also train anew what failed before")
    parser.add_argument("--max-members", type=int, metavar="N", help="of one program, where memory is short")
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local", help="where programs train (default: local)")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="programs at once: here 1 by default, several share out the GPUs (a TPU takes one); in Slurm all",
    )
    group = parser.add_argument_group("for --launcher slurm, of each task")
    group.add_argument("--partition", default="", metavar="NAME")
    group.add_argument("--gpus", type=int, default=1, metavar="N", help="default: 1")
    group.add_argument(
        "--time", default="24:00:00", metavar="TIME", help="as sbatch takes it (default: 24:00:00); longer trainings requeue"
    )
    group.add_argument("--cpus", type=int, default=8, metavar="N", help="default: 8")
    group.add_argument("--mem", type=float, default=0.0, metavar="GB", help="default: the cluster's")
    group.add_argument("--account", default="", metavar="NAME")
    group.add_argument("--qos", default="", metavar="NAME")
    group.add_argument("--constraint", default="", metavar="FEATURES", help="of the nodes")
    group.add_argument("--setup", action="append", default=[], metavar="LINE", help="a shell line before the training; may be repeated")
    group.add_argument("--sbatch", action="append", default=[], metavar="NAME=VALUE", help="any other option; may be repeated")


def slurm(args: argparse.Namespace) -> "Slurm | None":
    """What to ask Slurm for; None for runs on this machine.

    Raises:
      UserError: a time or an option that can't be read, or one that would not be heeded.
    """
    from experiments.launch.slurm import Slurm, minutes

    if args.launcher != "slurm":
        defaults = argparse.ArgumentParser()
        add(defaults)
        for name in ("partition", "gpus", "time", "cpus", "mem", "account", "qos", "constraint", "setup", "sbatch"):
            if getattr(args, name) != defaults.get_default(name):
                raise UserError(f"--{name} is for --launcher slurm; leave it out, or add that")
        return None
    asked = Slurm(
        partition=args.partition,
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
