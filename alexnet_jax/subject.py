"""The networks of a run that are looked into: all of them, or one, without those that diverged.

`explain`, `features` and the experiments on what networks learnt begin with it:

    subject = open_networks(Path("runs/digits"), member="ensemble", step="last")
    outputs = subject.each(subject.outputs)(subject.views(image))    # {layer: (M, ...)}
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import data, run, turns
from alexnet_jax.augment import evaluation_view
from alexnet_jax.errors import UserError, did_you_mean, say
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.forward import layer_outputs

ENSEMBLE = "ensemble"
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


class Subject(NamedTuple):
    """M networks of a run: all that have not diverged, or one."""

    run: run.Run
    members: list[str]
    params: Any  # leaves (M, ...)
    hyper: Hyper  # leaves (M,)
    labels: tuple[str, ...]  # what people are shown for each class
    channels: int

    @property
    def model(self) -> AlexNet:
        """The network; it computes in float32."""
        model = self.run.network.model
        return AlexNet(dataclasses.replace(model.arch, dtype="float32"), model.classes)

    @property
    def who(self) -> str:
        return self.members[0] if len(self.members) == 1 else f"the ensemble of {len(self.members)}"

    @property
    def short_labels(self) -> tuple[str, ...]:
        return data.short_labels(self.run.classes, self.labels)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the layers' outputs for one image: (height, width, filters) or (units,)."""
        view = jnp.zeros((self.model.arch.input_size,) * 2 + (self.channels,))
        return {layer: x.shape for layer, x in jax.eval_shape(self.outputs, *self.first, view).items()}

    @property
    def first(self) -> tuple[Any, Hyper]:
        """The parameters and the hyperparameters of the first network."""
        return jax.tree.map(lambda leaf: leaf[0], (self.params, self.hyper))

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(params, hyper, *arrays)` of one network as a compiled function of arrays (M, ...), for all M."""
        in_turn = turns.plan(len(self.members), self.run.config.train.members_per_program)
        program, networks = jax.jit(jax.vmap(function)), in_turn.split((self.params, self.hyper))

        def call(*arrays: Any) -> Any:
            parts = zip(networks, in_turn.split(arrays), strict=True)
            return jax.tree.map(np.asarray, in_turn.join([program(*of_turn, *part) for of_turn, part in parts]))

        return call

    def outputs(self, params: Any, hyper: Hyper, view: jax.Array) -> dict[str, jax.Array]:
        """One network's outputs of all layers for one view, without the batch's axis."""
        return {name: x[0] for name, x in layer_outputs(self.model, params, view[None], hyper).items()}

    def views(self, image: np.ndarray) -> np.ndarray:
        """What each network sees of a picture: float32 (M, size, size, C)."""
        size, stats = self.model.arch.input_size, self.run.stats
        return np.stack(
            [
                evaluation_view(jnp.asarray(image), jax.tree.map(lambda leaf, m=m: leaf[m], self.hyper), stats, size)
                for m in range(len(self.members))
            ]
        )

    def crop(self, image: np.ndarray) -> np.ndarray:
        """The part of a picture (height, width, C) that the networks see, before the mean is subtracted."""
        size = self.model.arch.input_size
        top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
        return image[top : top + size, left : left + size]

    def target(self, name: str) -> int:
        """The class with this name or index.

        Raises:
          UserError: there is none.
        """
        for names in (self.run.classes, self.labels):
            if name in names:
                return names.index(name)
        if name.isdecimal() and int(name) < len(self.labels):
            return int(name)
        raise UserError(f"--target {name}: {self.run.workdir} knows no such class{did_you_mean(name, self.run.classes)}")


def open_networks(workdir: Path, member: str | None, step: str) -> Subject:
    """Load one member of a run, or with `ensemble` all; without either, the first. Those that diverged in training are left out, and named
    on stderr.

    Raises:
      UserError: the run can't be loaded, it has no such member, or the member has diverged.
    """
    loaded, record = run.load(workdir, step), run.read_config(workdir)["dataset"]
    names = loaded.network.member_names
    healthy = [m for m in range(len(names)) if all(np.isfinite(leaf[m]).all() for leaf in jax.tree.leaves(loaded.state.params))]
    chosen = healthy if member == ENSEMBLE else healthy[:1] if member is None else [loaded.member(member)]
    if not chosen or not set(chosen) <= set(healthy):
        raise UserError(f"{workdir}: {member or 'every member'} diverged in training; choose another --member, --step or --run")
    passed = {None: chosen[0], ENSEMBLE: len(names)}.get(member, 0)
    if lost := [names[m] for m in range(passed) if m not in healthy]:
        say(f"left out of {workdir}, because they diverged in training: {', '.join(lost)}", sys.stderr)
    params, hyper = jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], (loaded.state.params, loaded.state.hyper))
    return Subject(loaded, [names[m] for m in chosen], params, hyper, data.class_labels(record), record["image_shape"][2])


def open_dataset(subject: Subject, data_dir: Path | None) -> data.Dataset:
    """As `run.open_dataset`."""
    return run.open_dataset(subject.run, data_dir)


def in_order(subject: Subject, dataset: data.Dataset) -> Subject:
    """The subject with its last layer in the order of a dataset's classes.

    Raises:
      UserError: the run has other classes, or has no names for them.
    """
    loaded = run.in_order(subject.run, dataset.name, dataset.classes)
    chosen = [loaded.network.member_names.index(member) for member in subject.members]
    params = jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], loaded.state.params)
    return subject._replace(run=loaded, params=params, labels=dataset.labels)


def layer_range(text: str) -> list[str]:
    """`conv3` or `conv1..conv5` as the names of layers.

    Raises:
      UserError: a name is unknown, or the range is empty.
    """
    first, dots, last = text.partition("..")
    for name in (first, *([last] if dots else [])):
        if name not in LAYERS:
            raise UserError(f"unknown layer {name!r}{did_you_mean(name, LAYERS)}")
    found = LAYERS[LAYERS.index(first) : LAYERS.index(last or first) + 1]
    if not found:
        raise UserError(f"{text} is an empty range; write {last}..{first}")
    return list(found)
