"""This project's side of the measurements: its real training step and evaluation, ready to be called. The parts use it:

step = TrainStep("one_tower", network("one_tower"), "seeds=1", random_batch("one_tower", 128))
step()    # one training step; returns when it is done
"""

import os
import time
from functools import partial
from typing import Any

import jax
import numpy as np

from alexnet_jax import hyper, parallel, turns
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.architecture import architecture, model_config
from alexnet_jax.model.forward import make_log_probs
from alexnet_jax.optimizer import make_optimizer
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.state import Controls, init_state
from alexnet_jax.train.step import make_train_step

OPTIMIZER = partial(make_optimizer, rule="torch")  # the peer's update rule; it costs the same as the paper's
CHANNELS = {"one_tower": 3, "small": 1}
CLASSES = {"one_tower": 1000, "small": 10}
STORED = {"one_tower": 256, "small": 28}  # height and width of a stored image in pixels
AUGMENTED = {"one_tower": "", "small": "flip=0, colour=0, whitening=0, "}  # changes of the configs in configs/ for such images


def network(variant: str, width: float = 1.0, **changes: Any) -> AlexNet:
    """The network of a variant, with its number of units multiplied by `width`."""
    section = model_config(variant)
    section.update({"width": section.width * width, **changes})
    return AlexNet(architecture(section), CLASSES[variant])


def members(spec: str) -> hyper.Hyper:
    """The hyperparameters of a members spec; fields that it doesn't name have the study post's values."""
    base = {field: float(getattr(hyper.Hyper(), field)) for field in hyper.FIELDS if field not in hyper.WHOLE}
    return hyper.stack(hyper.parse_members(spec, {**base, "seed": 0})[0])


def pixel_stats(channels: int) -> PixelStats:
    """The pixel statistics of uniformly random pixels."""
    std = np.asarray(255 / 12**0.5, np.float32)
    return PixelStats(np.full(channels, 127.5, np.float32), std, np.full(channels, std), np.eye(channels, dtype=np.float32))


def random_batch(variant: str, size: int) -> dict[str, np.ndarray]:
    """A batch of random uint8 images (size, height, width, channels) of the stored size, with random labels."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, STORED[variant], STORED[variant], CHANNELS[variant]), np.uint8),
        "label": rng.integers(0, CLASSES[variant], size, np.int32),
        "index": np.arange(size, dtype=np.uint32),
    }


def controls(hyperparameters: hyper.Hyper) -> Controls:
    """The controls of members whose learning rate has not dropped and that are not done."""
    count = hyperparameters.members
    return Controls(hyperparameters, np.ones(count, np.float32), np.zeros(count, bool))


class TrainStep:
    """The real training step on one prepared batch: augmentation, forward, dropout, backward, momentum, weight decay.

    The constructor compiles it, for `at_once` members at once (0: the default number of train.members_per_program). Each call continues
    with the state of the call before, as in a run. A call returns when the step is done.
    """

    def __init__(self, variant: str, model: AlexNet, spec: str, batch: dict[str, np.ndarray], at_once: int = 0) -> None:
        channels = CHANNELS[variant]
        step = make_train_step(model, OPTIMIZER, pixel_stats(channels), lambda step: 1.0, parallel.DEVICES)
        chosen = members(spec)
        shares, self._turns = parallel.shard(batch), turns.plan(chosen.members, at_once)
        self.parts = turns.place(init_state(model, OPTIMIZER, chosen, channels), self._turns)
        self._controls = turns.place(controls(chosen), self._turns)
        started = time.perf_counter()
        self._program = turns.TrainProgram(step, self._turns, self.parts, self._controls, shares)
        self.compile_seconds = time.perf_counter() - started  # tracing included
        self.batch = jax.device_put(shares, self._program.compiled.input_shardings[0][2])
        self.images = len(batch["index"]) * chosen.members  # images x members of a call

    def __call__(self) -> None:
        self.parts, metrics = self._program(self.parts, self._controls, self.batch)
        jax.block_until_ready((self.parts, metrics))

    def planned(self) -> tuple[int, float]:
        """XLA's plan for one call of the program: bytes of temporaries, beside the state and the batch; FLOPs by XLA's count."""
        return self._program.compiled.memory_analysis().temp_size_in_bytes, self._program.compiled.cost_analysis()["flops"]

    def with_members(self, spec: str) -> "TrainStep":
        """The same compiled program with other hyperparameters, which are data, and with its own copy of the state."""
        other = object.__new__(TrainStep)
        other.__dict__.update(self.__dict__)
        other.parts = jax.tree.map(lambda leaf: leaf.copy(), self.parts)
        other._controls = turns.place(controls(members(spec)), self._turns)
        return other


class Evaluation:
    """The evaluation of networks on one batch on the device: centre crop or ten crops, forward pass, log-probabilities on the host."""

    def __init__(self, variant: str, model: AlexNet, spec: str, images: np.ndarray, ten_crop: bool = False) -> None:
        chosen, log_probs = members(spec), make_log_probs(model, pixel_stats(CHANNELS[variant]), ten_crop)
        params = init_state(model, OPTIMIZER, chosen, CHANNELS[variant]).params
        in_turn = turns.plan(chosen.members, 0)
        self._predict = turns.predictor(log_probs, in_turn, turns.place(params, in_turn), turns.place(chosen, in_turn))
        self._images = jax.device_put(images)  # as in the training step

    def __call__(self) -> np.ndarray:
        return self._predict(self._images)


def start() -> None:
    """Prepare JAX as for a run, but without the compilation cache, and without reserving GPU memory, which the peer needs too."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parallel.start()
    jax.config.update("jax_enable_compilation_cache", False)
