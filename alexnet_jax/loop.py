"""The training loop: what a run holds between steps, and what happens at which of them."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import data, evaluate, memory, parallel, run, schedule, turns
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.control import Inbox, StopSignal
from alexnet_jax.data import Dataset
from alexnet_jax.errors import UserError
from alexnet_jax.hand import Hand
from alexnet_jax.meter import Meter
from alexnet_jax.run import Network
from alexnet_jax.runlog import RunLog
from alexnet_jax.schedule import Plan
from alexnet_jax.step import TrainState, make_log_probs, make_sums, make_train_step

# Steps, and an epoch too, before a loss at chance is worth a warning: on few images healthy networks need some epochs to take off.
STALLED_AFTER = 100


class Setup(NamedTuple):
    """What a config and a dataset make of a run, before its directory is touched."""

    config: ConfigDict
    dataset: Dataset
    sources: dict[str, Any]  # role -> random access to the examples of its split
    plan: Plan
    network: Network
    turns: turns.Turns
    hand: Hand
    memory: int  # bytes of a device that were free


class Outside(NamedTuple):
    """The run's ties to its directory and to its user."""

    log: RunLog
    checkpoints: Checkpoints
    inbox: Inbox
    stop: StopSignal


def prepare(config: ConfigDict) -> Setup:
    """Open the dataset, and hold the config against it and against the devices.

    Raises:
      UserError: a config that makes no sense, or contradicts the dataset; a state that can't fit into memory.
    """
    parallel.check_batch_size(config.train.batch_size, "train.batch_size")
    dataset = data.load(config.data, config.model.pixel_mean)
    sources = {role: dataset.source(config.data[f"{role}_split"]) for role in ("train", "validation", "test")}
    plan = schedule.make_plan(config, len(sources["train"]))
    network = run.build(config, dataset.image_shape, len(dataset.classes))
    in_turn, free = turns.plan(network.hyper.members, config.train.members_per_program), parallel.memory()
    memory.check(memory.of_state(network.abstract_state(), in_turn), free)
    return Setup(config, dataset, sources, plan, network, in_turn, Hand(config.plateau, network.hyper.members), free)


