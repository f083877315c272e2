"""The settings of a measurement, and the tiny sizes of `--quick`. The command (__main__.py) makes them for the parts:

add_arguments(parser)
settings = from_arguments(parser.parse_args())
"""

import argparse
import dataclasses

from alexnet_jax.errors import UserError

NETWORKS = ("one_tower", "small")
DTYPES = ("float32", "bfloat16")
VARIATIONS = ("off", "remat", "crops", "lrn")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The defaults are for a full measurement; `QUICK` only shows that everything works."""

    rounds: int = 5  # turns of each side
    turn: float = 0.5  # the least seconds of a turn
    networks: tuple[str, ...] = NETWORKS
    width: float = 1.0  # multiplies the number of units of the variants
    batches: tuple[int, ...] | None = None  # images of a step; None: each part has its own default
    dtypes: tuple[str, ...] = ("float32",)  # of activations and products; PyTorch's bfloat16 is autocast
    variations: tuple[str, ...] = VARIATIONS  # of the step that `train` times too
    members: tuple[int, ...] | None = None  # None: each part has its own default
    images: int = 2000  # images in the datasets of `input`; `growth` uses multiples of it
    limit: float = 120.0  # seconds; `members` skips grouped convolutions that take longer
    compile: bool = True  # also time PyTorch with torch.compile
    minutes: float = 8.0  # within which `gpu` ends

    def __post_init__(self) -> None:
        for field in ("rounds", "width", "images", "limit", "minutes"):
            value = getattr(self, field)
            if value <= 0:
                raise UserError(f"--{field} {value:g}; it must be positive")
        for option, counts in (("--batch", self.batches), ("--members", self.members)):
            if counts is not None and min(counts) < 1:
                raise UserError(f"{option} {min(counts)}; it must be at least 1")

    def batch(self, default: int) -> int:
        """Images of a step, for a part that measures steps of one size: the first of `batches`, or the part's default."""
        return self.batches[0] if self.batches else default


QUICK = Settings(rounds=2, turn=0.0, width=0.04, batches=(8,), members=(1, 2), images=64, limit=60.0, compile=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `from_arguments` reads; None means that an argument was not given."""
    full, quick = Settings(), QUICK
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns of each side (default: {full.rounds})")
    parser.add_argument("--turn", type=float, metavar="S", help=f"the least seconds of a turn (default: {full.turn:g})")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="measure only these (default: both)")
    parser.add_argument("--width", type=float, metavar="F", help="multiply the networks' number of units, for a machine with less memory")
    parser.add_argument(
        "--batch",
        dest="batches",
        type=int,
        nargs="+",
        metavar="N",
        help="images of a step; only `train` takes several (default: mostly 128)",
    )
    parser.add_argument(
        "--dtype",
        dest="dtypes",
        nargs="+",
        choices=DTYPES,
        help="of activations and products (default: float32, which GPUs multiply in TF32)",
    )
    parser.add_argument(
        "--variations",
        nargs="*",
        choices=VARIATIONS,
        help="of the step, which `train` times too: augmentation off, train.remat, only centre crops, without LRN (default: all)",
    )
    parser.add_argument("--members", type=int, nargs="+", metavar="M", help="members of a run (default: those of the part, mostly 1 7 32)")
    parser.add_argument("--images", type=int, metavar="N", help=f"images in the datasets of `input` and `growth` (default: {full.images})")
    parser.add_argument(
        "--limit", type=float, metavar="S", help=f"skip grouped convolutions that take longer (default: {full.limit:g} seconds)"
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="also time torch.compile (default: yes)")
    parser.add_argument("--minutes", type=float, metavar="F", help=f"within which `gpu` ends (default: {full.minutes:g})")
    sizes = f"{quick.rounds} rounds, width {quick.width}, batch {quick.batch(0)}, only eager PyTorch"
    parser.add_argument("--quick", action="store_true", help=f"tiny sizes, to check that everything works: {sizes}")


def from_arguments(args: argparse.Namespace) -> Settings:
    """The settings of a command line.

    Raises:
      UserError: a number is out of range.
    """
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None}
    return dataclasses.replace(QUICK if args.quick else Settings(), **given)
