"""Looks into one member's training step: which layers' values aren't finite, which units are dead. The sentinels (sentinels.py) call it:

found = examine(network.model, dataset.stats, params, hyper, batch)
found.not_finite(batch["index"])    # "the output of conv3 is the first that isn't finite, for examples 17, 93"
found.not_learning()                # "in fc6 98 % of the units are the same for every image: ..."
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from alexnet_jax.hyper import Hyper
from alexnet_jax.model.alexnet import LAST, AlexNet
from alexnet_jax.model.forward import layer_outputs, logits
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.state import Batch
from alexnet_jax.train.step import inputs

LISTED = 5  # examples that a message names
DEAD = 0.9  # fraction of a layer's units that, if they are dead, explain why a network doesn't learn
FADED = 1e-2  # a signal whose standard deviation falls by this factor on its way through the network explains it too


class Findings(NamedTuple):
    """What `examine` found, by layer in their order; B is the number of examples."""

    bad: dict[str, np.ndarray]  # bool (B,): where an example's output is not finite
    bad_gradients: dict[str, bool]  # whether a gradient of the layer's parameters is not finite
    dead: dict[str, float]  # fraction of the units whose output is the same for all images; a filter is one unit
    spread: dict[str, float]  # standard deviation of the outputs

    def not_finite(self, names: np.ndarray) -> str:
        """Where values stop being finite, in words. `names` (B,) are the numbers by which the examples are known."""
        for layer, bad in self.bad.items():
            if bad.any():
                which = "all examples" if bad.all() else f"examples {_listed(names[bad])}"
                return f"the output of {layer} is the first that isn't finite, for {which}"
        for layer in reversed(self.bad_gradients):
            if self.bad_gradients[layer]:
                return f"all outputs are finite; the gradient of {layer} is the first that isn't, of examples {_listed(names)}"
        return f"computed again it is finite, of examples {_listed(names)}"

    def not_learning(self) -> str:
        """The likely cause why a network doesn't learn, and the remedy, in words."""
        shares = ", ".join(f"{layer} {share:.0%}" for layer, share in self.dead.items())
        first, *_, last = self.spread.values()
        dead = [layer for layer, share in self.dead.items() if share >= DEAD]
        if dead:
            cause = f"{dead[0]} is dead; lower optimizer.learning_rate, raise model.positive_bias or change model.init"
        elif last < FADED * first:
            cause = (
                f"the signal fades from {first:.2g} at its first layer to {last:.2g} at its last; change model.init or model.pixel_scale"
            )
        else:
            cause = "its layers work; change optimizer.learning_rate or model.pixel_scale, and check the labels"
        return f"units that are the same for every image: {shares}. Likely cause: {cause}"


def examine(
    model: AlexNet, stats: PixelStats, params: Any, hyper: Hyper, batch: Batch, shear_to: float | None = None, pieces: int = 1
) -> Findings:
    """Compute a training step of one member again, but for its update.

    Args:
      params: its parameters. A frozen member's last bias, which is NaN, is taken as 0.
      hyper: its hyperparameters, scalar leaves.
      batch: `image` uint8 (B, H, W, C), `label` int32 (B,), `index` uint32 (B,).
      shear_to: as the step has it, for `augment`.
      pieces: of the batch that one device looks at in turn. `dead` and `spread` are means over them.
    """

    def look(params, hyper, batch):
        seen = inputs(model, stats, hyper, batch, shear_to)
        outputs = {name: x.reshape(len(x), -1, x.shape[-1]).astype(jnp.float32) for name, x in layer_outputs(model, params, *seen).items()}

        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(logits(model, params, *seen), batch["label"]).mean()

        gradients = jax.grad(loss)(params)
        bad = {name: ~jnp.isfinite(x).all((1, 2)) for name, x in outputs.items()}
        bad_gradients = {name: ~(jnp.isfinite(own["kernel"]).all() & jnp.isfinite(own["bias"]).all()) for name, own in gradients.items()}
        dead = {name: (x == x[:1, :1]).all((0, 1)).mean() for name, x in outputs.items() if name != LAST}
        return bad, bad_gradients, dead, {name: x.std() for name, x in outputs.items()}

    @jax.jit
    def look_at_all(params, hyper, batch):
        cut = jax.tree.map(lambda leaf: leaf.reshape(pieces, -1, *leaf.shape[1:]), batch)
        bad, bad_gradients, dead, spread = lax.map(lambda piece: look(params, hyper, piece), cut)
        mean = partial(jax.tree.map, lambda values: values.mean(0))
        return jax.tree.map(jnp.ravel, bad), jax.tree.map(lambda values: values.any(0), bad_gradients), mean(dead), mean(spread)

    bias = params[LAST]["bias"]
    params = {**params, LAST: {**params[LAST], "bias": jnp.where(jnp.isnan(bias), 0, bias)}}
    found = jax.tree.map(np.asarray, look_at_all(params, hyper, batch))
    ordered = list(params)  # jit sorts the names of a dict
    return Findings(*({name: each[name] for name in ordered if name in each} for each in found))


def _listed(names: np.ndarray) -> str:
    return ", ".join(map(str, names[:LISTED])) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
