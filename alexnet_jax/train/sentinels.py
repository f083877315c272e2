"""Watches a run: whether each member learns, whether its errors make sense, whether the data keep up. Each finding is one warning.

    frozen           the loss or a gradient was not finite: the member learns nothing any more (train/step.py)
    stalled          after an epoch the loss is still not below ln(classes), which is what guessing gives
    contradiction    one of training and validation error is good, and the other that of guessing
    waiting          the devices wait for data

The loop (loop.py) owns one, and logs the events that come back:

    events = sentinels.after_training(step, epoch, values, frozen, member)
    events = sentinels.after_evaluation(step, errors, frozen, member)
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from alexnet_jax import data, parallel
from alexnet_jax.hyper import Hyper
from alexnet_jax.train.diagnosis import Findings, examine
from alexnet_jax.train.meter import NEVER
from alexnet_jax.train.rates import Event
from alexnet_jax.train.setup import Setup

# Steps, and an epoch too, before a loss at chance is worth a warning: on few images healthy networks need some epochs to take off.
STALLED_AFTER = 100
NEAR = 5e-3  # the part of ln(classes) by which a loss must be below it to show learning
LOOKED_AT = 64  # images that are looked at to say why a member doesn't learn
GOOD, GUESSED = 0.5, 0.95  # an error, as a part of the error of guessing, that is good, and one that is no better than guessing
WAITING = 0.1  # the fraction of the time for which devices may wait for data

Member = Callable[[int], tuple[Any, Hyper]]  # a member's number -> its parameters and hyperparameters now


class Sentinels:
    """What is watched, and what was told already.

    Args:
      told: (sentinel, member) of the warnings that the log has.
    """

    def __init__(self, setup: Setup, told: Iterable[tuple[str, int | None]]) -> None:
        self._setup, self._told = setup, set(told)
        self._members, self._classes = setup.network.hyper.members, len(setup.dataset.classes)
        self._errors = np.full(self._members, np.nan)  # in training, of the newest training event
        self._begun = False
        self.stalled: list[int] = []  # members that didn't learn at the last training event

    def after_training(self, step: int, epoch: float, values: dict[str, Any], frozen: np.ndarray, member: Member) -> list[Event]:
        """Look at the values of a training event (meter.py); `frozen` (M,) are the steps that froze members."""
        events = self._tell_frozen(frozen, member)
        self._errors, chance = values["error"], math.log(self._classes)
        self.stalled = []
        if epoch >= 1 and step >= STALLED_AFTER:
            self.stalled = np.flatnonzero(values["loss"] >= (1 - NEAR) * chance).tolist()
        for number in self.stalled:
            if self._is_news("stalled", number):
                why = self._examine(number, step, member, LOOKED_AT)[0].not_learning()
                message = f"not learning: the loss is {values['loss'][number]:.4g}, and guessing gives ln(classes) = {chance:.3f}; {why}"
                events.append(_warning("stalled", message, number))
        # The first event of a process counts how the reading of the data gets going.
        if values["waiting"] > WAITING and self._begun and self._is_news("waiting", None):
            message = (
                f"the devices wait for data {values['waiting']:.0%} of the time; "
                f"raise data.threads={self._setup.config.data.threads} on a machine with more cores, or prepare smaller images"
            )
            events.append(_warning("waiting", message))
        self._begun = True
        return events

    def after_evaluation(self, errors: np.ndarray, frozen: np.ndarray, member: Member) -> list[Event]:
        """Look at the members' validation errors (M,)."""
        events, guessing = self._tell_frozen(frozen, member), 1 - 1 / self._classes
        for number in np.flatnonzero(frozen == NEVER).tolist():
            training, validation = self._errors[number], errors[number]
            both = f"the training error is {training:.1%} and the validation error {validation:.1%}"
            if training <= GOOD * guessing and validation >= GUESSED * guessing and self._is_news("contradiction", number):
                message = f"{both}, that of guessing: either its labels don't match its images, or the network learns the images by heart"
                events.append(_warning("contradiction", message, number))
            elif validation <= GOOD * guessing and training >= GUESSED * guessing and self._is_news("contradiction", number):
                message = f"{both}: augmentation or dropout leave the training images unrecognisable; lower the strengths in config.augment"
                events.append(_warning("contradiction", message, number))
        return events

    def _tell_frozen(self, frozen: np.ndarray, member: Member) -> list[Event]:
        events = []
        for number in np.flatnonzero(frozen != NEVER).tolist():
            if self._is_news("frozen", number):
                found, names = self._examine(number, int(frozen[number]), member)
                rate = float(np.asarray(member(number)[1].learning_rate))
                message = (
                    f"diverged, and frozen: the loss or a gradient of step {frozen[number]:,} is not finite; {found.not_finite(names)}. "
                    f"Lower its learning rate, {rate:.3g}"
                )
                events.append(_warning("frozen", message, number))
        return events

    def _examine(self, number: int, step: int, member: Member, most: int | None = None) -> tuple[Findings, np.ndarray]:
        """A member's training step computed again, and the indices of its examples in the training split."""
        setup, size = self._setup, self._setup.config.train.batch_size
        stream = data.train_batches(
            setup.sources["train"], batch_size=size, seed=setup.config.data.seed, position=(step - 1) * size, threads=1
        )
        batch = {name: leaf[:most] for name, leaf in next(stream).items()}
        names = data.stream_indices(len(setup.sources["train"]), setup.config.data.seed, batch["index"])
        # A whole batch may not fit into the one device that looks at it; what a device has at a time in a step does.
        pieces = 1 if most else parallel.count_devices() * setup.config.train.accumulate
        return examine(setup.network.model, setup.dataset.stats, *member(number), batch, setup.shear_to, pieces), names

    def _is_news(self, sentinel: str, number: int | None) -> bool:
        """Whether this was not told before; from now on it was."""
        news = (sentinel, number) not in self._told
        self._told.add((sentinel, number))
        return news


def _warning(sentinel: str, message: str, member: int | None = None) -> Event:
    return {"event": "warning", "sentinel": sentinel, "message": message} | ({} if member is None else {"member": member})
