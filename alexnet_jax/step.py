"""TrainState, the train step and the predictions: written for one member, vmapped over members once, here.

Randomness: every draw comes from (member seed, purpose) and, but for initialisation, the example's `index` in the run's endless stream.
Never from a device, a process or a counter that a restart resets: so the same run on any number of devices, stopped and resumed
anywhere, draws the same numbers; and members with equal seeds draw alike, which pairs them in an ablation.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from alexnet_jax import cpu, plateau
from alexnet_jax.augment import PixelStats, augment, evaluation_view, ten_views
from alexnet_jax.hyper import Hyper
from alexnet_jax.metrics import is_error
from alexnet_jax.model import AlexNet

INIT, DROPOUT, AUGMENT = range(3)  # the purposes of a draw

Batch = dict[str, Any]
MakeOptimizer = Callable[..., optax.GradientTransformation]  # (learning_rate, momentum, weight_decay)


@flax.struct.dataclass
class TrainState:
    """Everything a run changes; replicated over devices. M members, every leaf but `step` (M, ...)."""

    step: Any  # int32 (): optimiser steps done
    hyper: Hyper
    params: Any  # float32
    opt_state: Any  # float32
    plateau: plateau.Plateau


# How a TrainState is split for vmap: the step is shared, the rest is per member.
_MEMBER_AXES = TrainState(step=None, hyper=0, params=0, opt_state=0, plateau=0)  # type: ignore[arg-type]


def new_state(hyper: Hyper, params: Any, opt_state: Any) -> TrainState:
    """The state of a run that has not begun, of leaves (M, ...)."""
    return TrainState(np.int32(0), hyper, params, opt_state, plateau.init(hyper.members))


def init_state(model: AlexNet, make_optimizer: MakeOptimizer, hyper: Hyper, channels: int) -> TrainState:
    """The state of a run that has not begun, its weights drawn by each member's seed. `hyper` has leaves (M,)."""
    init = jax.jit(_make_init(model, make_optimizer, channels), compiler_options=cpu.quick_to_compile())
    return new_state(hyper, *init(hyper))


def abstract_state(model: AlexNet, make_optimizer: MakeOptimizer, hyper: Hyper, channels: int) -> TrainState:
    """Shapes and types of `init_state`'s; nothing is computed."""
    init = _make_init(model, make_optimizer, channels)
    return jax.eval_shape(lambda hyper: new_state(hyper, *init(hyper)), hyper)


def _make_init(model: AlexNet, make_optimizer: MakeOptimizer, channels: int) -> Callable:
    def init_member(member: Hyper):
        image = jnp.zeros((1, model.arch.input_size, model.arch.input_size, channels))
        params = model.init(_key(member.seed, INIT), image, member)["params"]
        return params, make_optimizer(member.learning_rate, member.momentum, member.weight_decay).init(params)

    return jax.vmap(init_member)


def make_train_step(model: AlexNet, make_optimizer: MakeOptimizer, stats: PixelStats, rate_factor: Callable, device_axis: str) -> Callable:
    """`train_step(state, batch) -> (state, metrics)` for the share of the batch that one device of the axis holds.

    `batch` holds `image` uint8 (B, H, W, C), `label` int32 (B,), `index` uint32 (B,). Metrics are float32 (M,): the batch's `loss` and
    top-1 `error`, of dropout networks on augmented images, and the `learning_rate` used, which is the member's own times its plateau's
    scale times `rate_factor(step)`.
    """

    def loss_fn(params, hyper: Hyper, batch: Batch):
        views = jax.vmap(lambda key, image: augment(key, image, hyper, stats, model.arch.input_size))(
            _example_keys(hyper.seed, AUGMENT, batch["index"]), batch["image"]
        )
        logits = _logits(model, params, views, hyper, _example_keys(hyper.seed, DROPOUT, batch["index"]))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jnp.mean(losses), jnp.mean(jnp.argmax(logits, -1) != batch["label"], dtype=jnp.float32)

    def train_member(state: TrainState, batch: Batch):
        (loss, error), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params, state.hyper, batch)
        if lax.axis_size(device_axis) > 1:  # XLA would copy every gradient for the mean of one
            loss, error, gradients = lax.pmean((loss, error, gradients), device_axis)
        learning_rate = state.hyper.learning_rate * state.plateau.scale * rate_factor(state.step)
        optimizer = make_optimizer(learning_rate, state.hyper.momentum, state.hyper.weight_decay)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        # A member that is done stays what it was. Masking the update, not the result, keeps this in the optimiser's one pass.
        updates = jax.tree.map(lambda update: jnp.where(state.plateau.done, 0, update), updates)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "error": error, "learning_rate": learning_rate}
        return replace(state, step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.vmap(train_member, in_axes=(_MEMBER_AXES, None), out_axes=(_MEMBER_AXES, 0))


def make_log_probs(model: AlexNet, stats: PixelStats, ten_crop: bool = False) -> Callable:
    """`log_probs(state, images) -> float32 (M, B, classes)` of uint8 images (B, H, W, C): evaluation networks, without dropout.

    With `ten_crop`, the log of the mean of the softmax over the paper's ten views.
    """
    size = model.arch.input_size

    def one_view(params, hyper, views):
        return jax.nn.log_softmax(_logits(model, params, views, hyper))

    def member(state: TrainState, images):
        params, hyper = state.params, state.hyper
        if not ten_crop:
            return one_view(params, hyper, jax.vmap(lambda image: evaluation_view(image, hyper, stats, size))(images))
        views = jax.vmap(lambda image: ten_views(image, hyper, stats, size))(images)
        log_probs = one_view(params, hyper, views.reshape(-1, *views.shape[2:])).reshape(*views.shape[:2], -1)
        return jax.nn.logsumexp(log_probs, axis=1) - jnp.log(10.0)

    return jax.vmap(member, in_axes=(_MEMBER_AXES, None))


def make_sums(device_axis: str) -> Callable:
    """`sums(log_probs, batch)` over all devices' shares of a batch whose `mask` is false on padding; log_probs float32 (M, B, classes).

    Sums are float32: `count` (); `loss`, `top1_errors`, `top5_errors` (M,); `ensemble_top1_errors` (), of the mean of the members' softmax.
    """

    def sums(log_probs, batch: Batch):
        label, mask = batch["label"], batch["mask"]
        top1, top5 = (is_error(log_probs, label, k) for k in (1, 5))
        ensemble = is_error(jnp.nanmean(jnp.exp(log_probs), axis=0), label, 1)  # a member that says NaN has no say
        loss = -jnp.take_along_axis(log_probs, label[None, :, None], axis=-1)[..., 0]
        values = {
            "loss": jnp.sum(jnp.where(mask, loss, 0), -1),
            "top1_errors": jnp.sum(top1 & mask, -1, dtype=jnp.float32),
            "top5_errors": jnp.sum(top5 & mask, -1, dtype=jnp.float32),
            "ensemble_top1_errors": jnp.sum(ensemble & mask, dtype=jnp.float32),
            "count": jnp.sum(mask, dtype=jnp.float32),
        }
        return lax.psum(values, device_axis)

    return sums


def _logits(model: AlexNet, params, views, hyper: Hyper, dropout_keys=None) -> jax.Array:
    return model.apply({"params": params}, views, hyper, dropout_keys)  # type: ignore[return-value]


def _key(seed, purpose):
    return jax.random.fold_in(jax.random.key(seed), purpose)


def _example_keys(seed, purpose, index):
    return jax.vmap(lambda i: jax.random.fold_in(_key(seed, purpose), i))(index)
