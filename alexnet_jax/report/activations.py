"""Computes what the layers of a run's networks put out for images of a dataset. Training does not run it.

The report's sections (network.py) call it:

    found = layer_statistics(run.load("runs/digits"), members=[0], images=images)
    found.zeros    # (1, layers): the fraction of zeros in each layer
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import resample
from alexnet_jax.augment import augment, evaluation_view
from alexnet_jax.model.alexnet import LAST
from alexnet_jax.model.forward import layer_outputs
from alexnet_jax.run import Run
from alexnet_jax.state import AUGMENT

if TYPE_CHECKING:
    from alexnet_jax.examples import Examples

BATCH = 64


class LayerStatistics(NamedTuple):
    """Statistics of the layers' outputs after their activations, on a sample of images: arrays (M, layers)."""

    layers: list[str]
    mean: np.ndarray
    std: np.ndarray
    zeros: np.ndarray  # fraction of the values that are zero
    dead: np.ndarray  # fraction of the units that are zero for every image; a filter is one unit, dead if it is zero everywhere


def layer_statistics(run: Run, members: list[int], images: np.ndarray) -> LayerStatistics:
    """The statistics of some members, on uint8 images (N, H, W, C)."""

    def describe(outputs):
        # One number for each image and layer, so that the padding of the last batch can be removed later.
        each = {name: x.reshape(*x.shape[:1], -1, x.shape[-1]).astype(jnp.float32) for name, x in outputs.items() if name != LAST}
        return {
            name: {
                "mean": x.mean((1, 2)),
                "square": jnp.square(x).mean((1, 2)),
                "zeros": (x == 0).mean((1, 2), dtype=jnp.float32),
                "fires": (x != 0).any(1),
            }
            for name, x in each.items()
        }

    found = list(_of_members(run, members, images, describe))
    layers = list(found[0])

    def table(value: Callable[[dict], float]) -> np.ndarray:
        return np.array([[value(of_member[layer]) for layer in layers] for of_member in found])

    mean = table(lambda x: x["mean"].mean(dtype=np.float64))
    return LayerStatistics(
        layers,
        mean,
        np.sqrt(np.maximum(table(lambda x: x["square"].mean(dtype=np.float64)) - mean**2, 0)),
        table(lambda x: x["zeros"].mean(dtype=np.float64)),
        table(lambda x: 1 - x["fires"].any(0).mean()),
    )


def features(run: Run, member: int, images: np.ndarray, layer: str = "fc7") -> np.ndarray:
    """The features (N, units) of uint8 images (N, H, W, C) in a dense layer of one member."""
    (found,) = _of_members(run, [member], images, lambda outputs: outputs[layer].astype(jnp.float32))
    return found


def nearest(queries: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """Indices (Q, count) of the `others` (N, units) that are nearest to each of the `queries` (Q, units), by Euclidean distance."""
    squares = np.square(queries).sum(1)[:, None] - 2 * queries @ others.T + np.square(others).sum(1)
    return np.argsort(squares, axis=1, kind="stable")[:, :count]


def augmented(run: Run, member: int, images: np.ndarray, draws: int) -> np.ndarray:
    """What a member sees in training: for each of the images (N, H, W, C), draws of `augment`, as uint8 pixels (N, draws, size, size, C).

    The mean is added again, and values are clipped to 0 to 255. As in training, the key of a draw is made from (the member's draws,
    purpose, index).
    """
    hyper = jax.tree.map(lambda leaf: jnp.asarray(leaf)[member], run.state.hyper)
    key, size = jax.random.fold_in(jax.random.key(hyper.draws), AUGMENT), run.network.model.arch.input_size
    shear_to = resample.shear_to(run.resampling, run.network.hyper.rotation)
    index = jnp.arange(len(images) * draws).reshape(len(images), draws)

    def one(i, image):
        return augment(jax.random.fold_in(key, i), image, hyper, run.stats, size, shear_to)

    views = jax.jit(jax.vmap(jax.vmap(one, (0, None))))(index, images)
    return np.clip(np.round(np.asarray(views) + run.stats.mean), 0, 255).astype(np.uint8)


def sample(source: "Examples", count: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `count` examples of a split, the same at every call: images uint8 (N, H, W, C), labels (N,)."""
    places = np.random.default_rng(0).choice(len(source), min(count, len(source)), replace=False)
    return examples(source, places)


def examples(source: "Examples", places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some examples of a split: images uint8 (N, H, W, C), labels (N,)."""
    found = [source[place] for place in places]
    return np.stack([example["image"] for example in found]), np.array([example["label"] for example in found])


def _of_members(run: Run, members: list[int], images: np.ndarray, wanted: Callable[[dict[str, jax.Array]], Any]) -> Iterator[Any]:
    """Yield `wanted(layer_outputs)` of each member for all images: for a batch its leaves are (B, ...), here numpy (N, ...)."""
    model, stats = run.network.model, run.stats

    @jax.jit
    def look(params, hyper, images):
        views = jax.vmap(lambda image: evaluation_view(image, hyper, stats, model.arch.input_size))(images)
        return wanted(layer_outputs(model, params, views, hyper))

    for member in members:
        params, hyper = (jax.tree.map(lambda leaf, m=member: leaf[m], tree) for tree in (run.state.params, run.state.hyper))
        parts = []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            padded = np.concatenate([batch, np.zeros((BATCH - len(batch), *batch.shape[1:]), batch.dtype)])
            parts.append(look(params, hyper, padded))
        yield jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(images)], *parts)
