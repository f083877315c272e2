"""The target `parts` of `experiments.reproduce`: how much an ensemble gains if its networks differ in one kind of chance alone.

The command (__main__.py) calls it:

    lines = parts(setting.make("digits", "quick", 7, out, overrides, args))    # text for the terminal; None after a dry run
"""

import re

from alexnet_jax.errors import UserError
from alexnet_jax.tables import aligned
from experiments import published
from experiments.ablate.study import BASE
from experiments.launch import points
from experiments.launch.points import Point, Program
from experiments.launch.train import train
from experiments.reproduce.claims import evaluate
from experiments.reproduce.setting import Setting, differences


def parts(setting: Setting) -> list[str] | None:
    """Ensembles whose networks differ in their first weights, in what dropout and augmentation draw, in the order of their images, or in
    several of these; and how much single networks differ.

    Raises:
      UserError: several orders or only one network were asked for, or a run failed.
    """
    count = setting.seeds
    if setting.args.orders > 1 or count < 2:
        raise UserError("parts compares ensembles of --seeds networks, 2 or more, and sets their orders itself; leave --orders out")
    order, seed = setting.loaded.data.seed, setting.loaded.ensemble.seed
    draws = [Point(f"draws {seed + i}", {"draws": str(seed + i)}) for i in range(count)]
    orders = [Point(BASE, {}), *(Point(f"order {order + i}", {"data.seed": str(order + i)}) for i in range(1, count))]
    groups = {
        "their first weights": _pack(setting, draws[:1], seeds=count),
        "what dropout and augmentation draw": _pack(setting, draws),
        "their seeds, so both": setting.baselines,
        "the order of the images": _pack(setting, orders),
        "all of these": _pack(setting, [Point(BASE, {})], orders=count),
    }
    if not train(list({program.directory: program for group in groups.values() for program in group}.values()), setting.root, setting.args):
        return None
    rows = [[f"{count} networks that differ in", "test error, mean ± std", "together", "cut", "disagree"]]
    for name, programs in groups.items():
        directories = [program.directory for program in programs]
        found = evaluate(
            directories, setting.root / "parts" / f"{re.sub(r'[ ,]+', '-', name)}.json", "centre crop", setting.loaded.data.test_split
        )
        rows.append(
            [
                name,
                f"{100 * found['mean_top1_error']:.2f} ± {100 * found['std_top1_error']:.2f} %",
                f"{100 * found['ensemble_top1_error']:.2f} %",
                f"{100 * found['relative_cut']:.1f} %",
                f"{100 * found['disagreement']:.1f} %",
            ]
        )
    return [
        f"published: {published.CLAIMS['ensemble']}; it does not say in what its networks differ",
        *aligned(rows, "<>", gap=3).splitlines(),
        *differences(setting, networks=f"one ensemble of {count} of each kind, so the cuts have no interval"),
    ]


def _pack(setting: Setting, chosen: list[Point], seeds: int = 1, orders: int = 1) -> list[Program]:
    return points.pack(setting.config, setting.overrides, chosen, seeds, setting.root / "runs", setting.args.max_members, orders)
