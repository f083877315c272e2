"""Every variant against an independent PyTorch network with the same weights: logits and gradients.

    pip install -e ".[peers]"
    python -m experiments.parity

Full size, random weights, a batch of two images of the size of photographs' pixels, float32, dropout off. An error is the largest
difference between two tensors, relative to the largest number in PyTorch's; gradients are those of a random weighting of the logits, the
worst of all parameters. Where torchvision is installed, its own alexnet is compared too.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError, run_cli

TOLERANCE = 1e-4  # float32 sums of ten thousand terms in different orders come to about 1e-6
IMAGES = 2


def compare(variant: str, width: float = 1.0, classes: int = 1000, channels: int = 3, module: Any = None) -> dict[str, float]:
    """Relative errors of `logits` and of every parameter's gradient, by name.

    Args:
      variant: of alexnet_jax and of torch_alexnet.
      width: factor on the number of units, on top of the variant's.
      classes: of the last layer.
      channels: of the images.
      module: a PyTorch network with layers of torchvision's names, instead of torch_alexnet's.
    """
    import jax
    import torch

    from alexnet_jax import formats, oihw
    from alexnet_jax.model import AlexNet, architecture, model_config
    from experiments import torch_alexnet

    section = model_config(variant)
    section.width *= width
    model = AlexNet(architecture(section), classes)
    ours = {(layer, leaf): f"{layer}.{'weight' if leaf == 'kernel' else 'bias'}" for layer in oihw.LAYERS for leaf in ("kernel", "bias")}
    names = ours if module is None else formats.TORCHVISION_NAMES
    module = module or torch_alexnet.AlexNet(torch_alexnet.VARIANTS[variant].narrow(width), classes, channels)

    rng = np.random.default_rng(0)
    images = rng.normal(0, 74, (IMAGES, model.arch.input_size, model.arch.input_size, channels)).astype(np.float32)
    weighting = rng.normal(size=(IMAGES, classes)).astype(np.float32)
    hyper = _hyper(section)
    params = random_params(jax.eval_shape(model.init, jax.random.key(0), images, hyper)["params"], rng)
    map_size = model.arch.map_sizes[-1]

    def weighted(params):
        logits = model.apply({"params": params}, images, hyper)
        return (logits * weighting).sum(), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(weighted, has_aux=True))(params)
    found = {"logits": np.asarray(logits), **oihw.to_oihw(jax.tree.map(np.asarray, gradients), names, map_size)}

    module.load_state_dict({name: torch.from_numpy(array) for name, array in oihw.to_oihw(params, names, map_size).items()})
    scaled = images.transpose(0, 3, 1, 2) / np.float32(model.arch.pixel_scales)[:, None, None]
    answer = module.eval()(torch.from_numpy(scaled))
    (answer * torch.from_numpy(weighting)).sum().backward()
    wanted = {"logits": answer.detach().numpy(), **{name: p.grad.numpy() for name, p in module.named_parameters()}}
    return {name: relative_error(found[name], wanted[name]) for name in wanted}


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest number wanted."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def random_params(shapes: Any, rng: np.random.Generator) -> Any:
    """He-normal kernels and biases of the size of their layer's inputs, so that every unit is in play and LRN's sums far above k."""
    return {
        layer: {
            "kernel": rng.normal(0, (2 / np.prod(leaves["kernel"].shape[:-1])) ** 0.5, leaves["kernel"].shape).astype(np.float32),
            "bias": rng.normal(0, 0.1, leaves["bias"].shape).astype(np.float32),
        }
        for layer, leaves in shapes.items()
    }


def _hyper(section: Any) -> Any:
    from alexnet_jax.hyper import Hyper

    return Hyper(lrn_k=section.lrn_k, lrn_alpha=section.lrn_alpha, lrn_beta=section.lrn_beta)


def torchvision_alexnet() -> Any:
    """torchvision's own network, None where torchvision isn't installed."""
    try:
        from torchvision.models import alexnet
    except ImportError:
        return None
    return alexnet(weights=None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m experiments.parity", description="Hold every variant against PyTorch: logits and gradients."
    )
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="only these (default: all)")
    args = parser.parse_args(argv)
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError('PyTorch is not installed; it comes with: pip install -e ".[peers]"') from None

    from alexnet_jax import parallel
    from alexnet_jax.model import VARIANTS, model_config

    parallel.start()
    chosen = args.variants or list(VARIANTS)
    for variant in chosen:
        model_config(variant)  # refuses an unknown one before the work
    own = torchvision_alexnet()
    rows: list[tuple[str, Callable[[], dict[str, float]]]] = [(variant, lambda v=variant: compare(v)) for variant in chosen]
    if own is not None and "owt" in chosen:
        rows.append(("owt, torchvision's own", lambda: compare("owt", module=own)))
    print(f"{'variant':24}{'logits':>10}{'gradients':>12}  the worst of them")
    worst = 0.0
    for name, errors_of in rows:
        errors = errors_of()
        logits = errors.pop("logits")
        tensor, gradients = max(errors.items(), key=lambda item: item[1])
        worst = max(worst, logits, gradients)
        print(f"{name:24}{logits:10.1e}{gradients:12.1e}  {tensor}", flush=True)
    print(f"the largest relative error is {worst:.1e}; {'below' if worst < TOLERANCE else 'NOT below'} {TOLERANCE:.0e}")
    return int(not worst < TOLERANCE)


if __name__ == "__main__":
    run_cli(main)
