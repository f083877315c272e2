"""Trains a study and reports it: the table, the files and the figures of an ablation.

`ablate` and `reproduce` call it:

    study = make_study("configs/digits.py", [], ["lrn"], seeds=5, root=out / "runs")
    if trained := train_study(study, out, args):    # None for a dry run
        found = report(trained, MARGIN, out)
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.ablate.rates import MORE
from experiments.launch.train import train

if TYPE_CHECKING:
    from experiments.ablate.study import Study

MARGIN = 0.5  # percentage points: the smallest difference in test error that matters


def train_study(study: "Study", out: Path, args: argparse.Namespace) -> "Study | None":
    """Train a study's programs, then those that depend on their results; returns the study with all of them. The printed plan lists the
    levels. A dry run only prints the plan, as far as it depends on no missing result, and returns None.

    Raises:
      UserError: a run failed or was stopped.
    """
    from experiments.ablate.findings import extended
    from experiments.launch.results import status

    if args.dry_run:
        while all(status(program.directory).state == "finished" for program in study.searched) and (longer := extended(study)) != study:
            study = longer
    while train(study.programs, out, args, _plan_notes(study), _later(study)):
        longer = extended(study)
        if longer == study:
            return study
        study = longer
    return None


def _later(study: "Study") -> int:
    """About how many networks depend on the results of a study's first programs: a round of further rates, and those that are compared."""
    if study.chooses_apart and study.compared:
        return 0
    return len(study.rates) * (MORE * study.choosing * bool(study.budget) + study.orders * study.seeds * study.chooses_apart)


def _plan_notes(study: "Study") -> list[str]:
    lines = [""]
    for name, (levels, notes) in study.factors.items():
        lines.append(f"{name}: {'; '.join(f'{level} ({point.name})' for level, point in levels.items())}")
        lines += [f"  note: {note}" for note in notes]
    tried = list(dict.fromkeys(rate for rates in study.rates.values() for rate in rates))
    if tried:
        lines.append(f"learning rates, except in the factor `ensemble`: {', '.join(tried)}")
        if study.budget:
            lines.append(f"  each level whose best is at an end then trains at further ones, {study.budget} at most")
        if study.chooses_apart:
            lines.append(
                f"  chosen on {study.choosing} networks of each, which are not compared; at its best rate each level then trains "
                f"{study.orders * study.seeds} other networks, which are compared"
            )
    return lines + study.skipped


def protocol(study: "Study") -> dict[str, str]:
    """How the study was measured, as pairs of label and text, from the records of its first run."""
    from alexnet_jax import history, run
    from alexnet_jax.record import machine
    from experiments.launch import results

    first = study.programs[0]
    record, past = run.read_config(first.directory), history.load(first.directory)
    config, dataset, start, test = record["config"], record["dataset"], past.start, past.test
    weights = f"; all networks start from those of {config['train']['init_from']}" if config["train"]["init_from"] else ""
    seconds = sum(history.load(program.directory).seconds for program in study.programs)
    split = results.same_split(study.programs)
    return {
        "config": " ".join([first.config, *(f"--config.{override}" for override in study.overrides)]),
        "dataset": f"{dataset['name']}, {len(dataset['classes'])} classes, {' x '.join(map(str, dataset['image_shape']))} pixels",
        "training": f"{start['images']:,} images ({config['data']['train_split']}), at most {config['train']['epochs']:g} epochs, "
        f"batches of {config['train']['batch_size']}",
        "test": f"{test['count']:,} images ({test['split']}), centre crop, the networks of the last step"
        + (f"; the plateau rule used {split} too, to lower the learning rate" if split else ""),
        "seeds": f"{study.seeds * study.orders}, the first is {config['ensemble']['seed']}; a seed sets initial weights, dropout and "
        f"augmentation{weights}",
        "orders": "one order of the images, which is the same for all networks"
        if study.orders == 1
        else f"{study.orders} orders of the images (data.seed from {config['data']['seed']}), each with seeds of its own: {study.seeds}",
        **_rates(study),
        "networks": f"{sum(program.members for program in study.programs)} in {len(study.programs)} programs, {seconds:,.0f} s of training",
        "machine": machine(record),
    }


def _rates(study: "Study") -> dict[str, str]:
    """How each level's learning rate was chosen, and what that took."""
    from alexnet_jax import history

    if not any(study.rates.values()):
        return {}
    seconds = sum(history.load(program.directory).seconds for program in study.searched)
    how = f"found by widening the range, at most {study.budget} for a level" if study.budget else "given"
    networks = f"the mean of {study.choosing} networks" if study.choosing > 1 else "that of one network"
    apart = "; these networks have seeds and an order of the images of their own, and are not compared" * study.chooses_apart
    return {
        "rates": f"{how}; each level is compared at the one with its lowest validation error, {networks}; trained "
        f"for this: {sum(program.members for program in study.searched)} networks, {seconds:,.0f} s{apart}"
    }


def report(study: "Study", margin: float, out: Path) -> dict[str, Any]:
    """Compare a study's finished runs: print the table, write it and the figures below `out`, and return the content of ablation.json."""
    from alexnet_jax.runlog import command
    from experiments.ablate import files as ablation_files
    from experiments.ablate.findings import compare

    found = {
        "command": command(),
        "protocol": protocol(study),
        "margin": margin,
        "orders": study.orders,
        "skipped": study.skipped,
        "factors": compare(study, margin),
    }
    print(f"\n{ablation_files.text(found)}\n\nwritten: {', '.join(map(str, ablation_files.write(found, out)))}")
    return found
