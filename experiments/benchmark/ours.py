"""This project's side of the measurements: its own training step and evaluation, ready to be called."""

import os
import time
from functools import partial
from typing import Any

import jax
import numpy as np

from alexnet_jax import hyper, parallel, turns
from alexnet_jax.augment import PixelStats
from alexnet_jax.model import AlexNet, architecture, model_config
from alexnet_jax.optimizer import make_optimizer
from alexnet_jax.step import init_state, make_log_probs, make_train_step
from alexnet_jax.summary import layers

OPTIMIZER = partial(make_optimizer, rule="torch")  # the peer's rule, as fast as the paper's
CHANNELS = {"seed": 3, "small": 1}
CLASSES = {"seed": 1000, "small": 10}
STORED = {"seed": 256, "small": 28}  # pixels of a stored image
AUGMENTED = {"seed": "", "small": "flip=0, colour=0, whitening=0, "}  # what a config of such images changes: see configs/


def network(variant: str, width: float = 1.0, **changes: Any) -> AlexNet:
    """The network of a variant, its units times `width`."""
    section = model_config(variant)
    section.update({"width": section.width * width, **changes})
    return AlexNet(architecture(section), CLASSES[variant])


def members(spec: str) -> hyper.Hyper:
    """The hyperparameters of a members spec on top of the source document's."""
    base = {field: float(getattr(hyper.Hyper(), field)) for field in hyper.FIELDS}
    return hyper.stack(hyper.parse_members(spec, {**base, "seed": 0})[0])


def pixel_stats(channels: int) -> PixelStats:
    """The statistics of uniformly random pixels."""
    std = np.asarray(255 / 12**0.5, np.float32)
    return PixelStats(np.full(channels, 127.5, np.float32), std, np.full(channels, std), np.eye(channels, dtype=np.float32))


def random_batch(variant: str, size: int) -> dict[str, np.ndarray]:
    """Random images as they are stored, uint8, with random labels."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, STORED[variant], STORED[variant], CHANNELS[variant]), np.uint8),
        "label": rng.integers(0, CLASSES[variant], size, np.int32),
        "index": np.arange(size, dtype=np.uint32),
    }


def forward_flops(model: AlexNet, channels: int) -> int:
    """Of one image: two a multiply-accumulate; pooling, LRN and activations are left out."""
    return 2 * sum(layer.macs for layer in layers(model.arch, model.classes, channels))


def step_flops(model: AlexNet, channels: int) -> int:
    """Of one image in a training step: forward, the kernels' gradients, the inputs' gradients but for the image's own."""
    macs = [layer.macs for layer in layers(model.arch, model.classes, channels)]
    return 2 * (3 * sum(macs) - macs[0])


class TrainStep:
    """The real training step on one ready batch: forward, backward, dropout, augmentation, momentum, weight decay.

    It is compiled when this is made, for `at_once` members, 0 for as many as a config leaves it to. Its state goes on from call to call,
    as in a run. A call returns when it is done.
    """

    def __init__(self, variant: str, model: AlexNet, spec: str, batch: dict[str, np.ndarray], at_once: int = 0) -> None:
        channels = CHANNELS[variant]
        step = make_train_step(model, OPTIMIZER, pixel_stats(channels), lambda step: 1.0, parallel.DEVICES)
        state = init_state(model, OPTIMIZER, members(spec), channels)
        shares, self._turns = parallel.shard(batch), turns.plan(state.hyper.members, at_once)
        self.parts = turns.place(state, self._turns)
        started = time.perf_counter()
        self._program = turns.TrainProgram(step, self._turns, self.parts, shares)
        self.compile_seconds = time.perf_counter() - started  # tracing included
        self.batch = jax.device_put(shares, self._program.compiled.input_shardings[0][1])
        self.images = len(batch["index"]) * state.hyper.members  # images x members of a call

    def __call__(self) -> None:
        self.parts, metrics = self._program(self.parts, self.batch)
        jax.block_until_ready((self.parts, metrics))

    def planned(self) -> tuple[int, float]:
        """What XLA plans for one call of the program: bytes beside the state and the batch, FLOPs by its own count."""
        return self._program.compiled.memory_analysis().temp_size_in_bytes, self._program.compiled.cost_analysis()["flops"]

    def with_members(self, spec: str) -> "TrainStep":
        """The same program with other hyperparameters, which are data, and with a state of its own."""
        other = object.__new__(TrainStep)
        other.__dict__.update(self.__dict__)
        copies = jax.tree.map(lambda leaf: leaf.copy(), self.parts)
        changed = parallel.replicate(self._turns.split(members(spec)))
        other.parts = [part.replace(hyper=leaves) for part, leaves in zip(copies, changed, strict=True)]
        return other


class Evaluation:
    """The evaluation networks on one ready batch: centre crop or ten crops, forward, log-probabilities on the host."""

    def __init__(self, variant: str, model: AlexNet, spec: str, images: np.ndarray, ten_crop: bool = False) -> None:
        stats = pixel_stats(CHANNELS[variant])
        state = init_state(model, OPTIMIZER, members(spec), CHANNELS[variant])
        in_turn = turns.plan(state.hyper.members, 0)
        self._predict = turns.predictor(make_log_probs(model, stats, ten_crop), in_turn, turns.place(state, in_turn))
        self._images = images

    def __call__(self) -> np.ndarray:
        return self._predict(self._images)


def start() -> None:
    """Prepare JAX for measurements: as for a run, but everything is compiled afresh, and GPU memory is left to the peer."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parallel.start()
    jax.config.update("jax_enable_compilation_cache", False)
