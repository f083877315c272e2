"""How selective for colour and for orientation each filter of conv1 is, and whether the two towers specialise.

    python -m experiments.towers --run runs/photographs --out towers
    python -m experiments.towers --run runs/photographs --learnt --out towers    without the random weights that training began with

The paper's Figure 3 says of its two towers that one is "largely color-agnostic" and the other "largely color-specific", in every run. Here
that is an index, the difference between the towers' mean colour shares, with its spread over the run's networks, and a permutation test of
each network: how often two random halves of its filters differ as much. Needs a network on colour images; the towers need groups=2
(`caffenet`, `caffe`, `paper`). After a short training filters still look like their first weights; --learnt subtracts those. In the
folder, each figure as PNG and SVG:

    towers.json    colour share, orientation, selectivity and frequency of each filter; index and p of each network
    filters        the filters of the first network, tower by tower, by their colour share
    measures       the same filters by colour share and orientation selectivity
    towers         the towers' mean colour shares in each network, and what random halves would have
    result.txt     what is printed
"""

import argparse
import json
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli
from alexnet_jax.tables import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet_jax.subject import Subject

PADDED = 64  # pixels to which a filter is padded for its spectrum
DRAWS = 10_000  # of the permutation test


class Filters(NamedTuple):
    """Measures of the filters of one conv1: arrays (filters,)."""

    colour: np.ndarray  # share of the weights' energy that is not grey: 0 for a grey filter, 1 for one whose channels sum to 0
    orientation: np.ndarray  # degrees in [0, 180) of the stripes; 90 are vertical
    selectivity: np.ndarray  # 0 for a round spectrum, 1 for one in a single direction
    frequency: np.ndarray  # cycles a pixel, at the spectrum's peak; 0 for a filter without stripes


def measure(kernels: np.ndarray) -> Filters:
    """Measure the kernels (size, size, 3, filters) of a first layer."""
    kernels = kernels.astype(np.float64)
    tiny = np.finfo(np.float32).tiny
    colour = ((kernels - kernels.mean(2, keepdims=True)) ** 2).sum((0, 1, 2)) / np.maximum((kernels**2).sum((0, 1, 2)), tiny)
    power = (np.abs(np.fft.fft2(kernels, (PADDED, PADDED), axes=(0, 1))) ** 2).sum(2)
    frequencies = np.fft.fftfreq(PADDED)
    y, x = np.meshgrid(frequencies, frequencies, indexing="ij")
    distance, angle = np.hypot(y, x)[..., None], np.arctan2(y, x)[..., None]
    away = np.where((distance > 0) & (distance <= 0.5), power, 0)  # the mean has no direction, and the corners not all directions
    doubled = (away * np.exp(2j * angle)).sum((0, 1))  # a direction and its opposite are one
    peak = power.reshape(-1, power.shape[-1]).argmax(0)
    return Filters(
        colour,
        (np.rad2deg(np.angle(doubled)) / 2 + 90) % 180,
        np.abs(doubled) / np.maximum(away.sum((0, 1)), tiny),
        distance.ravel()[peak],
    )


class Test(NamedTuple):
    """A permutation test of whether the first and the second half of some filters differ in their mean colour shares."""

    difference: float  # of the mean colour shares
    p: float  # how often random halves differ as much
    chance: float  # 95 % of random halves differ by less


def specialisation(colours: Sequence[np.ndarray]) -> tuple[list[Test], float]:
    """The test of each network's colour shares (filters,), and the p of all together: how often the differences' mean is as large."""
    rng, tests, random = np.random.default_rng(0), [], []
    for colour in colours:
        half = len(colour) // 2
        index = float(abs(colour[:half].mean() - colour[half:].mean()))
        shuffled = rng.permuted(np.tile(colour, (DRAWS, 1)), axis=1)
        random.append(np.abs(shuffled[:, :half].mean(1) - shuffled[:, half:].mean(1)))
        tests.append(Test(index, _p(index, random[-1]), float(np.quantile(random[-1], 0.95))))
    return tests, _p(float(np.mean([test.difference for test in tests])), np.mean(random, 0))


def _p(index: float, random: np.ndarray) -> float:
    return float((1 + (random >= index - 1e-12).sum()) / (1 + DRAWS))


