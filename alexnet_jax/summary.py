"""A network on paper: its layers with their shapes, parameters and multiply-accumulates; and what differs between two variants.

    python -m alexnet_jax.model seed
    python -m alexnet_jax.model seed caffenet

Nothing is computed or compiled: parameters are those of the module's abstract initialisation, shapes come from `Architecture.map_sizes`.
"""

import argparse
from typing import TYPE_CHECKING, NamedTuple

from alexnet_jax.errors import UserError

if TYPE_CHECKING:
    from alexnet_jax.model import Architecture


class Layer(NamedTuple):
    """One line of the summary."""

    name: str
    shape: tuple[int, ...]  # of its output for one image: (height, width, channels) or (units,)
    parameters: int = 0
    macs: int = 0  # multiply-accumulates for one image; pooling and LRN have none to speak of


def layers(arch: "Architecture", classes: int, channels: int) -> list[Layer]:
    """The layers of a network for images of so many channels, in their order."""
    import jax
    import jax.numpy as jnp

    from alexnet_jax.hyper import Hyper
    from alexnet_jax.model import AlexNet

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


def _pool_and_norm(arch: "Architecture", stage: int, size: int, pooled: int, channels: int) -> list[Layer]:
    pool = Layer(f"pool{min(stage, 3)}", (pooled, pooled, channels))
    if not arch.lrn or stage == 5:
        return [pool]
    if arch.lrn_order == "after_pool":
        return [pool, Layer(f"norm{stage}", pool.shape)]
    return [Layer(f"norm{stage}", (size, size, channels)), pool]


def table(arch: "Architecture", classes: int, channels: int) -> str:
    """The layers as text, with totals."""
    rows = layers(arch, classes, channels)
    parameters, macs = sum(row.parameters for row in rows), sum(row.macs for row in rows)
    forward, step = 2 * macs, 2 * (3 * macs - rows[0].macs)
    lines = [f"{'layer':6}{'output shape':>16}{'parameters':>14}{'MACs':>17}"]
    for row in [Layer("input", (arch.input_size, arch.input_size, channels)), *rows]:
        shape = " x ".join(map(str, row.shape))
        numbers = f"{row.parameters:14,}{row.macs:17,}" if row.parameters else ""
        lines.append(f"{row.name:6}{shape:>16}{numbers}")
    lines.append(f"{'total':6}{'':16}{parameters:14,}{macs:17,}")
    lines.append(
        f"{forward / 1e9:.4f} GFLOPs an image forward, {step / 1e9:.4f} in a training step: two a MAC, no gradient for the image itself"
    )
    return "\n".join(lines)


def differences(variant: str, other: str) -> str:
    """The fields of the model section in which two variants differ, a line each."""
    from alexnet_jax.model import model_config

    before, after = model_config(variant), model_config(other)
    return "\n".join(f"{field}: {before[field]} -> {after[field]}" for field in before if before[field] != after[field])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m alexnet_jax.model", description="The layers of a network, or what differs between two.")
    parser.add_argument("variant", nargs="?", default="seed", help="seed (default), caffenet, caffe, paper, owt or small")
    parser.add_argument("other", nargs="?", metavar="other", help="a second variant, to print only what differs")
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--channels", type=int, default=3, metavar="N", help="of the images (default: 3)")
    args = parser.parse_args(argv)
    if min(args.classes, args.channels) < 1:
        raise UserError(f"--classes {args.classes} and --channels {args.channels} must be at least 1")

    from alexnet_jax.model import architecture, model_config

    if args.other is None:
        arch = architecture(model_config(args.variant))
        arch.check_channels(args.channels)
        print(table(arch, args.classes, args.channels))
    else:
        print(differences(args.variant, args.other) or f"{args.variant} and {args.other} are the same network")
