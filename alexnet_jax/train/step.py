"""The train step: augmentation, loss, gradients and update, written for one member and vmapped over members once, here.

The loop compiles it for all devices (turns.py, parallel.py) and calls it once a batch:

    step = make_train_step(network.model, network.make_optimizer, dataset.stats, schedule, parallel.DEVICES)
    state, metrics = step(state, controls, batch)
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from alexnet_jax.augment import augment
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.alexnet import LAST, AlexNet
from alexnet_jax.model.forward import logits
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.state import AUGMENT, DROPOUT, MEMBER_AXES, Batch, Controls, MakeOptimizer, TrainState, example_keys


def inputs(model: AlexNet, stats: PixelStats, hyper: Hyper, batch: Batch, shear_to: float | None = None) -> tuple[Any, Hyper, Any]:
    """What one member's network is applied to in a training step: augmented views (B, size, size, C), `hyper`, dropout's keys (B,)."""
    with jax.named_scope("augment"):  # the names tell the parts of a compiled program apart (experiments/scaling)
        views = jax.vmap(lambda key, image: augment(key, image, hyper, stats, model.arch.input_size, shear_to))(
            example_keys(hyper.draws, AUGMENT, batch["index"]), batch["image"]
        )
    return views, hyper, example_keys(hyper.draws, DROPOUT, batch["index"])


def make_train_step(
    model: AlexNet,
    make_optimizer: MakeOptimizer,
    stats: PixelStats,
    schedule: Callable[[Any], Any],
    batch_axis: str | None,
    accumulate: int = 1,
    shear_to: float | None = None,
) -> Callable:
    """`train_step(state, controls, batch) -> (state, metrics)` for the share of the batch that one device of the axis holds.

    The losses and gradients of all shares are averaged over `batch_axis`; with None, the batch is a whole one. A share is cut into
    `accumulate` pieces, which take turns, so that the memory has the activations of one piece at a time. Draws belong to the examples: how
    a batch is shared and cut changes the order of sums, and nothing else. `shear_to` is for `augment`.

    `batch` holds `image` uint8 (B, H, W, C), `label` int32 (B,), `index` uint32 (B,). Metrics are float32 (M,): the batch's `loss` and
    top-1 `error`, of dropout networks on augmented images, and the `learning_rate` in force, of which `schedule(step)` is a factor.

    A member whose loss or gradient isn't finite is frozen: the step is not made, and the bias of its last layer becomes NaN. So its answers
    are NaN from then on (no ensemble counts them), no later step moves it, and its other parameters show what it was. Its `loss` and
    `error` are NaN.
    """

    def loss_fn(params, hyper: Hyper, batch: Batch):
        scores = logits(model, params, *inputs(model, stats, hyper, batch, shear_to))
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch["label"])
        return jnp.mean(losses), jnp.mean(jnp.argmax(scores, -1) != batch["label"], dtype=jnp.float32)

    def means(params, hyper: Hyper, batch: Batch):
        """((loss, error), gradients): means over a share."""
        of = partial(jax.value_and_grad(loss_fn, has_aux=True), params, hyper)
        if accumulate == 1:
            return of(batch)
        pieces = jax.tree.map(lambda leaf: leaf.reshape(accumulate, -1, *leaf.shape[1:]), batch)
        shapes = jax.eval_shape(of, jax.tree.map(lambda leaf: leaf[0], pieces))
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        sums, _ = lax.scan(lambda sums, piece: (jax.tree.map(jnp.add, sums, of(piece)), None), zeros, pieces)
        return jax.tree.map(lambda total: total / accumulate, sums)

    def train_member(state: TrainState, controls: Controls, batch: Batch):
        hyper = controls.hyper
        (loss, error), gradients = means(state.params, hyper, batch)
        if batch_axis and lax.axis_size(batch_axis) > 1:  # XLA would copy every gradient for the mean of one
            loss, error, gradients = lax.pmean((loss, error, gradients), batch_axis)
        learning_rate = controls.learning_rate(schedule(state.step))
        optimizer = make_optimizer(learning_rate, hyper.momentum, hyper.weight_decay)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            finite = jax.tree.reduce(lambda so_far, gradient: so_far & jnp.isfinite(gradient).all(), gradients, jnp.isfinite(loss))
            # A member that is done stays what it was. Masking the update, not the result, keeps this in the optimiser's one pass.
            updates = jax.tree.map(lambda update: jnp.where(finite & ~controls.done, update, 0), updates)
            params = optax.apply_updates(state.params, updates)
        bias = params[LAST]["bias"]
        params = {**params, LAST: {**params[LAST], "bias": jnp.where(finite | controls.done, bias, jnp.nan)}}
        loss, error = jnp.where(finite, loss, jnp.nan), jnp.where(finite, error, jnp.nan)
        metrics = {"loss": loss, "error": error, "learning_rate": learning_rate}
        return replace(state, step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.vmap(train_member, in_axes=(MEMBER_AXES, 0, None), out_axes=(MEMBER_AXES, 0))
