"""The part `checkpoint`: how long a save and a restore take, and how much of a save the loop waits for.

    python -m experiments.benchmark checkpoint

A save copies the state and its checksums, then writes in the background: the loop waits for the first part alone. Both networks' states are
random numbers, which no compression makes smaller. `a plain file` writes as many bytes with one call, and forces them to the disk.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from alexnet_jax import checkpoint
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.state import Networks, abstract_state
from alexnet_jax.train import plateau
from experiments.benchmark import measure, ours
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {"state": "<26", "what": "<34", "MB": "8,.1f", "s": "9,.3f", "quartiles": ">17", "MB/s": "8,.0f"}
MEMBERS = {"one_tower": 1, "small": 7}
WIDTH = {"one_tower": 1.0, "small": 0.5}  # of the variant: configs/digits.py has half of small's units


def run(settings: Settings, out: Path) -> None:
    table = Table("checkpoint", "Checkpoints: seconds of a save and of a restore", COLUMNS, settings, out)
    for variant in settings.networks:
        members = MEMBERS[variant]
        trees = _trees(variant, members, max(0.04, settings.width * WIDTH[variant]))  # narrower, a layer of the quick one would be empty
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(trees)) / 1e6
        with tempfile.TemporaryDirectory() as folder:
            timings = _timed(Path(folder), trees, settings.rounds)
        for what, timing in timings.items():
            name = f"{variant}, {members} member{'s' * (members > 1)}"
            quartiles, rate = measure.span(*timing.quartiles), size / timing.median
            table.timed(timing, state=name, what=what, MB=size, s=timing.median, quartiles=quartiles, MB_s=rate)


def _trees(variant: str, members: int, width: float) -> dict[str, Any]:
    """The two trees of a run's checkpoint, of random numbers."""
    chosen, dice = ours.members(f"seeds={members}"), np.random.default_rng(0)
    state = abstract_state(ours.network(variant, width), ours.OPTIMIZER, chosen, ours.CHANNELS[variant])
    params, opt_state = jax.tree.map(lambda leaf: dice.random(leaf.shape, np.float32), (state.params, state.opt_state))
    return {
        "networks": Networks(np.int32(0), params, chosen),
        "training": {"opt_state": opt_state, "plateau": plateau.init(members)},
    }


def _timed(folder: Path, trees: dict[str, Any], rounds: int) -> dict[str, measure.Timing]:
    """Seconds of each side, one after the other in every round; the first round isn't counted."""
    content = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(trees))
    seconds: dict[str, list[float]] = {}

    def timed(what: str, side: Callable[..., Any], *args: Any) -> None:
        seconds.setdefault(what, []).append(measure.seconds_of(lambda: side(*args)))

    def plain() -> None:
        with open(folder / "plain", "wb") as file:
            file.write(content)
            os.fsync(file.fileno())

    def unchecked() -> None:
        with mock.patch.object(checkpoint, "_changed", return_value=""):
            checkpoint.restore(folder, step, trees)

    with Checkpoints(folder) as checkpoints:
        for step in range(rounds + 1):
            measure.progress(f"round {step} of {rounds}")
            timed("save: the loop waits", checkpoints.save, step, trees, {})
            timed("save: then in the background", checkpoints.wait)
            timed("a plain file", plain)
            timed("restore, with checksums", checkpoint.restore, folder, step, trees)
            timed("restore, without them", unchecked)
    return {what: measure.Timing(tuple(values[1:])) for what, values in seconds.items()}
