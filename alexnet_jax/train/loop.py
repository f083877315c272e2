"""The training loop: what a run holds between steps, and what happens at which of them.

`python -m alexnet_jax.train` calls `train(config, workdir)`. A `Loop` takes a batch, a step, and now and then evaluates, drops a rate,
obeys a command, saves. The devices own the networks (`Loop.parts`), the host owns the hyperparameters and plateaus (`Loop.rates`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import checkpoint, data, exchange, history, memory, metrics, parallel, run, turns
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import UserError
from alexnet_jax.history import plain
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.forward import make_log_probs, make_sums
from alexnet_jax.runlog import RunLog
from alexnet_jax.state import Networks, TrainState
from alexnet_jax.train import plateau, schedule
from alexnet_jax.train.feed import Feed
from alexnet_jax.train.inbox import Inbox, StopSignal
from alexnet_jax.train.meter import NEVER, Meter
from alexnet_jax.train.profile import Profile
from alexnet_jax.train.rates import Event, Rates
from alexnet_jax.train.saves import Saves
from alexnet_jax.train.sentinels import Sentinels
from alexnet_jax.train.setup import Setup, prepare, replayed_elsewhere, seen_in_training
from alexnet_jax.train.step import make_train_step


class Ties(NamedTuple):
    """The run's ties to its directory and to its user."""

    log: RunLog
    checkpoints: Checkpoints
    inbox: Inbox
    stop: StopSignal
    profile: Profile


def train(config: ConfigDict, workdir: Path, profiled: int = 0) -> dict[str, Any] | None:
    """Train to the end, or until a signal; returns the test results, None for a run that was stopped.

    Args:
      profiled: steps of which process 0 writes a trace.

    Raises:
      UserError: as `prepare`; or a config that contradicts the run that the directory holds; a program that can't fit into memory; a
        member that doesn't learn, if `train.on_stall` says so.
    """
    setup, free = prepare(config)
    setup = setup._replace(resampling=exchange.first_says(lambda: run.resampling(workdir, setup.resampling)))
    _check_place(workdir)
    fresh, notes = run.start_state(workdir, setup.network, config, setup.dataset.classes)
    first, total, patience = exchange.is_first(), setup.timeline.total, 60 * config.train.disk_patience
    with Inbox(workdir, first) as inbox:  # from here on the directory is this process's
        notes += exchange.first_says(lambda: _claim(workdir, setup))
        with (
            RunLog(workdir, total, patience, first) as log,
            Checkpoints(workdir, first) as checkpoints,
            StopSignal() as stop,
            Profile(workdir / "profile", profiled if first else 0, log) as profile,
        ):
            started = time.perf_counter()
            loop = Loop(setup, free, Ties(log, checkpoints, inbox, stop, profile), fresh)
            del fresh  # the loop has it on the devices
            for note in [*notes, *([*seen_in_training(setup), *replayed_elsewhere(setup)] if loop.step == 0 else [])]:
                log.event("warning", loop.step, message=note)
            reason = loop.run()
            loop.save_at_last()
            predictions = None if reason in ("stopped", "stalled") else loop.test()
            reason = reason if predictions or reason == "stalled" else "stopped"  # the test too may have been stopped
            test = exchange.first_says(lambda: _keep(workdir, loop.step, config, predictions)) if predictions else None
            if reason != "stopped":
                loop.turn_away()
            log.event("end", loop.step, reason=reason, seconds=time.perf_counter() - started, test=test)
    if reason == "stalled":
        stalled = ", ".join(map(str, loop.sentinels.stalled))
        go_on = "the same command with --config.train.on_stall=warn goes on"
        raise UserError(f"stopped at step {loop.step:,} and saved: not learning, member {stalled} (train.on_stall=stop); {go_on}")
    return test


def _claim(workdir: Path, setup: Setup) -> list[str]:
    """Hold the run that the directory has, if any, against this one, and write config.json; returns warnings for the user."""
    if (saved := history.saved_step(workdir)) > setup.timeline.total:
        epochs = f"train.epochs={setup.config.train.epochs:g} ends at step {setup.timeline.total:,}"
        raise UserError(f"{workdir} holds a run at step {saved:,}, {epochs}; use another --workdir, or more epochs")
    return run.write_config(workdir, setup.config, setup.dataset, setup.resampling)


def _keep(workdir: Path, step: int, config: ConfigDict, predictions: metrics.Predictions) -> dict[str, Any]:
    """Write the predictions of the finished networks; returns the test results."""
    run.save_predictions(workdir, step, metrics.answers(predictions))
    return {"split": config.data.test_split, **metrics.summarise(predictions)}


