"""The training loop: what a run holds between steps, and what happens at which of them.

`python -m alexnet_jax.train` calls `train(config, workdir)`. A `Loop` takes a batch, a step, and now and then evaluates, drops a rate,
obeys a command, saves. The devices own the networks (`Loop.parts`), the host owns the hyperparameters and plateaus (`Loop.rates`).
"""

import math
import time
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import data, history, memory, metrics, parallel, run, turns
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import UserError
from alexnet_jax.model.forward import make_log_probs, make_sums
from alexnet_jax.runlog import RunLog
from alexnet_jax.state import Networks, TrainState
from alexnet_jax.train import plateau, schedule
from alexnet_jax.train.inbox import Inbox, StopSignal
from alexnet_jax.train.meter import Meter
from alexnet_jax.train.rates import Rates
from alexnet_jax.train.setup import Setup, validate
from alexnet_jax.train.step import make_train_step

# Steps, and an epoch too, before a loss at chance is worth a warning: on few images healthy networks need some epochs to take off.
STALLED_AFTER = 100


class Ties(NamedTuple):
    """The run's ties to its directory and to its user."""

    log: RunLog
    checkpoints: Checkpoints
    inbox: Inbox
    stop: StopSignal


def prepare(config: ConfigDict) -> tuple[Setup, int]:
    """Open the dataset, hold the config against it and against the devices; returns also the free bytes of a device.

    Raises:
      UserError: a config that makes no sense, or contradicts the dataset; a state that can't fit into memory.
    """
    parallel.check_batch_size(config.train.batch_size, "train.batch_size")
    setup = validate(config, data.load(config.data, config.model.pixel_mean))
    free = parallel.memory()
    memory.check(memory.of_state(setup.network.abstract_state(), setup.turns), free)
    return setup, free