def train(config: ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """Train to the end, or until a signal; returns the test results, None for a run that was stopped.

    Raises:
      UserError: as `prepare`; or a config that contradicts the run that the directory holds; a program that can't fit into memory.
    """
    setup = prepare(config)
    fresh, notes = run.start_state(workdir, setup.network, config, setup.dataset.classes)
    with Inbox(workdir) as inbox:  # from here on the directory is this process's
        if (saved := run.saved_step(workdir)) > setup.plan.total:
            epochs = f"train.epochs={config.train.epochs:g} ends at step {setup.plan.total:,}"
            raise UserError(f"{workdir} holds a run at step {saved:,}, {epochs}; use another --workdir, or more epochs")
        run.write_config(workdir, config, setup.dataset)
        with RunLog(workdir, setup.plan.total) as log, Checkpoints(workdir) as checkpoints, StopSignal() as stop:
            started = time.perf_counter()
            loop = Loop(setup, Outside(log, checkpoints, inbox, stop), fresh)
            del fresh  # the loop has it on the devices
            for note in notes:
                log.event("warning", loop.step, message=note)
            reason = loop.run()
            loop.save()
            checkpoints.wait()
            test = None
            if reason != "stopped":
                predictions = loop.test()
                run.save_predictions(workdir, evaluate.answers(predictions))
                test = {"split": config.data.test_split, **evaluate.summarise(predictions)}
            log.event("end", loop.step, reason=reason, seconds=time.perf_counter() - started, test=test)
    return test


class Loop:
    """The training loop: what it holds between steps, and what happens at which of them."""

    def __init__(self, setup: Setup, outside: Outside, fresh: TrainState) -> None:
        self.config, self.dataset, self.sources, self.plan, self.network, self.turns, self.hand, self.memory = setup
        self.log, self.checkpoints, self.inbox, self.stop = outside
        self.predict = turns.over_devices_predict(make_log_probs(self.network.model, self.dataset.stats), self.turns)
        self.sums = parallel.over_devices_sum(make_sums(parallel.DEVICES))
        self.meter = Meter(self.config.train.batch_size)
        self.warned: set[tuple[int, str]] = set()

        restored = self.checkpoints.restore(fresh)
        state, position = restored or (fresh, {"evaluated": 0, "commands": 0})
        self.parts = turns.place(state, self.turns)
        self.state = _on_host(replace(state, params=(), opt_state=()))  # what the host decides; the networks are in the parts alone
        self.step = int(state.step)
        self.evaluated = position["evaluated"]  # the step of the last whole evaluation
        self.inbox.read = position["commands"]
        self.rate_factor = schedule.make_schedule(self.config, self.plan)
        self.hand.begin(self.log, self.rate_factor)
        if restored:
            self.log.event("resume", self.step, evaluated=self.evaluated)
        self.log.event(
            "start",
            self.step,
            members=self.network.hyper.members,
            member_names=self.network.member_names,
            steps=self.plan.total,
            steps_per_epoch=self.plan.steps_per_epoch,
            devices=", ".join(parallel.describe()),
            images=len(self.sources["train"]),
        )

    @cached_property
    def train_step(self) -> turns.TrainProgram:
        """The train step, compiled when it is first needed. Says what it takes of the memory.

        Raises:
          UserError: it can't fit.
        """
        step = make_train_step(self.network.model, self.network.make_optimizer, self.dataset.stats, self.rate_factor, parallel.DEVICES)
        batch = data.blank_batch(self.config.train.batch_size // parallel.process()[1], self.dataset.image_shape)
        program = turns.TrainProgram(step, self.turns, self.parts, parallel.shard(batch))
        needs = memory.of_program(self.parts, self.turns, program.compiled)
        self.log.event("memory", self.step, message=f"{needs}; {memory.size(self.memory)} are free", needed=needs.total, free=self.memory)
        memory.check(needs, self.memory)
        return program

    def run(self) -> str:
        """Step until there is a reason to end: `epochs`, `done` (every member plateaued after its last drop) or `stopped`."""
        batches = data.train_batches(
            self.sources["train"],
            batch_size=self.config.train.batch_size,
            seed=self.config.data.seed,
            position=self.step * self.config.train.batch_size,
            threads=self.config.data.threads,
            process=parallel.process(),
        )
        first = self.step
        while True:
            # What a hand changes is in the checkpoint of its step: at the step where a run resumes, it was done already.
            if self.step > first:
                self._adopt(self.hand.replay(self.state, self.step))
            if self._due(self.plan.evaluate_every) and self.evaluated < self.step and not self.validate():
                return "stopped"
            if self.state.plateau.done.all():
                return "done"
            if self.step >= self.plan.total:
                return "epochs"
            if self.step > first:
                self.obey()
            if self.stop.requested:
                return "stopped"
            if self.step > first and self.step % self.plan.checkpoint_every == 0:
                self.save()
            self.parts, metrics = self.train_step(self.parts, parallel.shard(next(batches)))
            self.step += 1
            self.meter.add(metrics)
            if self._due(self.plan.log_every):
                self._log_training()

    def validate(self) -> bool:
        """Evaluate on the validation split and let the plateau take it into account; False when a signal came in between."""
        with self.meter.pause():
            split = self.config.data.validation_split
            result = evaluate.sum_over_split(
                self._eval_step,
                self._batches("validation"),
                len(self.sources["validation"]),
                lambda: self.stop.requested,
            )
            if result is None:
                return False
            self.evaluated = self.step
            self.log.event("eval", self.step, epoch=self._epoch, split=split, **result)
            self._adopt(self.hand.after_evaluation(self.state, self.step, 1 - result["top1_error"]))
        return True

    def obey(self) -> None:
        """Take up the commands that have come, save, so that none takes effect twice, and answer them."""
        commands, answers = self.inbox.poll(), []
        for command in commands:
            state, answer = self.hand.obey(self.state, self.step, command)
            self._adopt(state)
            answers.append(answer)
            self.stop.requested |= command["command"] == "stop"
        if not commands:
            return
        self.save()
        if any(command["command"] in ("save", "stop") for command in commands):
            self.checkpoints.wait()  # "saved" is said when it is
        for answer in answers:
            self.log.event("control", self.step, **answer)

    def test(self) -> evaluate.Predictions:
        """The final networks on the test split."""
        log_probs = make_log_probs(self.network.model, self.dataset.stats)
        return evaluate.predict_split(
            turns.predictor(log_probs, self.turns, self.parts),
            self._batches("test"),
            len(self.sources["test"]),
            self.network.member_names,
        )

    def save(self) -> None:
        """Save the state under its step, unless that is saved already."""
        if self.checkpoints.latest_step() == self.step:
            return
        with self.meter.pause():
            parts = [jax.tree.map(np.asarray, part) for part in self.parts]  # joined on the devices the state would be there twice
            path = self.checkpoints.save(self.turns.join(parts), {"evaluated": self.evaluated, "commands": self.inbox.read})
            self.log.event("checkpoint", self.step, path=f"checkpoints/{path.name}")

    def _adopt(self, state: TrainState) -> None:
        """Take what the host has changed of the hyperparameters and the plateau into the parts on the devices."""
        if state is not self.state:
            self.state = _on_host(state)
            changed = parallel.replicate(self.turns.split({"hyper": self.state.hyper, "plateau": self.state.plateau}))
            self.parts = [replace(part, **leaves) for part, leaves in zip(self.parts, changed, strict=True)]

    def _eval_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        shares = parallel.shard(batch)
        return self.sums(self.predict(self.parts, shares["image"]), shares)

    def _batches(self, role: str) -> Iterator[dict]:
        return data.eval_batches(
            self.sources[role],
            batch_size=parallel.even(self.config.eval.batch_size),
            threads=self.config.data.threads,
            process=parallel.process(),
        )

    def _log_training(self) -> None:
        values = self.meter.read()
        speed = values["images_per_second"]
        self.log.event("train", self.step, epoch=self._epoch, member_images_per_second=speed * self.network.hyper.members, **values)
        self.log.progress(self.step, speed)
        chance = math.log(len(self.dataset.classes))
        for member, loss in enumerate(values["loss"]):
            if not math.isfinite(loss):
                self._warn(member, "diverged", f"the loss is {loss}: the member has diverged; lower its learning rate")
            elif self._epoch >= 1 and self.step >= STALLED_AFTER and abs(loss - chance) < 5e-3 * chance:
                advice = "not learning; change model.init, the rate or model.pixel_scale"
                self._warn(member, "stalled", f"the loss is still ln(classes) = {chance:.3f}: {advice}")

    def _warn(self, member: int, kind: str, message: str) -> None:
        """Warn of a member, once for each kind."""
        if (member, kind) not in self.warned:
            self.warned.add((member, kind))
            self.log.event("warning", self.step, member=member, message=message)

    def _due(self, every: int) -> bool:
        return self.step > 0 and (self.step % every == 0 or self.step >= self.plan.total)

    @property
    def _epoch(self) -> float:
        return self.step / self.plan.steps_per_epoch


def _on_host(state: TrainState) -> TrainState:
    """Copied: on CPUs a view would show memory that the next step reuses."""
    return jax.tree.map(np.array, state)
