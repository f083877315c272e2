"""The hand on the learning rate, whoever's it is: the plateau machine's, a person's (control.py), or the record of another run.

    plateau.mode = auto          the machine drops a rate when validation accuracy plateaus
                   suggest       it says that the accuracy has plateaued, and waits for a person to drop it
                   manual        only a person drops it
                   replay:RUN    the drops of another run, at their steps

A hand takes a state and gives back one with other small leaves; the loop decides what to do with it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import hyper, plateau
from alexnet_jax.errors import UserError
from alexnet_jax.runlog import RunLog, read_events
from alexnet_jax.step import TrainState


class Hand:
    """Moves the learning rates of a run and tells its log."""

    def __init__(self, settings: ConfigDict, members: int) -> None:
        """The hand that a config's plateau section describes.

        Raises:
          UserError: an unknown mode, or a run to replay that is none, or one of another number of members; all follow the only one.
        """
        self._settings = settings
        self._mode, _, source = settings.mode.partition(":")
        if self._mode not in plateau.MODES or (self._mode == "replay") != bool(source):
            raise UserError(f"plateau.mode is {settings.mode!r}; known: auto, suggest, manual, replay:RUN")
        self._replayed = _drops(source, members) if source else []
        self._log: RunLog
        self._rate_factor: Callable

    def begin(self, log: RunLog, rate_factor: Callable) -> None:
        """Take up a run's log, and the schedule of its rate, `factor(step)`."""
        self._log, self._rate_factor = log, rate_factor

    def after_evaluation(self, state: TrainState, step: int, accuracy: np.ndarray) -> TrainState:
        """Take the members' validation accuracies (M,) into account."""
        settings, before, accuracy = self._settings, state.plateau, np.asarray(accuracy, np.float32)
        if self._mode == "auto":
            after = plateau.update(
                before,
                accuracy,
                patience=settings.patience,
                min_delta=settings.min_delta,
                factor=settings.factor,
                max_drops=settings.max_drops,
                cooldown=settings.cooldown,
            )
            return self._moved(state, after, step, "plateau", settings.factor)
        after, plateaued = plateau.observe(before, accuracy, patience=settings.patience, min_delta=settings.min_delta)
        if self._mode == "suggest":
            for member in np.flatnonzero(np.asarray(plateaued) & (np.asarray(after.stale) == settings.patience)):
                self._log.event(
                    "warning", step, member=int(member), message="validation accuracy has plateaued: drop the rate? (control.py)"
                )
        return replace(state, plateau=after)

    def replay(self, state: TrainState, step: int) -> TrainState:
        """Repeat the drops that the run which is replayed made at this step."""
        for event in self._replayed:
            if event["step"] == step:
                members = np.isin(np.arange(state.hyper.members), event["members"])
                dropped = plateau.drop(state.plateau, members, factor=event["factor"], cooldown=0)
                state = self._moved(state, dropped, step, "replay", event["factor"])
        return state

    def obey(self, state: TrainState, step: int, command: dict[str, Any]) -> tuple[TrainState, dict[str, Any]]:
        """Carry out a person's command; returns the answer too, to be logged when it is true. One that makes no sense changes nothing."""
        try:
            state, outcome = self._carry_out(state, step, command)
        except (UserError, KeyError, TypeError, ValueError) as error:
            outcome = f"refused: {error}"
        who = {name: command.get(name) for name in ("id", "by", "sent", "command", "member", "factor", "name", "value")}
        return state, {**who, "outcome": outcome}

    def _carry_out(self, state: TrainState, step: int, command: dict[str, Any]) -> tuple[TrainState, str]:
        count, member = state.hyper.members, command.get("member")
        if member is not None and not 0 <= member < count:
            raise UserError(f"no member {member}; members are 0 to {count - 1}")
        done = np.asarray(state.plateau.done)
        members = ~done & (np.ones(count, bool) if member is None else np.arange(count) == member)
        of = "all members" if member is None else f"member {member}"
        if command["command"] in ("drop", "set") and not members.any():
            raise UserError(f"{of} {'are' if member is None else 'is'} done: after the last plateau nothing is learnt any more")
        if member is None and done.any():
            of += f" but {done.sum()} that are done"
        match command["command"]:
            case "drop":
                factor = float(command["factor"])
                plateau.check_factor(factor)
                dropped = plateau.drop(state.plateau, members, factor=factor, cooldown=self._settings.cooldown)
                state = self._moved(state, dropped, step, "control", factor)
                now = np.unique(self._rates(state, step)[members])
                return state, f"learning rate of {of} is now {', '.join(f'{rate:.3g}' for rate in now)}"
            case "set":
                name, value = command["name"], float(command["value"])
                hyper.check_settable(name)
                hyper.check_range(name, value)
                leaf = np.where(members, np.float32(value), np.asarray(getattr(state.hyper, name)))
                state = replace(state, hyper=replace(state.hyper, **{name: leaf}))
                if name == "learning_rate":  # the rate itself, not what earlier drops would make of it
                    scale = np.where(members, np.float32(1), np.asarray(state.plateau.scale))
                    state = replace(state, plateau=replace(state.plateau, scale=scale))
                return state, f"{name} of {of} is now {value:g}"
            case "save" | "stop" as action:
                return state, {"save": "saved", "stop": "saved and stopped"}[action]
            case other:
                raise UserError(f"unknown command {other!r}")

    def _moved(self, state: TrainState, after: plateau.Plateau, step: int, reason: str, factor: float) -> TrainState:
        """Adopt a plateau state and log the drops that it holds more than before."""
        dropped = np.flatnonzero(np.asarray(after.drops) > np.asarray(state.plateau.drops))
        state = replace(state, plateau=after)
        now = self._rates(state, step)
        for member in dropped:
            self._log.event("drop", step, member=int(member), learning_rate=now[member], factor=factor, reason=reason)
        return state

    def _rates(self, state: TrainState, step: int) -> np.ndarray:
        """The members' learning rates at a step, as hyperparameters, drops and the schedule make them, float32 (M,)."""
        return np.asarray(state.hyper.learning_rate) * np.asarray(state.plateau.scale) * np.float32(self._rate_factor(step))


def _drops(source: str, members: int) -> list[dict[str, Any]]:
    """The drops of a run that is to be replayed, each with the `members` of this run that follow it."""
    events = read_events(Path(source))
    found = next((event["members"] for event in events if event["event"] == "start"), 0)
    if found not in (1, members):
        raise UserError(f"plateau.mode=replay:{source}: that run has {found} members, this one {members}: it must have as many, or one")
    everyone = list(range(members))
    drops = [event for event in events if event["event"] == "drop"]
    return [event | {"members": everyone if found == 1 else [event["member"]]} for event in drops]