def _check_place(workdir: Path) -> None:
    """Refuse a directory that can't take checkpoints, and a process 0 that doesn't see what others see of the run: where each machine has a
    disk of its own, it would begin anew.
    """
    checkpoint.check_place(workdir)
    steps = exchange.everyone_says(max(checkpoint.steps(workdir), default=-1))
    if max(steps) > steps[0]:
        where = f"process {steps.index(max(steps))} has checkpoint {max(steps)} in its {workdir}"
        raise UserError(f"{where}, and process 0 doesn't; let the machine that has the run be process 0, or put it where process 0 sees it")


class Loop:
    """What a run holds between steps, and what happens at which of them.

    Args:
      free: bytes of a device that were free before anything was placed there.
      fresh: the state of a run that has not begun; where there is a checkpoint, its shapes are enough.
    """

    def __init__(self, setup: Setup, free: int, ties: Ties, fresh: TrainState) -> None:
        self.config, self.dataset, self.sources, self.timeline, self.network, self.turns, policy, split, _ = setup
        self.shear_to = setup.shear_to
        self.log, self.checkpoints, self.inbox, self.stop, self.profile = ties
        self.free = free
        self.predict = turns.over_devices_predict(make_log_probs(self.network.model, self.dataset.stats), self.turns)
        self.sums = parallel.over_devices_sum(make_sums(parallel.DEVICES))
        members = self.network.hyper.members
        self.meter = Meter(self.config.train.batch_size, members)
        self.saves = Saves(self.checkpoints, self.log, 60 * self.config.train.disk_patience)

        networks = Networks(fresh.step, fresh.params, self.network.hyper)
        training = {"opt_state": fresh.opt_state, "plateau": plateau.init(members), "meter": self.meter.state()}
        found, warnings = exchange.first_says(lambda: self.saves.newest({"networks": networks, "training": training}))
        record: dict[str, Any] = {"evaluated": 0, "commands": [], "accuracy": None, "best": -1.0}
        if found:
            networks, training, record = found.trees["networks"], found.trees["training"], found.record
            self.meter.resume(int(networks.step), training["meter"])
        self.step = int(networks.step)
        self.parts = turns.place(TrainState(networks.step, networks.params, training["opt_state"]), self.turns)
        self.evaluated = record["evaluated"]  # the step of the last whole evaluation
        self.accuracy, self.best = record["accuracy"], record["best"]  # of the ensemble: at that evaluation, and the highest so far
        self.inbox.taken = list(record["commands"])
        self.schedule = schedule.make_schedule(self.config, self.timeline)
        self.rates = Rates(
            policy, networks.hyper, training["plateau"], self.schedule, partial(turns.place, turns=self.turns), self.shear_to
        )
        if found:
            self.saves.resume(self.step, self._record())
            self.log.event("resume", self.step, evaluated=self.evaluated)
        self.log.event(
            "start",
            self.step,
            members=members,
            member_names=self.network.member_names,
            steps=self.timeline.total,
            steps_per_epoch=self.timeline.steps_per_epoch,
            devices=", ".join(parallel.describe()),
            images=len(self.sources["train"]),
        )
        if split:
            self.log.event("split", self.step, message=split)
        for message in warnings:
            self.log.event("warning", self.step, message=message)
        workdir = self.checkpoints.directory.parent
        self._tell(exchange.first_says(lambda: history.missing(workdir, self.step, record.get("untold", []))))
        self.sentinels = Sentinels(setup, exchange.first_says(lambda: history.load(workdir).told))

    @cached_property
    def train_step(self) -> Callable:
        """The train step, compiled when it is first needed. Says what it takes of the memory.

        Raises:
          UserError: it can't fit.
        """
        network, axis, accumulate = self.network, self.turns.batch_axis, self.config.train.accumulate
        step = make_train_step(network.model, network.make_optimizer, self.dataset.stats, self.schedule, axis, accumulate, self.shear_to)
        batch = data.blank_batch(self.config.train.batch_size // exchange.process()[1], self.dataset.image_shape)
        program = turns.TrainProgram(step, self.turns, self.parts, self.rates.controls, parallel.shard(batch))
        needs = memory.of_program(self.parts, self.turns, program.compiled)
        self.log.event("memory", self.step, message=f"{needs}; {memory.size(self.free)} are free", needed=needs.total, free=self.free)
        memory.check(needs, self.free)
        return self.profile.watch(program, self.step)

    def run(self) -> str:
        """Step until there is a reason to end.

        Returns:
          `epochs`; `done`: every member plateaued after its last drop; `diverged`: every member is frozen; `stalled`: a member doesn't
          learn, and `train.on_stall` is stop; or `stopped`.
        """
        with Feed(self._train_batches(), self._has_news) as feed:
            return self._run(feed)

    def _run(self, feed: Feed) -> str:
        first, calls, called = self.step, parallel.Calls(), True
        while True:
            # What changes at a step is in its checkpoint: a run that resumes at a step has it already.
            if self.step > first:
                self._tell(self.rates.replay(self.step))
            diverged = bool((self.meter.frozen != NEVER).all())
            evaluates = self._due(self.timeline.evaluate_every) or self._ends or diverged
            if evaluates and self.evaluated < self.step and not self.validate():
                return "stopped"
            if diverged:
                return "diverged"
            if self.rates.plateau.done.all():
                return "done"
            if self._ends:
                return "epochs"
            if self.step > first:
                if called:
                    self.obey()
                if self._due(self.timeline.checkpoint_every):
                    self.save()
            program = self.train_step
            if called and exchange.any_says(self.stop.requested):
                return "stopped"
            self.parts, step_metrics = program(self.parts, self.rates.controls, self.next_batch(feed))
            self.step += 1
            called = calls.heard(step_metrics)
            self.meter.add(step_metrics, feed.waited())
            if self._due(self.timeline.log_every) or self._ends:
                self._log_training()
                if self.sentinels.stalled and self.config.train.on_stall == "stop":
                    return "stalled"
            if called:
                self.saves.look(self.step)

    def _has_news(self) -> bool:
        """Whether this process has something that all must take up at the same step."""
        return self.stop.requested or self.inbox.look() or self.saves.has_news

    def next_batch(self, feed: Feed) -> dict[str, Any]:
        """The next batch, on the devices. Where the data fail, what has been learnt is saved first, if this process can do so alone."""
        try:
            return feed.take(lambda: self.meter.busy)
        except Exception:
            if not exchange.several():  # the others are in a step that waits for this process
                self.save_at_last()
            raise

    def validate(self) -> bool:
        """Evaluate on the validation split and let the plateau take it into account; False when a signal came in between.

        An evaluation that comes only because the run ends here moves no plateau: a run that is prolonged is the run of more epochs.
        """
        self.meter.settle()
        with self.meter.pause():
            split = self.config.data.validation_split
            result = metrics.sum_over_split(
                self._eval_step,
                self._batches("validation"),
                len(self.sources["validation"]),
                lambda: exchange.any_says(self.stop.requested),
            )
            if result is None:
                return False
            regular = self._due(self.timeline.evaluate_every)
            frozen = self.meter.frozen
            self.evaluated, self.accuracy = self.step, 1 - float(result["ensemble_top1_error"])
            self.log.event("eval", self.step, epoch=self._epoch, split=split, closing=not regular or None, **result)
            self._tell(self.sentinels.after_evaluation(result["top1_error"], frozen, self._member))
            if regular:
                self.rates.retire(frozen != NEVER)
                self._tell(self.rates.after_evaluation(self.step, 1 - result["top1_error"]))
            if self.accuracy > self.best:
                self.best = self.accuracy
                self.save()
        return True

    def obey(self) -> None:
        """Take up the commands that have come, save, so that none takes effect twice, and answer them."""
        commands = exchange.first_says(self.inbox.poll)
        if not commands:
            return
        events = [event for command in commands for event in self.rates.obey(self.step, command)]
        asked = {command["command"] for command in commands}
        self.stop.requested |= "stop" in asked
        if refused := self.save(asked="save" in asked, wait=True, untold=events):
            for event in events:
                if event["event"] == "control":
                    event["outcome"] = f"not saved ({refused}); {event['outcome'].removeprefix('saved')}".rstrip("; ")
        self._tell(events)

    def turn_away(self) -> None:
        """Answer the commands that came too late: none of them waits for a prolongation."""
        late = exchange.first_says(lambda: self.inbox.poll(now=True))
        if late:
            self.save_at_last()
        for command in late:
            who = {name: command.get(name) for name in ("id", "by", "sent", "command")}
            self.log.event("control", self.step, **who, outcome="refused: the run had made its last step")

    def test(self) -> metrics.Predictions | None:
        """The final networks on the test split; None when a signal came in between."""
        log_probs = make_log_probs(self.network.model, self.dataset.stats)

        def until_stopped(batches: Iterator[dict]) -> Iterator[dict]:
            for batch in batches:
                if exchange.any_says(self.stop.requested):
                    raise InterruptedError
                yield batch

        with suppress(InterruptedError):
            return metrics.predict_split(
                turns.predictor(log_probs, self.turns, *self._on_devices()),
                until_stopped(parallel.whole_but_images(self._batches("test"))),
                len(self.sources["test"]),
                self.network.member_names,
            )
        return None

    def save(self, asked: bool = False, wait: bool = False, untold: Sequence[Event] = ()) -> str | None:
        """Save both sides under the step, unless just this is saved already; returns why the disk refused, None where it didn't.

        Args:
          asked: keep this checkpoint for good.
          wait: return when it is on disk.
          untold: events of this step that are logged when it is saved; a run that is killed in between logs them when it resumes.

        Raises:
          UserError: the disk has refused for as long as `train.disk_patience`.
        """
        extra = ({"asked": True} if asked else {}) | ({"untold": plain(list(untold))} if untold else {})
        self.meter.settle()
        with self.meter.pause():
            trees = self._trees()
            return exchange.first_says(lambda: self.saves.save(self.step, self._record(), trees, wait, **extra))

    def save_at_last(self) -> None:
        """Save, and return when it is on disk; a disk that refuses gets as long as `train.disk_patience`.

        Raises:
          UserError: it has refused for longer.
        """
        trees = self._trees()
        exchange.first_says(lambda: self.saves.save_at_last(self.step, self._record(), trees))

    def _trees(self) -> Callable[[], dict[str, Any]]:
        """Makes both sides, on the host of process 0. Joined there: on the devices the state would be there twice."""
        parts = self.turns.within_reach(self.parts)

        def trees() -> dict[str, Any]:
            state = self.turns.on_host(parts)
            training = {"opt_state": state.opt_state, "plateau": self.rates.plateau, "meter": self.meter.state()}
            return {"networks": Networks(state.step, state.params, self.rates.hyper), "training": training}

        return trees

    def _record(self) -> dict[str, Any]:
        """What a checkpoint says of its place in the run."""
        accuracy = self.accuracy if self.evaluated == self.step else None  # of other networks it says nothing
        return {"evaluated": self.evaluated, "commands": list(self.inbox.taken), "accuracy": accuracy, "best": self.best}

    def _tell(self, events: Sequence[Event]) -> None:
        """Log events of this step."""
        for event in events:
            self.log.event(event["event"], self.step, **{name: value for name, value in event.items() if name != "event"})

    def _train_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """The run's batches from here on."""
        return data.train_batches(
            self.sources["train"],
            batch_size=self.config.train.batch_size,
            seed=self.config.data.seed,
            position=self.step * self.config.train.batch_size,
            threads=self.config.data.threads,
            process=exchange.process(),
        )

    def _member(self, number: int) -> tuple[Any, Hyper]:
        """One member's parameters and hyperparameters as they are now."""
        hyper = jax.tree.map(lambda leaf: leaf[number], self.rates.hyper)
        return self.turns.member([part.params for part in self.parts], number), hyper

    def _on_devices(self) -> tuple[list[Any], list[Any]]:
        """The parameters and hyperparameters of each turn."""
        return [part.params for part in self.parts], [controls.hyper for controls in self.rates.controls]

    def _eval_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        shares = parallel.shard(batch)
        return self.sums(self.predict(*self._on_devices(), shares["image"]), shares)

    def _batches(self, role: str) -> Iterator[dict]:
        return data.eval_batches(
            self.sources[role],
            batch_size=parallel.even(self.config.eval.batch_size),
            threads=self.config.data.threads,
            process=exchange.process(),
        )

    def _log_training(self) -> None:
        regular = self._due(self.timeline.log_every)
        values = self.meter.read(go_on=not regular)
        speed = values["images_per_second"]
        self.log.event(
            "train",
            self.step,
            epoch=self._epoch,
            closing=not regular or None,
            member_images_per_second=speed * self.network.hyper.members,
            **values,
        )
        self._tell(self.sentinels.after_training(self.step, self._epoch, values, self.meter.frozen, self._member))

    def _due(self, every: int) -> bool:
        return self.step > 0 and self.step % every == 0

    @property
    def _ends(self) -> bool:
        return self.step >= self.timeline.total

    @property
    def _epoch(self) -> float:
        return self.step / self.timeline.steps_per_epoch