def train(config: ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """Train to the end, or until a signal; returns the test results, None for a run that was stopped.

    Raises:
      UserError: as `prepare`; or a config that contradicts the run that the directory holds; a program that can't fit into memory.
    """
    setup, free = prepare(config)
    fresh, notes = run.start_state(workdir, setup.network, config, setup.dataset.classes)
    with Inbox(workdir) as inbox:  # from here on the directory is this process's
        if (saved := history.saved_step(workdir)) > setup.timeline.total:
            epochs = f"train.epochs={config.train.epochs:g} ends at step {setup.timeline.total:,}"
            raise UserError(f"{workdir} holds a run at step {saved:,}, {epochs}; use another --workdir, or more epochs")
        run.write_config(workdir, config, setup.dataset)
        with RunLog(workdir, setup.timeline.total) as log, Checkpoints(workdir) as checkpoints, StopSignal() as stop:
            started = time.perf_counter()
            loop = Loop(setup, free, Ties(log, checkpoints, inbox, stop), fresh)
            del fresh  # the loop has it on the devices
            for note in notes:
                log.event("warning", loop.step, message=note)
            reason = loop.run()
            loop.save()
            checkpoints.wait()
            test = None
            if reason != "stopped":
                predictions = loop.test()
                run.save_predictions(workdir, loop.step, metrics.answers(predictions))
                test = {"split": config.data.test_split, **metrics.summarise(predictions)}
            log.event("end", loop.step, reason=reason, seconds=time.perf_counter() - started, test=test)
    return test


class Loop:
    """What a run holds between steps, and what happens at which of them.

    Args:
      free: bytes of a device that were free before anything was placed there.
      fresh: the state of a run that has not begun; where there is a checkpoint, its shapes are enough.
    """

    def __init__(self, setup: Setup, free: int, ties: Ties, fresh: TrainState) -> None:
        self.config, self.dataset, self.sources, self.timeline, self.network, self.turns, policy = setup
        self.log, self.checkpoints, self.inbox, self.stop = ties
        self.free = free
        self.predict = turns.over_devices_predict(make_log_probs(self.network.model, self.dataset.stats), self.turns)
        self.sums = parallel.over_devices_sum(make_sums(parallel.DEVICES))
        self.meter = Meter(self.config.train.batch_size)
        self.warned: set[tuple[int, str]] = set()

        networks = Networks(fresh.step, fresh.params, self.network.hyper)
        training = {"opt_state": fresh.opt_state, "plateau": plateau.init(self.network.hyper.members)}
        position = {"evaluated": 0, "commands": 0}
        restored = self.checkpoints.restore({"networks": networks, "training": training})
        if restored:
            trees, position = restored
            networks, training = trees["networks"], trees["training"]
        self.step = int(networks.step)
        self.parts = turns.place(TrainState(networks.step, networks.params, training["opt_state"]), self.turns)
        self.evaluated = position["evaluated"]  # the step of the last whole evaluation
        self.inbox.read = position["commands"]
        self.schedule = schedule.make_schedule(self.config, self.timeline)
        self.rates = Rates(policy, networks.hyper, training["plateau"], self.schedule, partial(turns.place, turns=self.turns), self.log)
        if restored:
            self.log.event("resume", self.step, evaluated=self.evaluated)
        self.log.event(
            "start",
            self.step,
            members=self.network.hyper.members,
            member_names=self.network.member_names,
            steps=self.timeline.total,
            steps_per_epoch=self.timeline.steps_per_epoch,
            devices=", ".join(parallel.describe()),
            images=len(self.sources["train"]),
        )

    @cached_property
    def train_step(self) -> turns.TrainProgram:
        """The train step, compiled when it is first needed. Says what it takes of the memory.

        Raises:
          UserError: it can't fit.
        """
        step = make_train_step(self.network.model, self.network.make_optimizer, self.dataset.stats, self.schedule, parallel.DEVICES)
        batch = data.blank_batch(self.config.train.batch_size // parallel.process()[1], self.dataset.image_shape)
        program = turns.TrainProgram(step, self.turns, self.parts, self.rates.controls, parallel.shard(batch))
        needs = memory.of_program(self.parts, self.turns, program.compiled)
        self.log.event("memory", self.step, message=f"{needs}; {memory.size(self.free)} are free", needed=needs.total, free=self.free)
        memory.check(needs, self.free)
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
            # What changes at a step is in its checkpoint: a run that resumes at a step has it already.
            if self.step > first:
                self.rates.replay(self.step)
            if self._due(self.timeline.evaluate_every) and self.evaluated < self.step and not self.validate():
                return "stopped"
            if self.rates.plateau.done.all():
                return "done"
            if self.step >= self.timeline.total:
                return "epochs"
            if self.step > first:
                self.obey()
            if self.stop.requested:
                return "stopped"
            if self.step > first and self.step % self.timeline.checkpoint_every == 0:
                self.save()
            self.parts, step_metrics = self.train_step(self.parts, self.rates.controls, parallel.shard(next(batches)))
            self.step += 1
            self.meter.add(step_metrics)
            if self._due(self.timeline.log_every):
                self._log_training()

    def validate(self) -> bool:
        """Evaluate on the validation split and let the plateau take it into account; False when a signal came in between."""
        with self.meter.pause():
            split = self.config.data.validation_split
            result = metrics.sum_over_split(
                self._eval_step,
                self._batches("validation"),
                len(self.sources["validation"]),
                lambda: self.stop.requested,
            )
            if result is None:
                return False
            self.evaluated = self.step
            self.log.event("eval", self.step, epoch=self._epoch, split=split, **result)
            self.rates.after_evaluation(self.step, 1 - result["top1_error"])
        return True

    def obey(self) -> None:
        """Take up the commands that have come, save, so that none takes effect twice, and answer them."""
        commands = self.inbox.poll()
        if not commands:
            return
        answers = [self.rates.obey(self.step, command) for command in commands]
        self.stop.requested |= any(command["command"] == "stop" for command in commands)
        self.save()
        if any(command["command"] in ("save", "stop") for command in commands):
            self.checkpoints.wait()  # "saved" is said when it is
        for answer in answers:
            self.log.event("control", self.step, **answer)

    def test(self) -> metrics.Predictions:
        """The final networks on the test split."""
        log_probs = make_log_probs(self.network.model, self.dataset.stats)
        return metrics.predict_split(
            turns.predictor(log_probs, self.turns, *self._on_devices()),
            self._batches("test"),
            len(self.sources["test"]),
            self.network.member_names,
        )

    def save(self) -> None:
        """Save both sides under the step, unless that is saved already."""
        if self.checkpoints.latest_step() == self.step:
            return
        with self.meter.pause():
            # Joined on the host: on the devices the state would be there twice.
            state = self.turns.join([jax.tree.map(np.asarray, part) for part in self.parts])
            trees = {
                "networks": Networks(state.step, state.params, self.rates.hyper),
                "training": {"opt_state": state.opt_state, "plateau": self.rates.plateau},
            }
            path = self.checkpoints.save(self.step, trees, {"evaluated": self.evaluated, "commands": self.inbox.read})
            self.log.event("checkpoint", self.step, path=f"checkpoints/{path.name}")

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
        return self.step > 0 and (self.step % every == 0 or self.step >= self.timeline.total)

    @property
    def _epoch(self) -> float:
        return self.step / self.timeline.steps_per_epoch
