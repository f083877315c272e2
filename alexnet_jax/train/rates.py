"""Who changes the learning rates of a run: the plateau rule, a person (control.py), or the record of another run.

    plateau.mode = auto          the rule drops a rate when validation accuracy plateaus
                   suggest       the run says that the accuracy has plateaued, and waits for a person to drop the rate
                   manual        only a person drops it
                   replay:RUN    the changes of another run, at their steps

The loop (loop.py) tells its `Rates` of each evaluation and command, logs the events that come back, and gives the train step the controls:

    events = rates.after_evaluation(step, accuracy)
    state, metrics = program(state, rates.controls, batch)
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import history, resample
from alexnet_jax import hyper as hyper_lib
from alexnet_jax.errors import UserError
from alexnet_jax.hyper import Hyper
from alexnet_jax.state import Controls
from alexnet_jax.train import plateau as plateau_lib
from alexnet_jax.train.plateau import Plateau

Event = dict[str, Any]  # an event of the log: `event` is its kind, the rest are its fields


class Policy(NamedTuple):
    """Who may change the rates, as a config's plateau section says."""

    mode: str  # one of plateau.MODES
    settings: ConfigDict
    replayed: list[dict[str, Any]]  # drop and rate events of the run to replay, each with the `members` of this run that follow it


def make_policy(settings: ConfigDict, members: int) -> Policy:
    """The policy of a config's plateau section.

    Raises:
      UserError: an unknown mode, or a run to replay that is none, or one with another number of members; all members follow the only one.
    """
    mode, _, source = settings.mode.partition(":")
    if mode not in plateau_lib.MODES or (mode == "replay") != bool(source):
        raise UserError(f"plateau.mode is {settings.mode!r}; known: auto, suggest, manual, replay:RUN")
    return Policy(mode, settings, _changes(source, members) if source else [])


