"""The target `parts` of `experiments.reproduce`: how much an ensemble gains if its networks differ in one kind of chance alone.

The command (__main__.py) calls it:

    lines = parts(setting.make("digits", "quick", 7, out, overrides, args))    # text for the terminal; None after a dry run
"""

import re
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.tables import aligned
from experiments import published
from experiments.ablate import figures, statistics
from experiments.ablate.report import MARGIN
from experiments.ablate.study import BASE
from experiments.launch import points
from experiments.launch.points import Point, Program
from experiments.launch.train import train
from experiments.reproduce.claims import evaluate, lost_in_words
from experiments.reproduce.setting import Setting, changed, differences

ALL = "all of these"


def parts(setting: Setting) -> list[str] | None:
    """Ensembles whose networks differ in their first weights, in what dropout and augmentation draw, in the order of their images, or in
    several of these; and how much single networks differ. With --orders N there are N ensembles of each kind.

    Raises:
      UserError: only one network was asked for, or a run failed.
    """
    count, repeats = setting.seeds, setting.args.orders
    if count < 2:
        raise UserError(f"--seeds {count}: parts compares ensembles; give them 2 networks or more")
    ensembles = [_programs(setting, repeat) for repeat in range(repeats)]
    programs = {program.directory: program for kinds in ensembles for group in kinds.values() for program in group}
    if not train(list(programs.values()), setting.root, setting.args):
        return None
    found = {
        kind: [_tested(setting, f"{kind} {repeat + 1}", kinds[kind]) for repeat, kinds in enumerate(ensembles)] for kind in ensembles[0]
    }
    levels = [_level(kind, results) for kind, results in found.items()]
    one = {"level": "one network", "mean_test_error": np.mean([each["mean_top1_error"] for results in found.values() for each in results])}
    question = f"{count} networks together that differ in ..."
    figures.save(figures.effects_figure([{"question": question, "levels": [one, *levels]}], MARGIN), setting.root / "parts" / "parts")
    networks = f"{repeats} ensembles of {count} of each kind, each with a first order and a first seed of its own"
    return [
        f"published: {published.CLAIMS['ensemble']}; it does not say in what its networks differ",
        *_table(count, found, levels),
        *_against_all(levels),
        *lost_in_words([result for results in found.values() for result in results]),
        *differences(setting, networks=networks if repeats > 1 else f"one ensemble of {count} of each kind, so the cuts have no interval"),
    ]


def _programs(setting: Setting, repeat: int) -> dict[str, list[Program]]:
    """The programs of one ensemble of each kind, by what its networks differ in. All have one network in common.

    The networks of other repeats have other seeds and other orders.
    """
    count, config = setting.seeds, setting.loaded
    order, seed = config.data.seed + repeat * count, config.ensemble.seed + repeat * count
    overrides, root = setting.overrides, setting.root / "runs"
    if repeat:
        overrides = changed(overrides, [f"data.seed={order}", f"ensemble.seed={seed}"])
        root = setting.root / "parts" / f"runs-{repeat + 1}-of-{count}"  # a directory's own name leaves overrides out

    def pack(*chosen: Point, seeds: int = 1, orders: int = 1) -> list[Program]:
        return points.pack(setting.config, overrides, chosen, seeds, root, setting.args.max_members, orders)

    base = Point(BASE, {})
    draws = [Point(f"draws {seed + i}", {"draws": str(seed + i)}) for i in range(count)]
    return {
        "their first weights": pack(draws[0], seeds=count),
        "what dropout and augmentation draw": pack(*draws),
        "their seeds, so both": pack(base, seeds=count),
        "the order of the images": pack(base, *(Point(f"order {order + i}", {"data.seed": str(order + i)}) for i in range(1, count))),
        ALL: pack(base, orders=count),
    }


def _tested(setting: Setting, name: str, programs: list[Program]) -> dict[str, Any]:
    """The test errors of the networks of some programs, alone and together."""
    path = setting.root / "parts" / f"{re.sub(r'[ ,]+', '-', name)}.json"
    return evaluate([program.directory for program in programs], path, "centre crop", setting.loaded.data.test_split)


def _level(kind: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """What ensembles of one kind gain over their own networks, in the form of `comparison.compare`'s levels."""
    together, alone = (np.array([result[name] for result in results]) for name in ("ensemble_top1_error", "mean_top1_error"))
    changes = 100 * (together - alone)
    difference = statistics.mean_interval(changes, "ensembles")
    return {
        "level": kind,
        "paired_seeds": list(range(len(changes))),
        "differences": changes.tolist(),
        "difference": difference._asdict(),
        "verdict": statistics.verdict(difference, MARGIN)._asdict(),
    }


def _table(count: int, found: dict[str, list[dict[str, Any]]], levels: list[dict[str, Any]]) -> list[str]:
    rows = [[f"{count} networks that differ in", "test error, mean ± std", "together", "gain, points", "cut", "disagree"]]
    for (kind, results), level in zip(found.items(), levels, strict=True):
        names = ("mean_top1_error", "std_top1_error", "ensemble_top1_error", "relative_cut", "disagreement")
        mean, std, together, cut, disagree = (100 * np.mean([result[name] for result in results]) for name in names)
        gain, low, high = (-level["difference"][name] for name in ("mean", "high", "low"))
        interval = f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else ""
        rows.append([kind, f"{mean:.2f} ± {std:.2f} %", f"{together:.2f} %", f"{gain:.2f}{interval}", f"{cut:.1f} %", f"{disagree:.1f} %"])
    return aligned(rows, "<>", gap=3).splitlines()


def _against_all(levels: list[dict[str, Any]]) -> list[str]:
    """Whether ensembles that differ in one kind of chance alone gain less than those that differ in all, corrected by Holm's method."""
    changes = {level["level"]: np.array(level["differences"]) for level in levels}
    everything = changes.pop(ALL)
    compared = [statistics.mean_interval(each - everything, "ensembles") for each in changes.values()]
    adjusted = statistics.holm([difference.p for difference in compared])
    return [
        f"the gain, if they differ in {kind}, instead of in all: {statistics.verdict(difference, MARGIN, p).words}"
        for kind, difference, p in zip(changes, compared, adjusted, strict=True)
    ]