def first_kernels(subject: "Subject") -> np.ndarray:
    """The kernels (M, size, size, 3, filters) that training began with; their seeds give them again.

    Raises:
      UserError: it began with other weights.
    """
    from alexnet_jax.history import is_imported

    run = subject.run
    if is_imported(run.workdir) or run.config.train.init_from:
        raise UserError(
            f"{run.workdir} didn't begin with random weights, so what it has learnt can't be told from them; leave --learnt out"
        )
    every = np.asarray(run.network.init_state().params["conv1"]["kernel"])
    return every[[run.network.member_names.index(member) for member in subject.members]]


def filters_figure(kernels: np.ndarray, found: Filters, towers: bool, note: str) -> "Figure":
    """The kernels (size, size, 3, filters) of one network, tower by tower, the greyest first; each divided by its largest weight."""
    from matplotlib.figure import Figure

    from alexnet_jax.report.style import INK, WIDTH

    halves = np.split(np.arange(len(found.colour)), 2) if towers else [np.arange(len(found.colour))]
    columns, rows = 12, -(-len(halves[0]) // 12)
    cell, above = WIDTH / columns, 0.32  # inches
    height = len(halves) * (rows * cell + above) + (above if note else 0)
    figure = Figure(figsize=(WIDTH, height))
    for t, half in enumerate(halves):
        top = height - (above if note else 0) - t * (rows * cell + above)
        name = ("first tower", "second tower")[t] if towers else "filters"
        figure.text(0.01, (top - 0.25) / height, f"{name}: {100 * found.colour[half].mean():.0f} % colour", color=INK, fontweight="bold")
        for place, filter in enumerate(half[np.argsort(found.colour[half])]):
            row, column = divmod(place, columns)
            left, bottom = column * cell + 0.02, top - above - (row + 1) * cell + 0.02
            axes = figure.add_axes((left / WIDTH, bottom / height, (cell - 0.04) / WIDTH, (cell - 0.04) / height))
            kernel = kernels[..., filter]
            axes.imshow(0.5 + 0.5 * kernel / max(np.abs(kernel).max(), np.finfo(np.float32).tiny), interpolation="none")
            axes.axis("off")
    if note:
        figure.text(0.01, (height - 0.25) / height, note, color=INK, fontweight="bold", parse_math=False)
    return figure


def measures_figure(found: Filters, towers: bool, note: str) -> "Figure":
    """The filters of one network by colour share and orientation selectivity, in the colours of their towers."""
    from matplotlib.figure import Figure

    from alexnet_jax.report.style import COLOURS, INK, WIDTH, style_axes, write_note

    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axes, count = figure.subplots(), len(found.colour)
    halves = {"first tower": slice(count // 2), "second tower": slice(count // 2, None)} if towers else {"filters": slice(None)}
    for (name, half), colour in zip(halves.items(), COLOURS, strict=False):
        axes.plot(100 * found.colour[half], found.selectivity[half], color=colour, marker="o", linestyle="none", alpha=0.8, label=name)
    axes.axvline(200 / 3, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="random weights")  # two of three colour axes are not grey
    axes.set(xlim=(-2, 102), ylim=(-0.02, 1.02), xlabel="colour share of the weights (%)", ylabel="orientation selectivity")
    axes.set_title("Filters of conv1")
    style_axes(axes)
    write_note(figure, note)
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def towers_figure(found: list[Filters], names: list[str], tests: list[Test], note: str) -> "Figure":
    """The towers' mean colour shares, a row for each network, and the band in which those of 95 % of random halves lie."""
    from matplotlib.figure import Figure

    from alexnet_jax.report.style import COLOURS, INK, RULE, WIDTH, printable, style_axes, write_note

    figure = Figure(figsize=(WIDTH, 1.4 + 0.4 * len(found)), layout="constrained")
    axes = figure.subplots()
    for row, (one, test) in enumerate(zip(found, tests, strict=True)):
        middle = 100 * one.colour.mean()
        axes.plot(
            middle + 50 * test.chance * np.array([-1, 1]), [row, row], color=RULE, linewidth=9, label="random halves" if not row else None
        )
        for half, name, colour in zip(np.split(one.colour, 2), ("first tower", "second tower"), COLOURS, strict=False):
            axes.plot([100 * half.mean()], [row], color=colour, marker="o", linestyle="none", label=None if row else name)
    axes.set_yticks(range(len(names)), [printable(name) for name in names])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("mean colour share of the tower's filters (%)")
    axes.set_title("Colour of the towers")
    style_axes(axes)
    write_note(figure, note)
    axes.grid(False, axis="y")
    axes.legend(frameon=False, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=3)
    return figure


def table(found: list[Filters], names: list[str], tests: list[Test], p: float) -> str:
    """A row for each network, and the index over all of them. Without `tests` there is one tower."""
    rows: list[tuple[str, ...]] = [("", "colour share", "selectivity", *(["difference", "by chance", "p"] if tests else []))]
    for m, (name, one) in enumerate(zip(names, found, strict=True)):
        test = [f"{100 * tests[m].difference:.1f} points", f"below {100 * tests[m].chance:.1f}", f"{tests[m].p:.4f}"] if tests else []
        rows.append((name, f"{100 * one.colour.mean():.1f} %", f"{one.selectivity.mean():.2f}", *test))
    text = aligned(rows, "<>")
    if not tests:
        return f"{text}\nThis network has one tower."
    index, small = np.array([test.difference for test in tests]), sum(test.p < 0.05 for test in tests)
    spread = f" ± {100 * index.std(ddof=1):.1f}" if len(index) > 1 else ""
    differ = f"{100 * index.mean():.1f}{spread} points"
    together = f"; all together p = {p:.4f}" if len(tests) > 1 else ""
    words = (
        f"The towers' mean colour shares differ by {differ}; in {small} of {len(tests)} networks by more than those of random "
        f"halves (p < 0.05){together}. The paper's Figure 3: one tower largely colour-agnostic, the other largely colour-specific."
    )
    return f"{text}\n\n{textwrap.fill(words, 110)}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.towers", description="Measure whether the two towers of conv1 specialise in colour."
    )
    parser.add_argument("--run", required=True, type=config_lib.path, metavar="DIR", help="a run directory")
    parser.add_argument(
        "--step", default="last", metavar="N", help="the checkpoint: last (default), best by validation accuracy, or a step"
    )
    parser.add_argument("--learnt", action="store_true", help="measure what training has added: the weights minus those at its start")
    parser.add_argument("--note", default="", help="a line for the figure, such as `the weights are random`")
    parser.add_argument("--out", required=True, type=config_lib.path, metavar="DIR", help="the folder for the numbers and the figures")
    args = parser.parse_args(argv)

    from alexnet_jax import parallel
    from alexnet_jax.history import plain
    from alexnet_jax.report.page import write_result
    from alexnet_jax.report.style import any_script
    from alexnet_jax.runlog import writing
    from alexnet_jax.subject import ENSEMBLE, open_networks
    from experiments.ablate.figures import save

    parallel.start()
    subject = open_networks(args.run, ENSEMBLE, args.step)
    if subject.channels != 3:
        raise UserError(f"{args.run} is for images of {subject.channels} channel(s), which have no colour; choose a run on colour images")
    kernels = np.asarray(subject.params["conv1"]["kernel"])
    if args.learnt:
        kernels = kernels - first_kernels(subject)
    note = "; ".join(filter(None, [args.note, "what training has added" * args.learnt]))
    found = [measure(one) for one in kernels]
    towers = subject.model.arch.groups == 2
    tests, p = specialisation([one.colour for one in found]) if towers else ([], np.nan)
    about = f"{args.run} at step {int(subject.run.state.step):,}{f': {note}' if note else ''}"
    text = f"{about}\n{table(found, subject.members, tests, p)}"
    record = {
        "run": str(args.run),
        "step": int(subject.run.state.step),
        "learnt": args.learnt,
        "networks": {name: one._asdict() for name, one in zip(subject.members, found, strict=True)},
        "index": [test.difference for test in tests],
        "p": [test.p for test in tests],
        "p_together": p,
    }
    with writing(args.out), any_script():
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "towers.json").write_text(json.dumps(plain(record), indent=1) + "\n")
        save(filters_figure(kernels[0], found[0], towers, note), args.out / "filters")
        save(measures_figure(found[0], towers, note), args.out / "measures")
        if towers:
            save(towers_figure(found, subject.members, tests, note), args.out / "towers")
        write_result(args.out, text)
    print(text)
    print(f"written to {args.out}")


if __name__ == "__main__":
    run_cli(main)