class Rates:
    """The hyperparameters and plateaus of a run's members, on the host, and all that changes them.

    What changes a rate returns the events that tell of it; the loop logs them when it is sure of them.

    Args:
      schedule: `factor(step)` of every member's rate.
      place: puts controls on the devices.
      shear_to: the largest rotation that the train step can do; None if it can do any.
    """

    def __init__(
        self,
        policy: Policy,
        hyper: Hyper,
        plateau: Plateau,
        schedule: Callable[[int], Any],
        place: Callable[[Controls], list[Controls]],
        shear_to: float | None = None,
    ) -> None:
        self.hyper, self.plateau = hyper, plateau
        self._shear_to = shear_to
        self._policy, self._schedule, self._place = policy, schedule, place
        self._placed: list[Controls] | None = None

    @property
    def controls(self) -> list[Controls]:
        """What the train step reads, on the devices. They stay there until something changes."""
        if self._placed is None:
            self._placed = self._place(self._on_host())
        return self._placed

    def in_force(self, step: int) -> np.ndarray:
        """The members' learning rates at a step, float32 (M,)."""
        return np.asarray(self._on_host().learning_rate(np.float32(self._schedule(step))))

    def after_evaluation(self, step: int, accuracy: np.ndarray) -> list[Event]:
        """Take the members' validation accuracies (M,) into account."""
        settings, mode = self._policy.settings, self._policy.mode
        observed = {"patience": settings.patience, "min_delta": settings.min_delta}
        if mode == "auto":
            rule = {"factor": settings.factor, "max_drops": settings.max_drops, "cooldown": settings.cooldown}
            after = plateau_lib.update(self.plateau, accuracy, **observed, **rule)
            return self._change_plateau(after, step, settings.factor, "plateau")
        after, plateaued = plateau_lib.observe(self.plateau, accuracy, **observed)
        self._change(self.hyper, after)
        if mode != "suggest":
            return []
        message = "validation accuracy has plateaued: drop the rate? (python -m alexnet_jax.control RUN drop)"
        said = np.flatnonzero(plateaued & (after.stale == settings.patience))
        return [{"event": "warning", "member": int(member), "message": message} for member in said]

    def retire(self, members: np.ndarray) -> None:
        """Some members (M,) are frozen: they are done, so no drop and no command is about them."""
        self._change(self.hyper, replace(self.plateau, done=self.plateau.done | members))

    def replay(self, step: int) -> list[Event]:
        """Repeat the changes that the replayed run made at this step."""
        events: list[Event] = []
        for event in self._policy.replayed:
            if event["step"] == step:
                members = np.isin(np.arange(self.hyper.members), event["members"])
                if "factor" in event:
                    events += self._drop(members, step, event["factor"], 0, "replay")
                else:
                    events += self._set_rate(members, step, event["value"], 0, "replay")
        return events

    def obey(self, step: int, command: dict[str, Any]) -> list[Event]:
        """Carry out a person's command. The last event is the answer. A command that makes no sense changes nothing."""
        try:
            outcome, events = self._carry_out(step, command)
        except (UserError, KeyError, TypeError, ValueError, OverflowError) as error:  # a line may hold anything
            outcome, events = f"refused: {error}", []
        who = {name: command.get(name) for name in ("id", "by", "sent", "command", "member", "factor", "name", "value")}
        return [*events, {"event": "control", **who, "outcome": outcome}]

    def _carry_out(self, step: int, command: dict[str, Any]) -> tuple[str, list[Event]]:
        """What became of a command, and the changes of rates that it made."""
        match command["command"]:
            case "drop":
                members, named = self._addressed(command.get("member"))
                events = self._drop(members, step, _number(command["factor"]), self._policy.settings.cooldown, "control")
                now = np.unique(self.in_force(step)[members])
                return f"learning rate of {named} is now {', '.join(f'{rate:.3g}' for rate in now)}", events
            case "set":
                members, named = self._addressed(command.get("member"))
                name, value = str(command["name"]), _number(command["value"])
                hyper_lib.check_settable(name)
                hyper_lib.check_range(name, value)
                if name == "rotation":
                    resample.check_rotation(value, self._shear_to)
                done = f"{name} of {named} is now {value:g}"
                if name == "learning_rate":
                    return done, self._set_rate(members, step, value, self._policy.settings.cooldown, "control")
                self._set(members, name, value)
                return done, []
            case "save":
                return "saved", []
            case "stop":
                return "saved and stopped", []
            case other:
                raise UserError(f"unknown command {other!r}")

    def _addressed(self, member: int | None) -> tuple[np.ndarray, str]:
        """The members (M,) that a command is about, and their name; members that are done take none."""
        count, done = self.hyper.members, self.plateau.done
        if member is not None and (type(member) is not int or not 0 <= member < count):
            raise UserError(f"no member {member}; members are 0 to {count - 1}")
        members = ~done & (np.ones(count, bool) if member is None else np.arange(count) == member)
        named = "all members" if member is None else f"member {member}"
        if not members.any():
            raise UserError(
                f"{named} {'are' if member is None else 'is'} done: nothing is learnt any more after the last plateau, or once frozen"
            )
        return members, f"{named} but {done.sum()} that are done" if member is None and done.any() else named

    def _drop(self, members: np.ndarray, step: int, factor: float, cooldown: int, reason: str) -> list[Event]:
        plateau_lib.check_factor(factor)
        return self._change_plateau(plateau_lib.drop(self.plateau, members, factor=factor, cooldown=cooldown), step, factor, reason)

    def _set_rate(self, members: np.ndarray, step: int, value: float, cooldown: int, reason: str) -> list[Event]:
        """Set the rate itself: earlier drops no longer scale it."""
        self._set(members, "learning_rate", value)
        self._change(self.hyper, plateau_lib.restart(self.plateau, members, cooldown=cooldown))
        now = self.in_force(step)
        return [
            {"event": "rate", "member": int(member), "learning_rate": now[member], "value": value, "reason": reason}
            for member in np.flatnonzero(members)
        ]

    def _set(self, members: np.ndarray, name: str, value: float) -> None:
        leaf = np.where(members, np.float32(value), getattr(self.hyper, name))
        self._change(replace(self.hyper, **{name: leaf}), self.plateau)

    def _change_plateau(self, after: Plateau, step: int, factor: float, reason: str) -> list[Event]:
        """Adopt a plateau state; returns the drops that it has more than before."""
        dropped = np.flatnonzero(after.drops > self.plateau.drops)
        self._change(self.hyper, after)
        now = self.in_force(step)
        return [
            {"event": "drop", "member": int(member), "learning_rate": now[member], "factor": factor, "reason": reason} for member in dropped
        ]

    def _change(self, hyper: Hyper, plateau: Plateau) -> None:
        self.hyper, self.plateau, self._placed = hyper, plateau, None

    def _on_host(self) -> Controls:
        return Controls(self.hyper, self.plateau.scale, self.plateau.done)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise UserError(f"{value} is not a number")
    return float(value)


def _changes(source: str, members: int) -> list[dict[str, Any]]:
    """The drop and rate events of a run that is to be replayed, each with the `members` of this run that follow it."""
    past = history.load(source)
    found = past.start.get("members", 0)
    if found not in (1, members):
        raise UserError(f"plateau.mode=replay:{source}: that run has {found} members, this one {members}: it must have as many, or one")
    everyone = list(range(members))
    return [event | {"members": everyone if found == 1 else [event["member"]]} for event in past.rates]
