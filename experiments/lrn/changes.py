"""The errors of a run's networks with other LRN constants: at once, and after brief retraining with them.

The command (__main__.py) calls both:

    changes = all_changes(subject)
    errors(subject, dataset.source("test"), changes[0])              # (M,)
    retrained(subject, changes[0], 2.0, 0.1, data_dir=None, out=out)  # (M,)
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax import data, history, metrics, parallel, run, turns
from alexnet_jax.errors import UserError
from alexnet_jax.examples import Examples
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.forward import make_log_probs
from alexnet_jax.subject import Subject


class Change(NamedTuple):
    """Other constants of LRN."""

    name: str  # of its folder
    text: str
    hyper: Hyper  # leaves (M,)
    size: int


def all_changes(subject: Subject) -> list[Change]:
    """As trained, without LRN in two ways, and each constant moved."""
    hyper, size = subject.hyper, subject.model.arch.lrn_size
    factor = {f"alpha_times_{by:g}": by for by in (0.1, 10, 100)}
    found = [
        Change("as_trained", "as trained", hyper, size),
        Change("constant", "the constant k^beta alone", hyper.replace(lrn_alpha=0 * hyper.lrn_alpha), size),  # type: ignore[attr-defined]
        Change("off", "no LRN", hyper.replace(lrn_k=0 * hyper.lrn_k + 1, lrn_alpha=0 * hyper.lrn_alpha), size),  # type: ignore[attr-defined]
    ]
    found += [
        Change(name, f"alpha times {by:g}", hyper.replace(lrn_alpha=by * hyper.lrn_alpha), size)  # type: ignore[attr-defined]
        for name, by in factor.items()
    ]
    found += [
        Change(f"beta_{beta:g}", f"beta = {beta:g}", hyper.replace(lrn_beta=0 * hyper.lrn_beta + beta), size)  # type: ignore[attr-defined]
        for beta in (0.5, 1.0)
    ]
    return found + [Change(f"size_{other}", f"n = {other}", hyper, other) for other in (1, 2 * size - 1)]


def errors(subject: Subject, source: Examples, change: Change) -> np.ndarray:
    """The top-1 errors (M,) on a split of the trained networks with these constants."""
    arch = dataclasses.replace(subject.model.arch, lrn_size=change.size)
    config, members = subject.run.config, subject.members
    in_turn = turns.plan(len(members), config.train.members_per_program)
    networks = [turns.place(tree, in_turn) for tree in (subject.params, change.hyper)]
    program = turns.predictor(make_log_probs(AlexNet(arch, subject.model.classes), subject.run.stats), in_turn, *networks)
    batches = data.eval_batches(source, batch_size=parallel.even(min(config.eval.batch_size, len(source))), threads=config.data.threads)
    labels, log_probs, _ = metrics.predict_split(program, batches, len(source), members)
    return np.array([metrics.top_k_error(labels, member, 1) for member in log_probs])


def retrained(subject: Subject, change: Change, epochs: float, rate: float, data_dir: Path | None, out: Path) -> np.ndarray:
    """The top-1 errors (M,) on the run's test split after training on with these constants, at `rate` times the run's first learning rate.

    The run is in OUT/NAME; a finished one is only read.

    Raises:
      UserError: the subject isn't the whole run, another version of the project made it, the training was stopped, the finished run is of
        other settings, or as `train`.
    """
    from alexnet_jax.train.loop import train
    from configs import imagenet

    if len(subject.members) < subject.run.network.hyper.members:
        raise UserError(f"some members of {subject.run.workdir} have diverged, so it can't be trained on; leave --retrain out")
    if missing := config_lib.flat(imagenet.get_config()).keys() - config_lib.flat(subject.run.config).keys():
        named = f"{subject.run.workdir} was made by another version of this project"
        raise UserError(f"{named}: its config has no {', '.join(sorted(missing))}; leave --retrain out")
    workdir = out / change.name
    config = subject.run.config.copy_and_resolve_references().unlock()
    rows = [{field: np.asarray(leaf)[m].item() for field, leaf in vars(change.hyper).items()} for m in range(len(subject.members))]
    for row in rows:
        row["learning_rate"] *= rate
    config.ensemble.members = "; ".join(", ".join(f"{field}={value!r}" for field, value in row.items()) for row in rows)
    config.model.lrn_size = change.size
    config.train.init_from, config.train.init_step = str(subject.run.workdir), str(int(subject.run.state.step))
    config.train.epochs = epochs
    config.optimizer.schedule, config.plateau.mode = "constant", "manual"
    config.data.dir = str(data_dir or config.data.dir)
    if not history.has_checkpoint(workdir) or not history.load(workdir).test:
        train(config.lock(), workdir)
    elif different := run.check_config(workdir, config).get("train.epochs"):
        raise UserError(f"{workdir} was trained on for {different[0]:g} epochs, now it is {epochs:g}; use another --out")
    if not (test := history.load(workdir).test):
        raise UserError(f"{workdir} was stopped; the same command goes on")
    return np.array(test["top1_error"])
