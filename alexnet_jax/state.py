"""The arrays that the devices hold while a run trains, and the keys of its random draws.

    TrainState    step, params, opt_state: every step changes them
    Controls      hyperparameters, learning-rate scale, done: the host changes them after an evaluation or a command
    Networks      step, params, hyperparameters: the part of both that a trained network needs

The loop (train/loop.py) owns the `TrainState`, and its `Rates` (train/rates.py) own the `Controls`. The train step (train/step.py) takes
both:

    state, metrics = train_step(state, controls, batch)

Randomness: initialisation's key is made from the member's seed, every other one from the member's draws, the purpose and the example's
`index` in the run's endless stream. No key depends on a device, a process, or a counter that a restart resets. So a run draws the same
numbers on any number of devices and after any stop. Members with equal seeds draw the same numbers too, so an ablation can compare them in
pairs.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax import cpu
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.alexnet import AlexNet

INIT, DROPOUT, AUGMENT = range(3)  # the purposes of draws

Batch = dict[str, Any]
MakeOptimizer = Callable[..., optax.GradientTransformation]  # (learning_rate, momentum, weight_decay)


@flax.struct.dataclass
class TrainState:
    """The state of M members that every step changes; replicated over devices, or its members divided over them."""

    step: Any  # int32 (): optimiser steps done
    params: Any  # float32, leaves (M, ...)
    opt_state: Any  # float32, leaves (M, ...)


MEMBER_AXES = TrainState(step=None, params=0, opt_state=0)  # for vmap: the members share the step


@flax.struct.dataclass
class Controls:
    """The values of M members that the host sets: leaves (M,), scalars in the vmapped step. They are traced: a change never recompiles."""

    hyper: Hyper
    scale: Any  # float32: the product of the factors of all drops so far
    done: Any  # bool: whether the member has stopped learning

    def learning_rate(self, schedule_factor: Any) -> Any:
        """The learning rate in force, float32 (M,). The step, the log, the answers to commands and the curves all use it."""
        return self.hyper.learning_rate * self.scale * schedule_factor


@flax.struct.dataclass
class Networks:
    """M networks without their training state: the part of a checkpoint that evaluation and prediction need."""

    step: Any  # int32 (): optimiser steps done
    params: Any  # float32, leaves (M, ...)
    hyper: Hyper  # leaves (M,)


def init_state(model: AlexNet, make_optimizer: MakeOptimizer, hyper: Hyper, channels: int) -> TrainState:
    """The state of a new run: each member's weights are drawn from its seed.

    Args:
      hyper: leaves (M,).
      channels: the number of channels of the images.
    """
    init = jax.jit(_make_init(model, make_optimizer, channels), compiler_options=cpu.quick_to_compile())
    return TrainState(np.int32(0), *init(hyper))


def abstract_state(model: AlexNet, make_optimizer: MakeOptimizer, hyper: Hyper, channels: int) -> TrainState:
    """The shapes and types of `init_state`'s leaves; nothing is computed."""
    init = _make_init(model, make_optimizer, channels)
    return jax.eval_shape(lambda hyper: TrainState(np.int32(0), *init(hyper)), hyper)


def _make_init(model: AlexNet, make_optimizer: MakeOptimizer, channels: int) -> Callable:
    def init_member(member: Hyper):
        image = jnp.zeros((1, model.arch.input_size, model.arch.input_size, channels))
        params = model.init(_key(member.seed, INIT), image, member)["params"]
        return params, make_optimizer(member.learning_rate, member.momentum, member.weight_decay).init(params)

    return jax.vmap(init_member)


def example_keys(draws, purpose, index):
    """A key for each example of a batch: `index` uint32 (B,) -> keys (B,)."""
    return jax.vmap(lambda i: jax.random.fold_in(_key(draws, purpose), i))(index)


def _key(seed, purpose):
    return jax.random.fold_in(jax.random.key(seed), purpose)
