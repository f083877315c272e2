"""The training loop: what a run holds between steps, and what happens at which of them."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import data, evaluate, parallel, run, schedule
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.control import Inbox, StopSignal
from alexnet_jax.hand import Hand
from alexnet_jax.meter import Meter
from alexnet_jax.runlog import RunLog
from alexnet_jax.step import TrainState, make_eval_step, make_log_probs, make_train_step


def train(config: ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """Train to the end, or until a signal; returns the test results, None for a run that was stopped.

    Raises:
      UserError: a config that makes no sense, or contradicts the dataset or the run that the directory holds.
    """
    parallel.check_batch_size(config.train.batch_size, "train.batch_size")
    parallel.check_batch_size(config.eval.batch_size, "eval.batch_size")
    dataset = data.load(config.data, config.model.pixel_mean)
    sources = {role: dataset.source(config.data[f"{role}_split"]) for role in ("train", "validation", "test")}
    plan = schedule.make_plan(config, len(sources["train"]))
    network = run.build(config, dataset.image_shape, len(dataset.classes))
    hand = Hand(config.plateau)
    fresh, notes = run.start_state(workdir, network, config, dataset.classes)
    run.write_config(workdir, config, dataset)

    started = time.perf_counter()
    with Inbox(workdir) as inbox, RunLog(workdir, plan.total) as log, Checkpoints(workdir) as checkpoints, StopSignal() as stop:
        loop = Loop(config, plan, network, fresh, hand, dataset, sources, log, checkpoints, inbox, stop)
        for note in notes:
            log.event("warning", loop.step, message=note)
        reason = loop.run()
        loop.save()
        checkpoints.wait()
        test = None if reason == "stopped" else loop.test()
        log.event("end", loop.step, reason=reason, seconds=time.perf_counter() - started, test=test)
    return test


class Loop:
    """The training loop: what it holds between steps, and what happens at which of them."""

    def __init__(self, config, plan, network, fresh, hand, dataset, sources, log, checkpoints, inbox, stop) -> None:
        self.config, self.plan, self.network, self.dataset, self.sources = config, plan, network, dataset, sources
        self.log, self.checkpoints, self.inbox, self.stop = log, checkpoints, inbox, stop
        model, stats, axis = network.model, dataset.stats, parallel.DEVICES
        rate_factor = schedule.make_schedule(config, plan)
        self.train_step = parallel.over_devices_train(make_train_step(model, network.make_optimizer, stats, rate_factor, axis))
        self.eval_step = parallel.over_devices_eval(make_eval_step(model, stats, axis))
        self.meter = Meter(config.train.batch_size)
        self.warned: set[tuple[int, str]] = set()

        restored = checkpoints.restore(fresh)
        state, position = restored or (fresh, {"evaluated": 0, "commands": 0})
        self.state = parallel.replicate(state)
        self.step = int(state.step)
        self.evaluated = position["evaluated"]  # the step of the last whole evaluation
        inbox.read = position["commands"]
        self.hand = hand
        self.hand.log = log
        if restored:
            log.event("resume", self.step)
        log.event(
            "start",
            self.step,
            members=network.hyper.members,
            member_names=network.member_names,
            steps=plan.total,
            steps_per_epoch=plan.steps_per_epoch,
            devices=", ".join(parallel.describe()),
            images=len(sources["train"]),
        )

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
            changed = self.step > first and self.obey()
            if self.stop.requested:
                return "stopped"
            if changed or (self.step > first and self.step % self.plan.checkpoint_every == 0):
                self.save()
            self.state, metrics = self.train_step(self.state, parallel.shard(next(batches)))
            self.step += 1
            self.meter.add(metrics)
            if self._due(self.plan.log_every):
                self._log_training()

    def validate(self) -> bool:
        """Evaluate on the validation split and let the plateau take it into account; False when a signal came in between."""
        with self.meter.pause():
            split = self.config.data.validation_split
            result = evaluate.sum_over_split(
                lambda batch: self.eval_step(self.state, parallel.shard(batch)),
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

    def obey(self) -> bool:
        """Take up the commands that have come; True where the state must be saved before the next step, so that none takes effect twice."""
        commands = self.inbox.poll()
        for command in commands:
            self._adopt(self.hand.obey(self.state, self.step, command))
            self.stop.requested |= command["command"] == "stop"
        return bool(commands)

    def test(self) -> dict[str, Any]:
        """The final networks on the test split, each member and their ensemble."""
        log_probs = parallel.over_devices_predict(make_log_probs(self.network.model, self.dataset.stats))
        predictions = evaluate.predict_split(
            lambda images: log_probs(self.state, parallel.shard({"image": images})["image"]),
            self._batches("test"),
            len(self.sources["test"]),
            self.network.member_names,
        )
        return {"split": self.config.data.test_split, **evaluate.summarise(predictions)}

    def save(self) -> None:
        """Save the state under its step, unless that is saved already."""
        if self.checkpoints.latest_step() == self.step:
            return
        with self.meter.pause():
            path = self.checkpoints.save(self.state, {"evaluated": self.evaluated, "commands": self.inbox.read})
            self.log.event("checkpoint", self.step, path=f"checkpoints/{path.name}")

    def _adopt(self, state: TrainState) -> None:
        """Take a state whose small leaves the host may have changed."""
        if state is not self.state:
            self.state = replace(state, hyper=parallel.replicate(state.hyper), plateau=parallel.replicate(state.plateau))

    def _batches(self, role: str) -> Iterator[dict]:

        return data.eval_batches(
            self.sources[role], batch_size=self.config.eval.batch_size, threads=self.config.data.threads, process=parallel.process()
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
            elif self._epoch >= 1 and abs(loss - chance) < 5e-3 * chance:
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
