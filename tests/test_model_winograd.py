"""Winograd's form against the direct one in float64, its members against each alone, and which layers take it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from alexnet_jax.model.conv import conv, winograd_tile
from alexnet_jax.model.winograd import ERROR, matrices, winograd

pytestmark = pytest.mark.newest


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("r", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6])
def test_one_dimension_is_exact(m, r):
    """F(m, r) in rational numbers: as good as float64 is, for integers."""
    a, g, b = matrices(m, r)
    taps, inputs = (np.random.default_rng(0).integers(-9, 10, length) for length in (r, m + r - 1))
    outputs = a.T @ ((g @ taps) * (b.T @ inputs))
    np.testing.assert_allclose(outputs, np.correlate(inputs, taps), atol=1e-13 * 50 ** max(1, (m + r) / 3))


@partial(jax.jit, static_argnums=0)
def value_and_gradients(function, cotangent, *args):
    value, pullback = jax.vjp(function, *args)
    return value, *pullback(cotangent)


def direct(x, kernel, padding, groups, stride=1):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), [padding] * 2, dimension_numbers=dimensions, feature_group_count=groups)


@pytest.mark.parametrize(
    ("height", "width", "channels", "filters", "size", "stride", "padding", "groups", "tile"),
    [
        (13, 13, 24, 16, 3, 1, (1, 1), 1, 5),
        (6, 6, 24, 16, 3, 1, (1, 1), 1, 6),
        (9, 14, 12, 8, 5, 1, (2, 2), 2, 4),
        (11, 8, 1, 3, 5, 1, (0, 3), 1, 2),
        (7, 5, 1, 1, 2, 1, (0, 0), 1, 3),
        (5, 5, 4, 4, 3, 1, (4, 0), 1, 2),
        (35, 42, 3, 5, 11, 4, (0, 3), 1, 5),  # the last pixels of a row are in no window
        (12, 9, 4, 6, 5, 2, (1, 1), 2, 3),
        (7, 7, 1, 2, 3, 2, (0, 0), 1, 6),
    ],
)
def test_values_and_gradients(height, width, channels, filters, size, stride, padding, groups, tile):
    x, kernel = normal(0, (2, height, width, channels)), normal(1, (size, size, channels // groups, filters))
    with jax.enable_x64(True):
        exact = partial(direct, padding=padding, groups=groups, stride=stride)
        cotangent = normal(2, jax.eval_shape(exact, x, kernel).shape)
        wanted = value_and_gradients(exact, *(np.float64(array) for array in (cotangent, x, kernel)))
    ours = partial(winograd, stride=stride, padding=padding, groups=groups, tile=tile)
    for found, want in zip(value_and_gradients(ours, cotangent, x, kernel), wanted, strict=True):
        assert found.dtype == np.float32
        assert np.abs(found - np.asarray(want)).max() < ERROR[tile - (-size // stride) - 1] * np.abs(want).max()


def test_bfloat16_is_transformed_and_summed_in_float32():
    x, kernel = (jnp.asarray(normal(i, shape), jnp.bfloat16) for i, shape in enumerate([(2, 9, 9, 32), (3, 3, 32, 8)]))
    ours = winograd(x, kernel, 1, (1, 1), tile=5)
    exact = direct(x.astype(jnp.float32), kernel.astype(jnp.float32), (1, 1), 1)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=2**-8, atol=1e-4)  # nothing but the rounding of the result


@pytest.mark.parametrize("groups", [1, 2])
def test_members_are_each_alone_and_share_every_product(groups):
    form = partial(winograd, stride=1, padding=(1, 1), groups=groups, tile=4)
    x, kernel, cotangent = normal(0, (3, 2, 7, 7, 10)), normal(1, (3, 3, 3, 10 // groups, 6)), normal(2, (3, 2, 7, 7, 6))
    members = jax.vmap(partial(value_and_gradients, form))
    together = members(cotangent, x, kernel)
    for member in range(3):
        alone = value_and_gradients(form, cotangent[member], x[member], kernel[member])
        for a, b in zip(together, alone, strict=True):
            assert np.array_equal(a[member], b)
    of_three, of_one = (
        str(jax.make_jaxpr(form)(*args)).count("dot_general[")
        for form, args in ((members, (cotangent, x, kernel)), (partial(value_and_gradients, form), (cotangent[0], x[0], kernel[0])))
    )
    assert of_three == of_one > 0


LAYERS = {  # height = width, size, stride, channels, filters, groups
    "conv1": (227, 11, 4, 3, 96, 1),
    "conv2": (27, 5, 1, 96, 256, 1),
    "conv3": (13, 3, 1, 256, 384, 1),
    "two towers' conv2": (27, 5, 1, 48, 256, 2),
    "small conv2": (13, 5, 1, 24, 64, 1),
    "small conv4": (6, 3, 1, 96, 96, 1),
    "digits' conv4": (6, 3, 1, 48, 48, 1),
    "small conv1": (28, 5, 1, 1, 24, 1),
}


def tile_of(layer, images=64, form="auto", dtype=jnp.float32):
    length, size, stride, channels, filters, groups = LAYERS[layer]
    x, kernel = jax.ShapeDtypeStruct((images, length, length, channels * groups), dtype), jnp.zeros((size, size, channels, filters))
    padding = (size // 2, size // 2) if stride == 1 else (0, 0)
    return winograd_tile(form, x, kernel, stride, padding, groups)


@pytest.mark.parametrize(
    ("layer", "tile"),
    [
        ("conv1", 5),
        ("conv2", 4),
        ("conv3", 5),
        ("two towers' conv2", 4),
        ("small conv2", 4),
        ("small conv4", 6),
        ("digits' conv4", 0),
        ("small conv1", 0),
    ],
)
def test_auto_takes_it_for_large_layers(layer, tile):
    assert tile_of(layer) == tile
    assert tile_of(layer, form="direct") == 0
    assert tile_of(layer, form="winograd") > 0


def test_auto_takes_it_on_cpus_in_float32_for_enough_images():
    assert [tile_of("conv3", images) for images in (7, 8)] == [0, 5]
    assert tile_of("conv3", dtype=jnp.bfloat16) == 0
    assert tile_of("conv3", dtype=jnp.bfloat16, form="winograd") == 5


def test_conv_takes_the_form():
    x, kernel = normal(0, (2, 9, 9, 4)), normal(1, (3, 3, 4, 5))
    ours, plain = (conv(x, kernel, 1, (1, 1), 1, form) for form in ("winograd", "direct"))
    assert not np.array_equal(ours, plain)
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(conv(x, kernel, 1, (1, 1)), plain)
