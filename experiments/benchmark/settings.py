"""What can be set of a measurement, and the sizes that `--quick` puts in its place."""

import argparse
import dataclasses

from alexnet_jax.errors import UserError

NETWORKS = ("one_tower", "small")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The defaults are a full measurement's; `QUICK` is one that only shows that everything works."""

    rounds: int = 5  # turns of each side
    turn: float = 0.5  # seconds that a turn lasts at least
    networks: tuple[str, ...] = NETWORKS
    width: float = 1.0  # factor on the networks' units, on top of the variant's
    batch: int | None = None  # None: what each part says
    members: tuple[int, ...] | None = None  # None: what each part says
    images: int = 2000  # in the datasets of `input`; `growth` multiplies it
    limit: float = 120.0  # seconds beyond which the grouped convolutions of `members` are skipped
    compile: bool = True  # whether PyTorch's side is also tried under torch.compile

    def __post_init__(self) -> None:
        for field in ("rounds", "width", "images", "limit", "batch"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise UserError(f"--{field} {value:g}; it must be positive")
        if self.members is not None and min(self.members) < 1:
            raise UserError(f"--members {min(self.members)}; it must be at least 1")


QUICK = Settings(rounds=2, turn=0.0, width=0.04, batch=8, members=(1, 2), images=64, limit=60.0, compile=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `from_arguments` reads; None stands for "not given"."""
    full, quick = Settings(), QUICK
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns of each side (default {full.rounds})")
    parser.add_argument("--turn", type=float, metavar="S", help=f"seconds that a turn lasts at least (default {full.turn:g})")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="only these (default: both)")
    parser.add_argument("--width", type=float, metavar="F", help="multiply the networks' units, for a machine with less memory")
    parser.add_argument("--batch", type=int, metavar="N", help="images a step (default: what the part says, mostly 128)")
    parser.add_argument("--members", type=int, nargs="+", metavar="M", help="members of a run (default: what the part says, mostly 1 7 32)")
    parser.add_argument("--images", type=int, metavar="N", help=f"in the datasets that `input` and `growth` make (default {full.images})")
    parser.add_argument(
        "--limit", type=float, metavar="S", help=f"skip grouped convolutions that take longer in all (default {full.limit:g} seconds)"
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="try torch.compile too (default: yes)")
    sizes = f"{quick.rounds} rounds, width {quick.width}, batch {quick.batch}, eager PyTorch alone"
    parser.add_argument("--quick", action="store_true", help=f"tiny sizes, to see it work: {sizes}")


def from_arguments(args: argparse.Namespace) -> Settings:
    """The settings of a command line.

    Raises:
      UserError: a number that makes no sense.
    """
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None}
    return dataclasses.replace(QUICK if args.quick else Settings(), **given)
