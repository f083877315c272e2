"""The target `parts` of `experiments.reproduce`: how much an ensemble gains if its networks differ in their seeds alone, or in their order.

The command (__main__.py) calls it:

    lines = parts(setting.make("digits", "quick", 7, out, overrides, args))    # text for the terminal; None after a dry run
"""

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
    """Ensembles whose networks differ in their seeds, in the order of their images, or in both; and how much single networks differ.

    A seed sets the initial weights, dropout and augmentation.

    Raises:
      UserError: several orders or only one network were asked for, or a run failed.
    """
    count = setting.seeds
    if setting.args.orders > 1 or count < 2:
        raise UserError("parts compares ensembles of --seeds networks, 2 or more, and sets their orders itself; leave --orders out")
    first = setting.loaded.data.seed
    same_seed = [Point(BASE, {}), *(Point(f"order {i}", {"data.seed": str(first + i)}) for i in range(1, count))]
    groups = {
        "their seeds": setting.baselines,
        "the order of the images": _pack(setting, same_seed, 1),
        "both": _pack(setting, [Point(BASE, {})], count),
    }
    if not train(list({program.directory: program for group in groups.values() for program in group}.values()), setting.root, setting.args):
        return None
    rows = [[f"{count} networks that differ in", "test error, mean ± std", "together", "cut", "disagree"]]
    for name, programs in groups.items():
        directories = [program.directory for program in programs]
        found = evaluate(
            directories, setting.root / "parts" / f"{name.replace(' ', '-')}.json", "centre crop", setting.loaded.data.test_split
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


def _pack(setting: Setting, chosen: list[Point], orders: int) -> list[Program]:
    """Programs with one seed each."""
    return points.pack(setting.config, setting.overrides, chosen, 1, setting.root / "runs", setting.args.max_members, orders)
