"""Train M members at once: config + dataset -> a run directory.

    python -m alexnet_jax.train --config configs/digits.py --workdir runs/digits
    python -m alexnet_jax.train --config configs/fashion_mnist.py:members=7 --workdir runs/ensemble --config.model.lrn=False

Ctrl-C or SIGTERM saves and stops; the same command again goes on, mid-epoch, to the same bits.
"""

import argparse
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli


class Plan(NamedTuple):
    """When things happen, in optimiser steps."""

    steps_per_epoch: float
    total: int
    evaluate_every: int
    checkpoint_every: int
    log_every: int

    @classmethod
    def of(cls, config, examples: int) -> "Plan":
        per_epoch = examples / config.train.batch_size

        def steps(epochs):
            return max(1, round(epochs * per_epoch))

        for field in ("train.epochs", "train.checkpoint_every_epochs", "train.log_every_steps", "eval.every_epochs"):
            section, name = field.split(".")
            if config[section][name] <= 0:
                raise UserError(f"{field} is {config[section][name]}; it must be positive")
        return cls(
            per_epoch,
            steps(config.train.epochs),
            steps(config.eval.every_epochs),
            steps(config.train.checkpoint_every_epochs),
            config.train.log_every_steps,
        )


class StopSignal:
    """Turns the first Ctrl-C or SIGTERM into `requested`, so that the loop can save; a second one doesn't wait."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopSignal":
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, _frame: object) -> None:
        self.requested = True
        signal.signal(number, self._previous[signal.Signals(number)])


class Meter:
    """Means of the training metrics and the speed since they were last read; pauses for evaluation and saving don't count."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._metrics: list[dict[str, Any]] = []
        self._started = time.perf_counter()
        self._paused = 0.0

    def add(self, metrics: dict[str, Any]) -> None:
        self._metrics.append(metrics)

    def pause(self, seconds: float) -> None:
        self._paused += seconds

    def read(self) -> dict[str, Any]:
        """`loss`, `error` (M,) as means, the newest `learning_rate` (M,), `images_per_second`."""
        import numpy as np

        values = {name: np.stack([np.asarray(step[name]) for step in self._metrics]) for name in self._metrics[0]}  # waits for the steps
        now = time.perf_counter()
        speed = len(self._metrics) * self._batch_size / max(now - self._started - self._paused, 1e-9)
        self._metrics, self._started, self._paused = [], now, 0.0
        means = {name: value.mean(0) for name, value in values.items() if name != "learning_rate"}
        return {**means, "learning_rate": values["learning_rate"][-1], "images_per_second": speed}


def train(config, workdir: Path) -> dict[str, Any] | None:
    """Train to the end, or until a signal; returns the test results, None for a run that was stopped.

    Raises:
      UserError: a config that makes no sense, or contradicts the dataset or the run that the directory holds.
    """
    from alexnet_jax import data, parallel, run
    from alexnet_jax.checkpoint import Checkpoints
    from alexnet_jax.runlog import RunLog

    parallel.check_batch_size(config.train.batch_size, "train.batch_size")
    parallel.check_batch_size(config.eval.batch_size, "eval.batch_size")
    dataset = data.load(config.data)
    source, *_ = (dataset.source(config.data[f"{role}_split"]) for role in ("train", "validation", "test"))
    plan = Plan.of(config, len(source))
    network = run.build(config, dataset.image_shape, len(dataset.classes))
    run.write_config(workdir, config, dataset)

    started = time.perf_counter()
    with RunLog(workdir, plan.total) as log, Checkpoints(workdir) as checkpoints, StopSignal() as stop:
        loop = Loop(config, plan, network, dataset, log, checkpoints, stop)
        reason = loop.run(source)
        loop.save()
        checkpoints.wait()
        test = None if reason == "stopped" else loop.test()
        log.event("end", loop.step, reason=reason, seconds=time.perf_counter() - started, test=test)
    return test


