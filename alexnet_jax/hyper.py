"""`Hyper`: the hyperparameters that may differ between the members of a run, and the syntax in which a config lists them.

A member is a random seed and a set of hyperparameters. They are arrays with a leading member axis, and JAX traces them, so a change of
a value never recompiles a program. `network.build` reads the members of a config:

    members, names = from_config(config)    # with config.ensemble.members = "learning_rate=[.003,.01], seeds=2"
    members.learning_rate                   # float32 (4,)
    names[0]                                # "learning_rate=0.003 seed=0"
"""

import itertools
import math
import re
from typing import Any

import flax.struct
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.config import number
from alexnet_jax.errors import UserError, did_you_mean


@flax.struct.dataclass
class Hyper:
    """Hyperparameters of M members: every leaf has shape (M,), and dtype float32 except for the seed. In the vmapped step they are scalars.

    The defaults are the study post's. A strength of 0 switches its augmentation off exactly. LRN is the identity with lrn_k = 1 and
    lrn_alpha = 0, and dropout is the identity with dropout = 0.
    """

    seed: Any = 0  # uint32; the initial weights are drawn from it
    draws: Any = 0  # uint32; dropout and augmentation are drawn from it: the seed itself, unless the member's spec names another
    learning_rate: Any = 1e-2
    momentum: Any = 0.9
    weight_decay: Any = 5e-4
    dropout: Any = 0.5  # probability that a unit is set to zero
    lrn_k: Any = 2.0
    lrn_alpha: Any = 1e-4  # for pixels from 0 to 255, whatever scale the network computes on
    lrn_beta: Any = 0.75
    crop: Any = 1.0  # fraction of the margin (stored size - input size) in which the position of the crop is drawn
    flip: Any = 0.5  # probability of a left-right mirror
    rotation: Any = 10.0  # degrees, uniform in +-rotation
    shift: Any = 0.05  # fraction of the input size, uniform in +-shift, whole pixels
    colour: Any = 0.1  # standard deviation of the PCA colour coefficients
    whitening: Any = 1.0  # blend: 0 is the mean-subtracted image, 1 is the image standardised by its own mean and deviation

    @property
    def members(self) -> int:
        return len(self.seed)


FIELDS = tuple(Hyper.__dataclass_fields__)
WHOLE = ("seed", "seeds", "draws")  # names in a spec whose values are whole numbers
AUGMENTATIONS = ("crop", "flip", "rotation", "shift", "colour", "whitening")
LARGEST = float(np.finfo(np.float32).max)
MOST = 100_000  # members of a run: each takes half a kilobyte on the host before anything is known of its memory
# Names that switch several fields together.
SWITCHES = {
    "lrn": {"off": {"lrn_k": 1.0, "lrn_alpha": 0.0}, "on": {}},
    "augment": {"off": dict.fromkeys(AUGMENTATIONS, 0.0), "on": {}},
}


def base_member(config: ConfigDict) -> dict[str, float]:
    """The hyperparameters that a config gives to every member: `{field of Hyper: value}`, all but `draws`."""
    optimizer, model = config.optimizer, config.model
    return {
        "seed": config.ensemble.seed,
        "learning_rate": optimizer.learning_rate,
        "momentum": optimizer.momentum,
        "weight_decay": optimizer.weight_decay,
        "dropout": model.dropout,
        "lrn_k": model.lrn_k,
        "lrn_alpha": model.lrn_alpha,
        "lrn_beta": model.lrn_beta,
        **{name: config.augment[name] for name in AUGMENTATIONS},
    }


def parse_members(spec: str, base: dict[str, float]) -> tuple[list[dict[str, float]], list[str]]:
    """Expand a members spec into one row of hyperparameters and one name for each member.

    A spec is a list of `name=value` or `name=[value, ...]`, separated by commas; each combination of the values is a member. A `;`
    separates several such lists, so a spec can also name its members one by one.

        seeds=7                                                7 members that differ in their seed
        draws=0, seeds=7                                       7 that differ in their initial weights alone
        learning_rate=[.003,.01,.03], lrn=[on,off], seeds=5    30 members; those with equal seeds are paired
        learning_rate=.01, seed=3; learning_rate=.1, seed=4    2 members

    Raises:
      UserError: a name is unknown, a value is unreadable or outside its range, or a list sets a field twice.
    """
    rows: list[dict[str, float]] = []
    names: list[str] = []
    for product in filter(None, (part.strip() for part in spec.split(";"))):
        axes = [_parse_axis(item, base) for item in re.split(r",(?![^\[]*\])", product)]
        _check_distinct(product, axes)
        _check_count(len(rows) + math.prod(map(len, axes)))
        varied = [len(choices) > 1 or ";" in spec for choices in axes]
        for point in itertools.product(*axes):
            rows.append(dict(base))
            for _, values in point:
                rows[-1].update(values)
            rows[-1].setdefault("draws", rows[-1]["seed"])
            names.append(" ".join(label for (label, _), vary in zip(point, varied, strict=True) if vary) or f"seed={rows[-1]['seed']}")
    if not rows:
        raise UserError(f"ensemble.members is {spec!r}: it defines no member; write for example seeds=7")
    for row in rows:
        for field, value in row.items():
            check_range(field, value)
    return rows, names


