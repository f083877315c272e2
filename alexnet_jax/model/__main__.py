"""A network on paper: its layers with their shapes, parameters and multiply-accumulates; and what differs between two variants.

    python -m alexnet_jax.model one_tower
    python -m alexnet_jax.model one_tower caffenet

The layers come from layers.py; nothing is computed or compiled.
"""

import argparse
from typing import TYPE_CHECKING

from alexnet_jax.errors import UserError, run_cli
from alexnet_jax.tables import aligned

if TYPE_CHECKING:
    from alexnet_jax.model.architecture import Architecture


def table(arch: "Architecture", classes: int, channels: int) -> str:
    """The layers as text, with totals."""
    from alexnet_jax.model.layers import Layer, forward_flops, layers, step_flops

    rows = layers(arch, classes, channels)
    parameters, macs = sum(row.parameters for row in rows), sum(row.macs for row in rows)
    forward, step = forward_flops(arch, classes, channels), step_flops(arch, classes, channels)
    cells = [("layer", "output shape", "parameters", "MACs")]
    for row in [Layer("input", (arch.input_size, arch.input_size, channels)), *rows]:
        numbers = (f"{row.parameters:,}", f"{row.macs:,}") if row.parameters else ("", "")
        cells.append((row.name, " x ".join(map(str, row.shape)), *numbers))
    cells.append(("total", "", f"{parameters:,}", f"{macs:,}"))
    work = f"{forward / 1e9:.4f} GFLOPs an image forward, {step / 1e9:.4f} in a training step"
    return f"{aligned(cells, '<>', gap=4)}\n{work}: two a MAC, no gradient for the image itself"


def differences(variant: str, other: str) -> str:
    """The fields of the model section in which two variants differ, a line each."""
    from alexnet_jax.model.architecture import model_config

    before, after = model_config(variant), model_config(other)
    return "\n".join(f"{field}: {before[field]} -> {after[field]}" for field in before if before[field] != after[field])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m alexnet_jax.model", description="The layers of a network, or what differs between two.")
    parser.add_argument("variant", nargs="?", default="one_tower", help="one_tower (default), caffenet, caffe, paper, owt or small")
    parser.add_argument("other", nargs="?", metavar="other", help="a second variant, to print only what differs")
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--channels", type=int, default=3, metavar="N", help="of the images (default: 3)")
    args = parser.parse_args(argv)
    if min(args.classes, args.channels) < 1:
        raise UserError(f"--classes {args.classes} and --channels {args.channels} must be at least 1")

    from alexnet_jax.model.architecture import architecture, model_config

    if args.other is None:
        arch = architecture(model_config(args.variant))
        arch.check_channels(args.channels)
        print(table(arch, args.classes, args.channels))
    else:
        print(differences(args.variant, args.other) or f"{args.variant} and {args.other} are the same network")


if __name__ == "__main__":
    run_cli(main)