class Loop:
    """The training loop: what it holds between steps, and what happens at which of them."""

    def __init__(self, config, plan: Plan, network, dataset, log, checkpoints, stop: StopSignal) -> None:
        from alexnet_jax import parallel
        from alexnet_jax.step import make_eval_step, make_train_step

        self.config, self.plan, self.network, self.dataset = config, plan, network, dataset
        self.log, self.checkpoints, self.stop = log, checkpoints, stop
        stats, axis = dataset.stats, parallel.DEVICES
        self.train_step = parallel.over_devices_train(make_train_step(network.model, network.make_optimizer, stats, axis))
        self.eval_step = parallel.over_devices_eval(make_eval_step(network.model, stats, axis))
        self.meter = Meter(config.train.batch_size)
        self.warned: set[tuple[int, str]] = set()

        restored = checkpoints.restore(network.init_state())
        state, position = restored or (network.init_state(), {"examples": 0, "evaluated": 0})
        self.state = parallel.replicate(state)
        self.step = int(state.step)
        self.evaluated = position["evaluated"]  # the step of the last whole evaluation
        if restored:
            log.event("resume", self.step)
        members = network.hyper.members
        log.event(
            "start",
            self.step,
            members=members,
            member_names=network.member_names,
            steps=plan.total,
            steps_per_epoch=plan.steps_per_epoch,
            devices=", ".join(parallel.describe()),
            images=dataset.split_sizes[config.data.train_split],
        )

    def run(self, source) -> str:
        """Step until there is a reason to end: `epochs`, `done` (every member plateaued after its last drop) or `stopped`."""
        from alexnet_jax import data, parallel

        batches = data.train_batches(
            source,
            batch_size=self.config.train.batch_size,
            seed=self.config.data.seed,
            position=self.step * self.config.train.batch_size,
            threads=self.config.data.threads,
            process=parallel.process(),
        )
        first = self.step
        while True:
            if self._due(self.plan.evaluate_every) and self.evaluated < self.step and not self._timed(self.validate):
                return "stopped"
            if self.state.plateau.done.all():
                return "done"
            if self.step >= self.plan.total:
                return "epochs"
            if self.stop.requested:
                return "stopped"
            if self.step > first and self.step % self.plan.checkpoint_every == 0:
                self._timed(self.save)
            self.state, metrics = self.train_step(self.state, parallel.shard(next(batches)))
            self.step += 1
            self.meter.add(metrics)
            if self._due(self.plan.log_every):
                self._log_training()

    def validate(self) -> bool:
        """Evaluate on the validation split and let the plateau take it into account; False when a signal came in between."""
        import numpy as np

        from alexnet_jax import parallel, plateau

        result = self._evaluate(self.config.data.validation_split)
        if result is None:
            return False
        self.evaluated = self.step
        self.log.event("eval", self.step, epoch=self._epoch, split=self.config.data.validation_split, **result)
        before, settings = self.state.plateau, self.config.plateau
        after = plateau.update(
            before,
            1 - np.asarray(result["top1_error"], np.float32),
            patience=settings.patience,
            min_delta=settings.min_delta,
            factor=settings.factor,
            max_drops=settings.max_drops,
            cooldown=settings.cooldown,
        )
        self.state = self.state.replace(plateau=parallel.replicate(after))
        for member in np.flatnonzero(np.asarray(after.drops) > np.asarray(before.drops)):
            rate = self.network.hyper.learning_rate[member] * np.asarray(after.scale)[member]
            self.log.event("drop", self.step, member=int(member), learning_rate=rate, reason="plateau")
        return True

    def test(self) -> dict[str, Any]:
        """The final networks on the test split, each member and their ensemble."""
        from alexnet_jax import evaluate, parallel
        from alexnet_jax.step import make_log_probs

        split = self.config.data.test_split
        log_probs = parallel.over_devices_predict(make_log_probs(self.network.model, self.dataset.stats))
        predictions = evaluate.predict_split(
            lambda images: log_probs(self.state, parallel.shard({"image": images})["image"]),
            self._batches(split),
            self.dataset.split_sizes[split],
            self.network.member_names,
        )
        return {"split": split, **evaluate.summarise(predictions)}

    def save(self) -> None:
        """Save the state under its step."""
        position = {"examples": self.step * self.config.train.batch_size, "evaluated": self.evaluated}
        if self.checkpoints.latest_step() == self.step:
            return
        path = self.checkpoints.save(self.state, position)
        self.log.event("checkpoint", self.step, path=f"checkpoints/{path.name}")

    def _evaluate(self, split: str) -> dict[str, Any] | None:
        from alexnet_jax import evaluate, parallel

        return evaluate.sum_over_split(
            lambda batch: self.eval_step(self.state, parallel.shard(batch)),
            self._batches(split),
            self.dataset.split_sizes[split],
            lambda: self.stop.requested,
        )

    def _batches(self, split: str):
        from alexnet_jax import data, parallel

        source = self.dataset.source(split)
        return data.eval_batches(
            source, batch_size=self.config.eval.batch_size, threads=self.config.data.threads, process=parallel.process()
        )

    def _log_training(self) -> None:
        values = self.meter.read()
        speed = values["images_per_second"]
        self.log.event("train", self.step, epoch=self._epoch, member_images_per_second=speed * self.network.hyper.members, **values)
        self.log.progress(self.step, speed)
        chance = math.log(len(self.dataset.classes))
        for member, loss in enumerate(values["loss"]):
            if not math.isfinite(loss):
                self._warn(member, f"the loss is {loss}: the member has diverged; lower its learning rate")
            elif self._epoch >= 1 and abs(loss - chance) < 5e-3 * chance:
                self._warn(
                    member, f"the loss is still ln(classes) = {chance:.3f}: not learning; change model.init, the rate or model.pixel_scale"
                )

    def _warn(self, member: int, message: str) -> None:
        """Warn of a member once."""
        kind = message.split(":")[0][:12]
        if (member, kind) not in self.warned:
            self.warned.add((member, kind))
            self.log.event("warning", self.step, member=member, message=message)

    def _timed(self, action: Callable[[], Any]) -> Any:
        """Do something that isn't training, so that it doesn't count as such."""
        started = time.perf_counter()
        try:
            return action()
        finally:
            self.meter.pause(time.perf_counter() - started)

    def _due(self, every: int) -> bool:
        return self.step > 0 and (self.step % every == 0 or self.step >= self.plan.total)

    @property
    def _epoch(self) -> float:
        return self.step / self.plan.steps_per_epoch


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m alexnet_jax.train", description="Train the members of a config; the same command again resumes."
    )
    config_lib.add_arguments(parser)
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="the run directory, made if it isn't there")
    args = config_lib.parse_command_line(parser, argv)
    config = config_lib.load(args.config, args.overrides)

    from alexnet_jax import parallel, report

    parallel.start()
    test = train(config, args.workdir)
    page = report.write_report(args.workdir)
    if test is None:
        print(f"stopped and saved in {args.workdir}; the same command goes on from there")
        return 1
    print(report.results_table(report.read_events(args.workdir)))
    print(f"checkpoints in {args.workdir / 'checkpoints'}, figures in {args.workdir / 'figures'}, report: {page}")
    return 0


if __name__ == "__main__":
    run_cli(main)
