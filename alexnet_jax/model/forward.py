"""Forward passes of M evaluation networks, their layers' outputs, and the sums of their errors over a batch.

The loop (train/loop.py), `evaluate`, `predict` and what looks inside ask the networks by these; turns.py and parallel.py spread them over
devices:

    log_probs = make_log_probs(network.model, dataset.stats)
    log_probs(params, hyper, images)    # float32 (M, B, classes) of uint8 images (B, H, W, C)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.augment import evaluation_view, ten_views
from alexnet_jax.hyper import Hyper
from alexnet_jax.metrics import is_error
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.prepare.pixel_stats import PixelStats


def logits(model: AlexNet, params: Any, views: jax.Array, hyper: Hyper, dropout_keys: Any = None) -> jax.Array:
    """One network's logits, float32 (B, classes), of views (B, size, size, C); with dropout where there are keys (B,) for it."""
    return model.apply({"params": params}, views, hyper, dropout_keys)  # type: ignore[return-value]


def layer_outputs(
    model: AlexNet, params: Any, views: jax.Array, hyper: Hyper, dropout_keys: Any = None, added: Any = None
) -> dict[str, jax.Array]:
    """The outputs of all layers of one network, after their activations, in order: `{"conv1": (B, height, width, filters), ...}`.

    The last one, `"fc8": (B, classes)`, holds the logits. `added`, `{layer: array}`, is added to these layers' outputs (`Explained` in
    explain/rules.py takes it): the derivative with respect to it is that with respect to the outputs.
    """
    variables = {"params": params} | ({} if added is None else {"added": added})
    _, kept = model.apply(variables, views, hyper, dropout_keys, mutable="intermediates")
    return kept["intermediates"]["layers"]  # type: ignore[index]


def make_log_probs(model: AlexNet, stats: PixelStats, ten_crop: bool = False) -> Callable:
    """`log_probs(params, hyper, images) -> float32 (M, B, classes)` of uint8 images (B, H, W, C), without dropout.

    `params` and `hyper` have leaves (M, ...). With `ten_crop` the result is the log of the mean of the softmax over the paper's ten views.
    """
    size = model.arch.input_size

    def one_view(params, hyper, views):
        return jax.nn.log_softmax(logits(model, params, views, hyper))

    def member(params, hyper: Hyper, images):
        if not ten_crop:
            return one_view(params, hyper, jax.vmap(lambda image: evaluation_view(image, hyper, stats, size))(images))
        views = jax.vmap(lambda image: ten_views(image, hyper, stats, size))(images)
        log_probs = one_view(params, hyper, views.reshape(-1, *views.shape[2:])).reshape(*views.shape[:2], -1)
        return jax.nn.logsumexp(log_probs, axis=1) - jnp.log(10.0)

    return jax.vmap(member, in_axes=(0, 0, None))


def make_sums(device_axis: str) -> Callable:
    """`sums(log_probs, batch)` over all devices' shares of a batch; `log_probs` float32 (M, B, classes), `mask` is false on padding.

    Sums are float32: `count` (); `loss`, `top1_errors`, `top5_errors` (M,); `ensemble_top1_errors` (), of the mean of the members' softmax.
    """

    def sums(log_probs, batch: dict[str, Any]):
        label, mask = batch["label"], batch["mask"]
        top1, top5 = (is_error(log_probs, label, k) for k in (1, 5))
        ensemble = is_error(jnp.nanmean(jnp.exp(log_probs), axis=0), label, 1)  # without the members that are NaN
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
