"""The layers of a network with their shapes, parameters, work and receptive fields; nothing is computed or compiled.

The summary (`python -m alexnet_jax.model`), the launchers' estimates and the benchmarks count by it, `explain` crops by it:

    layers(arch, classes=1000, channels=3)          # a Layer for each line of the summary
    step_flops(arch, classes=1000, channels=3)      # 6.6e9 for the one-tower network
    receptive_fields(arch, channels=3)["conv5"]     # 163 pixels at stride 16 in the one-tower network
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax.hyper import Hyper
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.architecture import Architecture


class Layer(NamedTuple):
    """One line of the summary."""

    name: str
    shape: tuple[int, ...]  # of its output for one image: (height, width, channels) or (units,)
    parameters: int = 0
    macs: int = 0  # multiply-accumulates for one image; those of pooling and LRN are not counted


class ReceptiveField(NamedTuple):
    """The pixels of the view that the units of a layer depend on, the same in height and width.

    Unit i depends on pixels start + i * stride .. start + i * stride + size - 1; those outside the view are zero padding.
    """

    size: int
    stride: int
    start: int

    def of(self, unit: int) -> tuple[int, int]:
        """The first pixel of a unit, and the one after its last."""
        first = self.start + unit * self.stride
        return first, first + self.size


def layers(arch: Architecture, classes: int, channels: int) -> list[Layer]:
    """The layers of a network for images of so many channels, in their order."""
    image = jnp.zeros((1, arch.input_size, arch.input_size, channels))
    params = jax.eval_shape(AlexNet(arch, classes).init, jax.random.key(0), image, Hyper())["params"]
    conv1, pool1, pool2, pool3 = arch.map_sizes
    maps = {"conv1": conv1, "conv2": pool1, "conv3": pool2, "conv4": pool2, "conv5": pool2}
    pooled = {"conv1": pool1, "conv2": pool2, "conv5": pool3}
    rows = []
    for name, layer in params.items():
        (units,), kernel, size = layer["bias"].shape, layer["kernel"].size, maps.get(name, 1)  # a dense layer is a map of 1 x 1
        rows.append(Layer(name, (size, size, units) if name in maps else (units,), kernel + units, kernel * size**2))
        if name in pooled:
            rows += _pool_and_norm(arch, int(name[-1]), size, pooled[name], units)
    return rows


def _pool_and_norm(arch: Architecture, stage: int, size: int, pooled: int, channels: int) -> list[Layer]:
    pool = Layer(f"pool{min(stage, 3)}", (pooled, pooled, channels))
    if not arch.lrn or stage == 5:
        return [pool]
    if arch.lrn_order == "after_pool":
        return [pool, Layer(f"norm{stage}", pool.shape)]
    return [Layer(f"norm{stage}", (size, size, channels)), pool]


def receptive_fields(arch: Architecture, channels: int) -> dict[str, ReceptiveField]:
    """The receptive fields of the convolutions and pools, in their order."""
    image = jnp.zeros((1, arch.input_size, arch.input_size, channels))
    params = jax.eval_shape(AlexNet(arch, 1).init, jax.random.key(0), image, Hyper())["params"]
    field, fields = ReceptiveField(1, 1, 0), {}

    def add(name: str, kernel: int, stride: int, padding: int) -> None:
        nonlocal field
        size, start = field.size + (kernel - 1) * field.stride, field.start - padding * field.stride
        field = fields[name] = ReceptiveField(size, field.stride * stride, start)

    for name in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        kernel = params[name]["kernel"].shape[0]
        stride, padding = (arch.stem_stride, arch.stem_padding[0]) if name == "conv1" else (1, kernel // 2)
        add(name, kernel, stride, padding)
        if name in ("conv1", "conv2", "conv5"):
            add(f"pool{min(int(name[-1]), 3)}", arch.pool_size, arch.pool_stride, 0)
    return fields


def forward_flops(arch: Architecture, classes: int, channels: int) -> int:
    """Of one image, forward: two a multiply-accumulate; pooling, LRN and activations are left out."""
    return 2 * sum(layer.macs for layer in layers(arch, classes, channels))


def step_flops(arch: Architecture, classes: int, channels: int) -> int:
    """Of one image in a training step: forward, the kernels' gradients, and the inputs' gradients but for the image's own."""
    macs = [layer.macs for layer in layers(arch, classes, channels)]
    return 2 * (3 * sum(macs) - macs[0])
