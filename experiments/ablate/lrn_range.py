"""Measures how much LRN's divisor varies in an untrained network. If the divisor is nearly constant, LRN normalises nothing.

findings.py adds it to the notes of the factors `lrn` and `order`:

    deviations(config, dataset, members=[0, 5])    # [11.55, 0.0043]: for each member, relative to the smallest divisor
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.data import Dataset

IMAGES = 64
CONSTANT = 0.05  # a divisor that varies by less than this is nearly a constant factor, which the next layer's weights can cancel


def deviations(config: ConfigDict, dataset: Dataset, members: list[int]) -> list[float]:
    """For each of these members of a config, the largest relative deviation of LRN's divisor (k + c * sum)^beta from k^beta.

    It is taken over the first training images without augmentation, both LRN layers, and all positions with a nonzero activation, in
    untrained networks. It is 0 if the network has no LRN or alpha is 0.
    """
    import jax

    from alexnet_jax import data
    from alexnet_jax import network as network_lib
    from alexnet_jax.augment import evaluation_view
    from alexnet_jax.state import init_state

    network = network_lib.build(config, dataset.image_shape, len(dataset.classes))
    if not network.model.arch.lrn:
        return [0.0] * len(members)
    chosen = jax.tree.map(lambda leaf: leaf[members], network.hyper)
    params = init_state(network.model, network.make_optimizer, chosen, network.channels).params
    source = dataset.source(config.data.train_split)
    size = min(IMAGES, len(source))
    batch = next(data.train_batches(source, batch_size=size, seed=config.data.seed, position=0, threads=config.data.threads))

    def member(params: Any, hyper: Any) -> Any:
        views = jax.vmap(lambda image: evaluation_view(image, hyper, dataset.stats, network.model.arch.input_size))(batch["image"])
        _, captured = network.model.apply({"params": params}, views, hyper, mutable=["intermediates"])
        return captured["intermediates"]["lrn"]  # (input, output) of each

    layers = jax.jit(jax.vmap(member))(params, chosen)
    k_power = np.asarray(chosen.lrn_k) ** np.asarray(chosen.lrn_beta)
    # With alpha = 0 the quotient differs from k^beta by rounding alone.
    return [
        max(_deviation(np.asarray(x[m]), np.asarray(y[m]), k_power[m]) for x, y in layers) if chosen.lrn_alpha[m] else 0.0
        for m in range(len(members))
    ]


def _deviation(x: np.ndarray, y: np.ndarray, k_power: float) -> float:
    """The largest relative deviation of the divisor x / y from k^beta, where x is nonzero by more than rounding."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    seen = np.abs(x) > 1e-6 * np.abs(x).max()
    return float(np.abs(x[seen] / y[seen] / k_power - 1).max())
