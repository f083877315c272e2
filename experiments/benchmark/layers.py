"""The part `layers`: times each layer of a network with its gradients: ours, XLA's direct convolutions, and PyTorch's layers.

python -m experiments.benchmark layers
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.hyper import Hyper
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.architecture import Architecture, architecture, model_config
from alexnet_jax.model.bias import add_bias
from alexnet_jax.model.conv import conv
from alexnet_jax.model.dense import dense
from experiments.benchmark import measure, ours
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {
    "network": "<9",
    "batch": "6d",
    "layer": "<6",
    "input": "<15",
    "kernel": "<19",
    "side": "<22",
    "ms": "9,.2f",
    "quartiles": ">15",
    "GFLOP/s": "8,.0f",
    "of PyTorch": "10.2f",
}
BATCH = 128


class Layer(NamedTuple):
    """A layer: its input without the batch's axis, its kernel, and what else a convolution has."""

    name: str
    shape: tuple[int, ...]  # (height, width, channels) or (units,)
    kernel: tuple[int, ...]  # (size, size, channels, filters) or (units, units)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)


def layers(arch: Architecture, classes: int, channels: int) -> list[Layer]:
    """The convolutions and dense layers of a network without groups."""
    image = jnp.zeros((1, arch.input_size, arch.input_size, channels))
    params = jax.eval_shape(AlexNet(arch, classes).init, jax.random.key(0), image, Hyper())["params"]
    _, pool1, pool2, _ = arch.map_sizes
    sizes = {"conv1": arch.input_size, "conv2": pool1, "conv3": pool2, "conv4": pool2, "conv5": pool2}  # of the inputs
    before, after = arch.stem_padding
    found = []
    for name, kernel in ((name, layer["kernel"].shape) for name, layer in params.items()):
        if name not in sizes:
            found.append(Layer(name, kernel[:1], kernel))
            continue
        stride, padding = (arch.stem_stride, (before, after)) if name == "conv1" else (1, (kernel[0] // 2,) * 2)
        found.append(Layer(name, (sizes[name], sizes[name], kernel[2]), kernel, stride, padding))
    return found


def run(settings: Settings, out: Path) -> None:
    batch = settings.batch(BATCH)
    title = "Each layer with its bias, forward and both gradients (conv1 has none of its input), float32; GFLOP/s of the direct convolution"
    table = Table("layers", title, COLUMNS, settings, out)
    for variant in settings.networks:
        section = model_config(variant)
        section.width *= settings.width
        for layer in layers(architecture(section), ours.CLASSES[variant], ours.CHANNELS[variant]):
            _layer(table, settings, variant, batch, layer)


def _layer(table: Table, settings: Settings, variant: str, batch: int, layer: Layer) -> None:
    rng, first = np.random.default_rng(0), layer.name == "conv1"
    x, kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((batch, *layer.shape), layer.kernel, layer.kernel[-1:]))
    outputs = jax.eval_shape(_function(layer, "direct"), x, kernel, bias).shape
    gradient = rng.normal(size=outputs).astype(np.float32)
    forms = ("auto", "direct") if len(layer.shape) == 3 else ("auto",)
    sides: dict[str, measure.Side] = {
        {"auto": "ours", "direct": "ours, direct"}[form]: _ours(_function(layer, form), first, x, kernel, bias, gradient) for form in forms
    }
    if measure.has_torch():
        from experiments.peers import torch_train

        for layout in torch_train.layouts(variant) if len(layer.shape) == 3 else ("contiguous",):
            step = torch_train.layer(x, kernel, bias, gradient, layer.stride, layer.padding[0], layout, gradient_of_input=not first)
            sides[f"PyTorch, {layout}"] = step
    timings = measure.alternately(sides, settings.rounds, settings.turn)
    best = min((timing.median for side, timing in timings.items() if "PyTorch" in side), default=None)
    work = 2 * (2 if first else 3) * gradient.size * kernel.size / kernel.shape[-1]
    for side, timing in timings.items():
        lower, upper = timing.quartiles
        table.timed(
            timing,
            network=variant,
            batch=batch,
            layer=layer.name,
            input=" x ".join(map(str, layer.shape)),
            kernel=" x ".join(map(str, layer.kernel)),
            side=side,
            ms=1e3 * timing.median,
            quartiles=measure.span(1e3 * lower, 1e3 * upper),
            GFLOP_s=work / timing.median / 1e9,
            of_PyTorch=best and best / timing.median,
        )


def _function(layer: Layer, form: str) -> Callable:
    def forward(x: Any, kernel: Any, bias: Any) -> jax.Array:
        y = conv(x, kernel, layer.stride, layer.padding, form=form) if len(layer.shape) == 3 else dense(x, kernel)
        return add_bias(y, bias)

    return forward


def _ours(function: Callable, first: bool, *arrays: np.ndarray) -> measure.Side:
    @jax.jit
    def step(x, kernel, bias, gradient):
        y, pullback = jax.vjp(function, x, kernel, bias)
        return y, pullback(gradient)[1 if first else 0 :]

    placed = [jnp.asarray(array) for array in arrays]
    return lambda: jax.block_until_ready(step(*placed))
