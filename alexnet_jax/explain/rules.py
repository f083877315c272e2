"""The network with other derivatives: what guided backpropagation and the deconvnet send back through a ReLU and through LRN.

Forward, each of these computes exactly what `AlexNet` does, with the same parameters. The methods (methods.py) apply them:

    model = Deconvnet(network.model.arch, network.model.classes)

What each sends back to the input x of a ReLU, for a signal g at its output:

| | ReLU | LRN |
|---|---|---|
| the gradient | g where x > 0 | its derivative |
| `Guided` (Springenberg et al., 2015) | g where x > 0 and g > 0 | its derivative |
| `Leaky` (for the ascent of maximise.py) | g where x > 0, g / 10 elsewhere | its derivative |
| `Deconvnet` (Zeiler and Fergus, 2014) | g where g > 0 | g: their paper sends the signal past the normalisation |

All go back through a max-pool by its switches: a value returns to the place where its maximum stood. That is the derivative of `max_pool`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from alexnet_jax.errors import UserError
from alexnet_jax.model.alexnet import AlexNet


class Explained(AlexNet):
    """The network itself. `{layer: array}` in the collection `added` is added to these layers' outputs: see `forward.layer_outputs`."""

    def _output(self, layer, x):
        if self.has_variable("added", layer):
            x = x + self.get_variable("added", layer)
        return super()._output(layer, x)


def _relu(back: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """A ReLU whose derivative is `back(x, g)`."""
    relu = jax.custom_vjp(jax.nn.relu)
    relu.defvjp(lambda x: (jax.nn.relu(x), x), lambda x, g: (back(x, g),))
    return relu


_guided_relu = _relu(lambda x, g: jnp.where((x > 0) & (g > 0), g, 0))
_leaky_relu = _relu(lambda x, g: jnp.where(x > 0, g, 0.1 * g))
_deconvnet_relu = _relu(lambda _, g: jnp.maximum(g, 0))


class Guided(Explained):
    """The derivatives of guided backpropagation."""

    def activation(self, x):
        return _guided_relu(x)


class Leaky(Explained):
    """The gradient, but a ReLU that is off lets a tenth through, so that ascent has a direction wherever it begins."""

    def activation(self, x):
        return _leaky_relu(x)


class Deconvnet(Explained):
    """The derivatives of the deconvnet."""

    def activation(self, x):
        return _deconvnet_relu(x)

    def norm(self, x, hyper):
        return jax.lax.stop_gradient(super().norm(x, hyper)) + (x - jax.lax.stop_gradient(x))


def check_relu(model: AlexNet, method: str) -> None:
    """Raise `UserError` where a method needs ReLUs and the network has none."""
    if model.arch.activation != "relu":
        raise UserError(f"{method} is defined for ReLUs, this network has {model.arch.activation}; choose another --method or run")
