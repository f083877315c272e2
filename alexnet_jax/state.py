"""What the devices hold while a run trains, and the keys of its random draws.

    TrainState    step, params, opt_state: changed by every step
    Controls      hyperparameters, rate scale, who is done: changed by the host, after an evaluation or a command
    Networks      step, params, hyperparameters: what is left of both when training is over

The train step (train/step.py) takes both; the loop (train/loop.py) owns the first, its `Rates` (train/rates.py) the second:

    state, metrics = train_step(state, controls, batch)

Randomness: every draw comes from (member seed, purpose) and, but for initialisation, the example's `index` in the run's endless stream.
No draw depends on a device, a process or a counter that a restart resets. So the same run on any number of devices, stopped and
resumed anywhere, draws the same numbers, and members with equal seeds draw alike, which pairs them in an ablation.
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

INIT, DROPOUT, AUGMENT = range(3)  # the purposes of a draw

Batch = dict[str, Any]
MakeOptimizer = Callable[..., optax.GradientTransformation]  # (learning_rate, momentum, weight_decay)


@flax.struct.dataclass
class TrainState:
    """What every step changes, of M members; replicated over devices."""

    step: Any  # int32 (): optimiser steps done
    params: Any  # float32, leaves (M, ...)
    opt_state: Any  # float32, leaves (M, ...)


MEMBER_AXES = TrainState(step=None, params=0, opt_state=0)  # for vmap: the members share the step


@flax.struct.dataclass
class Controls:
    """What the host tells every step, of M members: leaves (M,), scalars inside the vmapped step. Traced: a change never recompiles."""

    hyper: Hyper
    scale: Any  # float32: the product of the drops so far
    done: Any  # bool: the member no longer learns

    def learning_rate(self, schedule_factor: Any) -> Any:
        """The learning rate in force, float32 (M,): of the step, the log, the answers to commands and the curves alike."""
        return self.hyper.learning_rate * self.scale * schedule_factor


@flax.struct.dataclass
class Networks:
    """M networks as they answer: what a checkpoint holds for whoever doesn't train."""

    step: Any  # int32 (): optimiser steps done
    params: Any  # float32, leaves (M, ...)
    hyper: Hyper  # leaves (M,)


def init_state(model: AlexNet, make_optimizer: MakeOptimizer, hyper: Hyper, channels: int) -> TrainState:
    """The state of a run that has not begun: each member's weights are drawn from its seed.

    Args:
      hyper: leaves (M,).
      channels: of the images.
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


def example_keys(seed, purpose, index):
    """One key for each example of a batch: `index` uint32 (B,) -> keys (B,)."""
    return jax.vmap(lambda i: jax.random.fold_in(_key(seed, purpose), i))(index)


def _key(seed, purpose):
    return jax.random.fold_in(jax.random.key(seed), purpose)
