"""AlexNet as a Flax module. architecture.py says what it may be made of.

`network.build` makes the module of a config; a forward pass (forward.py) and the train step (train/step.py) apply it:

    model = AlexNet(architecture(model_config("one_tower")), classes=1000)
    logits = model.apply({"params": params}, images, hyper)

The module is one network. The step and the forward pass add the member axis, each with one `vmap`.
"""

import operator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from alexnet_jax.hyper import Hyper
from alexnet_jax.model.architecture import ACTIVATIONS, Architecture
from alexnet_jax.model.bias import add_bias
from alexnet_jax.model.conv import conv, max_pool
from alexnet_jax.model.dense import dense
from alexnet_jax.model.lrn import lrn
from alexnet_jax.model.remat import remat

EARLY = ("conv1", "conv2")  # the layers that LRN follows
LAST = "fc8"  # the layer that gives the logits: no activation follows it


class AlexNet(nn.Module):
    """Five convolutions, three max-pools, LRN in the first two stages, three dense layers."""

    arch: Architecture
    classes: int
    remat: bool = False  # train in less memory, for more time: see remat.py

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch size size channels"],
        hyper: Hyper,
        dropout_keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch classes"]:
        """Logits of mean-subtracted images on the 0-255 scale.

        Args:
          images: float32, `arch.input_size` pixels square.
          hyper: one member's, scalar leaves: dropout and the LRN constants are read.
          dropout_keys: one key per example to train with dropout; None to evaluate without.
        """
        arch = self.arch
        channels1, channels2, channels3, channels4, channels5 = arch.channels
        stage = partial(self._stage, lean=self.remat and dropout_keys is not None)
        arch.check_channels(images.shape[-1])

        # Shapes beside the layers are the one-tower network's.
        with jax.named_scope("input"):
            x = (images / jnp.asarray(arch.pixel_scales, jnp.float32)).astype(arch.dtype)  # 227 x 227 x 3
        conv1 = self._conv("conv1", x.shape[-1], channels1, arch.stem_kernel, arch.stem_stride, arch.stem_padding)  # 55 x 55 x 96
        x = stage(x, hyper, [conv1], norm=True)  # 27 x 27 x 96
        conv2 = self._conv("conv2", channels1, channels2, 5, 1, (2, 2), arch.groups, arch.positive_bias)  # 27 x 27 x 256
        x = stage(x, hyper, [conv2], norm=True)  # 13 x 13 x 256
        conv3 = self._conv("conv3", channels2, channels3, 3, 1, (1, 1))  # 13 x 13 x 384
        conv4 = self._conv("conv4", channels3, channels4, 3, 1, (1, 1), arch.groups, arch.positive_bias)  # 13 x 13 x 384
        conv5 = self._conv("conv5", channels4, channels5, 3, 1, (1, 1), arch.groups, arch.positive_bias)  # 13 x 13 x 256
        x = stage(x, hyper, [conv3, conv4, conv5], norm=False)  # 6 x 6 x 256
        x = x.reshape(x.shape[0], -1)  # 9216

        for layer, name in enumerate(("fc6", "fc7")):
            if arch.dropout_place == "before":
                x = dropout(x, hyper.dropout, dropout_keys, layer)
            x = self._output(name, self.activation(self._dense(name, x, arch.units, arch.positive_bias)))  # 4096
            if arch.dropout_place == "after":
                x = dropout(x, hyper.dropout, dropout_keys, layer)
        return self._output(LAST, self._dense(LAST, x, self.classes)).astype(jnp.float32)

    def _stage(self, x, hyper, convolutions, norm, lean):
        """Convolutions, each with its activation, then the pool and, if `norm`, LRN. A lean stage keeps only `x` for its gradient."""

        def stage(x, parameters, hyper):
            for (name, _, convolve), own in zip(convolutions, parameters, strict=True):
                x = self._output(name, self.activation(convolve(x, *own)))
            return self._pool_and_norm(x, hyper) if norm else self.pool(x)

        return (remat(stage) if lean else stage)(x, [parameters for _, parameters, _ in convolutions], hyper)

    def _conv(self, name, channels, filters, size, stride, padding, groups=1, bias=0.0):
        """A convolution's name, its parameters, and the function of its input and of them."""
        gain = self.arch.early_gain if name in EARLY else 1.0
        kernel_init = _kernel_init(self.arch.init, name, gain)
        parameters = _Affine((size, size, channels // groups, filters), kernel_init, gain * bias, name=name)()

        def convolve(x, kernel, bias):
            with jax.named_scope(name):
                return add_bias(conv(x, kernel.astype(x.dtype), stride, padding, groups, self.arch.conv_form), bias)

        return name, parameters, convolve

    def _output(self, layer, x):
        """A layer's output, which is kept where `apply` is asked for intermediates."""
        self.sow("intermediates", "layers", {layer: x}, reduce_fn=operator.or_, init_fn=dict)
        return x

    def _dense(self, name, x, units, bias=0.0):
        kernel, bias = _Affine((x.shape[-1], units), _kernel_init(self.arch.init, name), bias, name=name)()
        with jax.named_scope(name):
            return add_bias(dense(x, kernel.astype(x.dtype)), bias)

    def _pool_and_norm(self, x, hyper):
        if not self.arch.lrn:
            return self.pool(x)
        return self.pool(self.norm(x, hyper)) if self.arch.lrn_order == "before_pool" else self.norm(self.pool(x), hyper)

    # What explains a network (explain/rules.py) gives these three other derivatives.

    def activation(self, x):
        return ACTIVATIONS[self.arch.activation](x)

    def pool(self, x):
        return max_pool(x, self.arch.pool_size, self.arch.pool_stride)

    def norm(self, x, hyper):
        arch = self.arch
        normalised = lrn(x, hyper.lrn_k, arch.lrn_alpha(hyper), hyper.lrn_beta, arch.lrn_size, arch.lrn_convention)
        self.sow("intermediates", "lrn", (x, normalised))  # to be measured
        return normalised


class _Affine(nn.Module):
    """The parameters of one layer, {kernel, bias}, under its name."""

    shape: tuple[int, ...]
    kernel_init: Any
    bias: float

    @nn.compact
    def __call__(self):
        kernel = self.param("kernel", self.kernel_init, self.shape)
        return kernel, self.param("bias", nn.initializers.constant(self.bias), self.shape[-1:])


def _kernel_init(init: str, layer: str, gain: float = 1.0):
    """Initialiser of a layer's weights, which are then multiplied by `gain`.

    paper    N(0, 0.01) everywhere. It suits 0-255 pixels and biases of 1; small or narrow networks often stall at ln(classes) with it.
    caffe    as the paper's, but 0.005 in fc6 and fc7 (BVLC's model files).
    scaled   He: N(0, 2 / fan-in), and N(0, 0.01) in fc8 so that training starts at a loss of ln(classes) whatever the pixel scale.
    """
    if init == "scaled" and layer != LAST:
        return nn.initializers.variance_scaling(2.0 * gain**2, "fan_in", "truncated_normal")  # he_normal for a gain of 1
    return nn.initializers.normal(gain * (0.005 if init == "caffe" and layer in ("fc6", "fc7") else 0.01))


def dropout(
    x: Float[Array, "batch units"], rate: Float[Array, ""] | float, keys: Key[Array, " batch"] | None, layer: int
) -> Float[Array, "batch units"]:
    """Inverted dropout with a traced rate and one key per example: no draw depends on how a batch is cut. Rate 0 is the identity."""
    if keys is None:
        return x
    keep = 1 - jnp.asarray(rate, jnp.float32)
    kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, layer), keep, x.shape[1:]))(keys)
    return jnp.where(kept, (x.astype(jnp.float32) / keep).astype(x.dtype), 0)
