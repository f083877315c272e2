"""The summary of a network agrees with the published counts, and with the operations that the module really performs."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.__main__ import differences, main
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.architecture import VARIANTS, architecture, model_config
from alexnet_jax.model.forward import layer_outputs
from alexnet_jax.model.layers import Layer, ReceptiveField, layers, receptive_fields

# Parameters and multiply-accumulates for 1000 classes.
TOTALS = {
    "one_tower": (62_378_344, 1_135_256_096),
    "caffenet": (60_965_224, 724_406_816),
    "caffe": (60_965_224, 724_406_816),
    "paper": (60_965_224, 724_406_816),
    "owt": (61_100_840, 714_188_480),
}


def arch_of(variant, **changes):
    section = model_config(variant)
    section.update(changes)
    return architecture(section)


@pytest.mark.parametrize("variant", TOTALS)
def test_totals(variant):
    rows = layers(arch_of(variant), 1000, 3)
    assert (sum(row.parameters for row in rows), sum(row.macs for row in rows)) == TOTALS[variant]


def test_one_tower_layer_by_layer():
    assert layers(arch_of("one_tower"), 1000, 3) == [
        Layer("conv1", (55, 55, 96), 34_944, 105_415_200),
        Layer("pool1", (27, 27, 96)),
        Layer("norm1", (27, 27, 96)),
        Layer("conv2", (27, 27, 256), 614_656, 447_897_600),
        Layer("pool2", (13, 13, 256)),
        Layer("norm2", (13, 13, 256)),
        Layer("conv3", (13, 13, 384), 885_120, 149_520_384),
        Layer("conv4", (13, 13, 384), 1_327_488, 224_280_576),
        Layer("conv5", (13, 13, 256), 884_992, 149_520_384),
        Layer("pool3", (6, 6, 256)),
        Layer("fc6", (4096,), 37_752_832, 37_748_736),
        Layer("fc7", (4096,), 16_781_312, 16_777_216),
        Layer("fc8", (1000,), 4_097_000, 4_096_000),
    ]


def test_order_of_pooling_and_lrn():
    names = {variant: [row.name for row in layers(arch_of(variant), 10, 3)][1:3] for variant in ("one_tower", "caffe", "owt")}
    assert names == {"one_tower": ["pool1", "norm1"], "caffe": ["norm1", "pool1"], "owt": ["pool1", "conv2"]}
    assert layers(arch_of("caffe"), 10, 3)[1].shape == (55, 55, 96)


def operations(jaxpr):
    """Output shapes and multiply-accumulates of all convolutions and matrix products, in order, however deep they are nested."""
    for equation in jaxpr.eqns:
        (out, *_), name = (variable.aval for variable in equation.outvars), equation.primitive.name
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape  # height, width, in / groups, out
            yield out.shape[1:], math.prod(out.shape) * math.prod(kernel[:3])
        elif name == "dot_general":
            yield out.shape[1:], math.prod(out.shape) * equation.invars[0].aval.shape[-1]
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from operations(inner)


@pytest.mark.parametrize(
    ("variant", "changes"), [(v, {}) for v in VARIANTS] + [("small", {"groups": 4, "pool_size": 2, "pool_stride": 1, "stem_stride": 2})]
)
def test_what_the_module_really_does(variant, changes):
    arch = arch_of(variant, conv_form="direct", **changes)
    model, image = AlexNet(arch, 7), jnp.zeros((1, arch.input_size, arch.input_size, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), image, Hyper())
    jaxpr = jax.make_jaxpr(lambda params, image: model.apply(params, image, Hyper()))(params, image)
    assert list(operations(jaxpr.jaxpr)) == [(row.shape, row.macs) for row in layers(arch, 7, 3) if row.macs]


def test_printed(capsys):
    main([])
    text = capsys.readouterr().out
    assert "conv2    27 x 27 x 256       614,656      447,897,600\n" in text
    assert "total                     62,378,344    1,135,256,096\n" in text
    assert "2.2705 GFLOPs an image forward, 6.6007 in a training step" in text
    main(["small", "--classes", "10", "--channels", "1"])
    assert "input     28 x 28 x 1\n" in capsys.readouterr().out


def test_differences(capsys):
    assert differences("one_tower", "paper").splitlines() == [
        "input_size: 227 -> 224",
        "stem_padding: (0, 0) -> (0, 3)",
        "groups: 1 -> 2",
        "lrn_order: after_pool -> before_pool",
    ]
    main(["caffenet", "caffe"])
    assert capsys.readouterr().out == "lrn_order: after_pool -> before_pool\npositive_bias: 1.0 -> 0.1\n"
    main(["owt", "owt"])
    assert capsys.readouterr().out == "owt and owt are the same network\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vgg"], "unknown model variant 'vgg'; known: one_tower"),
        (["one_tower", "vgg"], "unknown model variant 'vgg'; known: one_tower"),
        (["--classes", "0"], "--classes 0 and --channels 3 must be at least 1"),
        (["owt", "--channels", "1"], "is for 3 channels, the images have 1"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_help_is_quick_and_names_the_variants():
    """It loads neither JAX nor Flax, which take a second."""
    script = (
        "import runpy, sys; sys.argv = ['model', '--help']\n"
        "try: runpy.run_module('alexnet_jax.model', run_name='__main__')\n"
        "finally: print('loaded:', {'jax', 'flax'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "loaded: set()" in out
    assert all(variant in out for variant in VARIANTS)


def test_receptive_fields_of_the_seed_network():
    assert receptive_fields(arch_of("one_tower"), 3) == {
        "conv1": ReceptiveField(11, 4, 0),
        "pool1": ReceptiveField(19, 8, 0),
        "conv2": ReceptiveField(51, 8, -16),
        "pool2": ReceptiveField(67, 16, -16),
        "conv3": ReceptiveField(99, 16, -32),
        "conv4": ReceptiveField(131, 16, -48),
        "conv5": ReceptiveField(163, 16, -64),
        "pool3": ReceptiveField(195, 32, -64),
    }


@pytest.mark.parametrize(("variant", "layer"), [("small", "conv3"), ("paper", "conv2"), ("owt", "conv2")])
def test_a_receptive_field_is_the_pixels_with_a_derivative(variant, layer):
    """With positive kernels, and average pools in place of the maxima, every pixel that counts has one."""

    class Average(AlexNet):
        def pool(self, x):
            size, stride = self.arch.pool_size, self.arch.pool_stride
            return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, size, size, 1), (1, stride, stride, 1), "VALID")

    arch = arch_of(variant, width=0.04, lrn=False, groups=1)
    model, pixels = Average(arch, 10), jnp.ones((1, arch.input_size, arch.input_size, 1 if variant == "small" else 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), pixels, Hyper())["params"]
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), shapes)
    middle = arch.map_sizes[1 if layer == "conv2" else 2] // 2

    @jax.jit
    @jax.grad
    def slope(pixels):
        return layer_outputs(model, params, pixels, Hyper())[layer][0, middle, 0, 0]

    rows, columns = ((slope(pixels)[0] != 0).any((1 - axis, 2)).nonzero()[0] for axis in (0, 1))
    for unit, found in ((middle, rows), (0, columns)):
        first, end = receptive_fields(arch, pixels.shape[-1])[layer].of(unit)
        assert (found[0], found[-1]) == (max(first, 0), min(end, arch.input_size) - 1)