def from_config(config: ConfigDict) -> tuple[Hyper, list[str]]:
    """The `Hyper` of a config's members, numpy leaves (M,), and the members' names.

    Raises:
      UserError: as `parse_members`; or two members are the same.
    """
    rows, names = parse_members(config.ensemble.members, base_member(config))
    hyper = stack(rows)
    points = list(zip(*(values.tolist() for values in vars(hyper).values()), strict=True))  # in float32, as the networks get them
    twice = next((name for i, name in enumerate(names) if points[i] in points[:i]), None)
    if twice:
        raise UserError(
            f"ensemble.members={config.ensemble.members} has the member {twice} twice: the same network would count as two; leave one out"
        )
    return hyper, names


def stack(rows: list[dict[str, float]]) -> Hyper:
    """Stack rows of hyperparameters into a `Hyper` with numpy leaves (M,)."""
    dtype = {"seed": np.uint32, "draws": np.uint32}
    return Hyper(**{field: np.array([row[field] for row in rows], dtype.get(field, np.float32)) for field in FIELDS})


def _parse_axis(item: str, base: dict[str, float]) -> list[tuple[str, dict[str, float]]]:
    """Parse `name=value` or `name=[value, ...]` into its choices: each has a label and the fields that it sets."""
    name, equals, text = (part.strip() for part in item.partition("="))
    known = [*FIELDS, *SWITCHES, "seeds"]
    if not equals or name not in known:
        raise UserError(f"ensemble.members: {item.strip()!r} is not name=value with a known name{did_you_mean(name, known)}")
    words = [word.strip() for word in text.strip("[]").split(",")]
    if name in SWITCHES:
        for word in words:
            if word not in SWITCHES[name]:
                raise UserError(f"ensemble.members: {name}={word!r}; write on or off")
        return [(f"{name}={word}", SWITCHES[name][word]) for word in words]
    try:
        values = [number(word) for word in words]
        if name in WHOLE:
            values = [value if isinstance(value, int) else int("not an integer") for value in values]
    except ValueError:
        kind = "whole numbers" if name in WHOLE else "numbers"
        raise UserError(f"ensemble.members: {name}={text}: expected {kind}, as {name}=1 or {name}=[1,2]") from None
    if name == "seeds":
        count = int(values[0])
        if len(values) != 1 or count < 1:
            raise UserError(f"ensemble.members: seeds={text}: expected one count of at least 1; to choose the seeds, write seed=[0,3]")
        _check_count(count)
        name, values = "seed", [int(base["seed"]) + i for i in range(count)]
    return [(f"{name}={_short(value)}", {name: value}) for value in values]


def _short(value: float) -> str:
    """A number with as few digits as tell it from every other one."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _check_distinct(product: str, axes: list[list[tuple[str, dict[str, float]]]]) -> None:
    """Refuse a product in which two axes set the same field: the later one would silently win."""
    seen: set[str] = set()
    for axis in axes:
        fields = {field for _, values in axis for field in values}
        if twice := seen & fields:
            raise UserError(f"ensemble.members: {product!r} sets {min(twice)} twice; leave one of them out")
        seen |= fields


def _check_count(members: int) -> None:
    if members > MOST:
        raise UserError(f"ensemble.members defines {members:,} members; a run has at most {MOST:,}")


def check_settable(field: str) -> None:
    """Refuse a name that is not a hyperparameter, and `seed` and `draws`, which cannot change while a run trains.

    Raises:
      UserError: it names the nearest hyperparameter.
    """
    settable = [known for known in FIELDS if known not in WHOLE]
    if field not in settable:
        raise UserError(f"can't set {field!r}{did_you_mean(field, settable)}")


def check_range(field: str, value: float) -> None:
    """Refuse a value outside the range of its field.

    Raises:
      UserError: it names the field and its range.
    """
    upper = {
        "seed": 2**32 - 1,
        "draws": 2**32 - 1,
        "momentum": 1,
        "dropout": 1,
        "crop": 1,
        "flip": 1,
        "rotation": 180,
        "shift": 1,
        "whitening": 1,
    }
    limit, open_end = upper.get(field, float("inf")), field in ("momentum", "dropout") or field not in upper
    if not 0 <= value <= min(limit, LARGEST) or (open_end and value == limit):
        raise UserError(f"{field} = {_short(value)} is outside [0, {_short(limit)}{')' if open_end else ']'}")
    if field == "lrn_k" and value == 0:
        raise UserError("lrn_k = 0 makes LRN divide by zero where activations are zero; give it a positive value")
