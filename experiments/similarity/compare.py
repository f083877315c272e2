"""Compares the networks of some runs: their layers, their first filters and their answers.

The command (__main__.py) calls it:

    found = compare([networks_of("runs/digits", members=3), networks_of("runs/no_lrn", members=3)], "test", layers)
    found.cka    # (networks * layers, networks * layers)
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.features import batches
from alexnet_jax.model.alexnet import LAST
from alexnet_jax.subject import ENSEMBLE, Subject, in_order, open_dataset, open_networks
from experiments.similarity import cka, diversity, filters

BATCH = 250  # examples in a minibatch of CKA, or all there are


class Group(NamedTuple):
    """Networks of one run at one checkpoint."""

    name: str
    subject: Subject


class Found(NamedTuple):
    """What was compared. N networks are those of all groups, in their order."""

    groups: list[str]
    group_of: np.ndarray  # (N,)
    networks: list[str]
    layers: list[str]
    images: int
    where: str
    cka: np.ndarray  # (N, layers, N, layers)
    kernels: list[np.ndarray]  # of conv1
    matchings: dict[tuple[int, int], filters.Matching]  # of pairs of networks with first filters of one shape
    errors: np.ndarray  # (N,)
    ensemble_error: float
    pairs: diversity.Pairs
    note: str = ""  # shown on the page and in every figure

    def between(self, first: int, second: int) -> np.ndarray:
        """CKA of each layer with itself (pairs, layers), for all pairs of different networks, one of each of two groups."""
        one, other = (np.flatnonzero(self.group_of == group) for group in (first, second))
        every = [(i, j) for i in one for j in other if i != j and (first != second or i < j)]
        same = np.arange(len(self.layers))
        return np.array([self.cka[i, same, j, same] for i, j in every]).reshape(-1, len(self.layers))


def networks_of(run: str, members: int) -> Group:
    """The first members of `RUN` or `RUN@STEP`.

    Raises:
      UserError: the run can't be loaded.
    """
    workdir, at, step = run.rpartition("@") if "@" in Path(run).name else (run, "", "last")
    subject = open_networks(Path(workdir).expanduser(), ENSEMBLE, step)
    kept = slice(members)
    import jax

    params, hyper = jax.tree.map(lambda leaf: leaf[kept], (subject.params, subject.hyper))
    name = f"{Path(workdir).resolve().name}{f' at step {int(subject.run.state.step):,}' if at else ''}"
    return Group(name, subject._replace(members=subject.members[kept], params=params, hyper=hyper))


def compare(groups: list[Group], split: str, layers: list[str], data_dir: Path | None) -> Found:
    """Compare the networks of all groups on one split of their dataset.

    Raises:
      UserError: the groups are of different datasets, a run is named twice, a network has other classes, or the split is too small.
    """
    groups = _told_apart(groups)
    datasets = [open_dataset(group.subject, data_dir) for group in groups]
    for group, dataset in zip(groups, datasets, strict=True):
        if (dataset.name, dataset.digest) != (datasets[0].name, datasets[0].digest):
            other = "another one of this name" if dataset.name == datasets[0].name else dataset.name
            raise UserError(
                f"{groups[0].name} is of the dataset {datasets[0].name}, {group.name} of {other}; compare runs of one dataset, or name one "
                "with --data-dir"
            )
    groups = [group._replace(subject=in_order(group.subject, dataset)) for group, dataset in zip(groups, datasets, strict=True)]
    sources = [dataset.source(split) for dataset in datasets]
    if len(sources[0]) < cka.LEAST:
        raise UserError(f"{split} holds {len(sources[0])} images; comparing takes at least {cka.LEAST}")
    batch_size = min(BATCH, len(sources[0]))
    asked = list(dict.fromkeys([*layers, LAST]))
    streams = [_streamed(group.subject, source, asked, batch_size) for group, source in zip(groups, sources, strict=True)]
    similarity, logits, labels = cka.MinibatchCKA(), [], []
    for parts in zip(*streams, strict=True):
        for group, part in zip(groups, parts, strict=True):
            if not all(np.array_equal(part[field], parts[0][field]) for field in ("image", "label")):
                raise UserError(f"{split} of {group.name} holds other examples than that of {groups[0].name}; name one with --data-dir")
        outputs = [{layer: part[layer][m] for layer in asked} for part in parts for m in range(len(part[LAST]))]
        if len(parts[0]["label"]) >= cka.LEAST:
            similarity.add([cka.gram(network[layer]) for network in outputs for layer in layers])
        logits.append(np.stack([network[LAST] for network in outputs]))
        labels.append(parts[0]["label"])
    answers, label = np.concatenate(logits, 1).astype(np.float64), np.concatenate(labels)
    log_probs = answers - np.logaddexp.reduce(answers, axis=-1, keepdims=True)
    sizes = [len(group.subject.members) for group in groups]
    kernels = [
        np.asarray(group.subject.params["conv1"]["kernel"][m]) for group, size in zip(groups, sizes, strict=True) for m in range(size)
    ]
    count = len(kernels)
    return Found(
        [group.name for group in groups],
        np.repeat(np.arange(len(groups)), sizes),
        [f"{group.name}, {member}" if len(groups) > 1 else member for group in groups for member in group.subject.members],
        layers,
        len(label),
        f"{datasets[0].name}, {split}",
        similarity.value().reshape(count, len(layers), count, len(layers)),
        kernels,
        {
            (i, j): filters.match(kernels[i], kernels[j])
            for i in range(count)
            for j in range(i + 1, count)
            if kernels[i].shape == kernels[j].shape
        },
        (log_probs.argmax(-1) != label).mean(1),
        float((diversity.average(log_probs).argmax(-1) != label).mean()),
        diversity.pairs(label, log_probs),
    )


def _told_apart(groups: list[Group]) -> list[Group]:
    """The groups, by their runs' paths if two of these have the same name.

    Raises:
      UserError: one is named twice.
    """
    paths = [group.subject.run.workdir for group in groups]
    for one, other in itertools.combinations(range(len(groups)), 2):
        if groups[one].name == groups[other].name and paths[one].resolve() == paths[other].resolve():
            raise UserError(f"{groups[one].name} is named twice: each of its networks would count as two; leave it out once")
    if len({group.name for group in groups}) == len(groups):
        return groups
    steps = [group.name.removeprefix(path.resolve().name) for group, path in zip(groups, paths, strict=True)]
    return [group._replace(name=f"{path}{step}") for group, path, step in zip(groups, paths, steps, strict=True)]


def _streamed(subject, source, layers, batch_size):
    from alexnet_jax import parallel

    return batches(subject, source, layers, parallel.even(batch_size))
