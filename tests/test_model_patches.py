"""The convolution of few channels as a product of patches: its values and gradients, its members, and which layers take it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from alexnet_jax.model.conv import conv
from alexnet_jax.model.patches import patches

pytestmark = pytest.mark.newest


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def direct(x, kernel, padding):
    return lax.conv_general_dilated(x, kernel, (1, 1), [padding] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@partial(jax.jit, static_argnums=0)
def value_and_gradients(function, cotangent, *args):
    value, pullback = jax.vjp(function, *args)
    return value, *pullback(cotangent)


@pytest.mark.parametrize(
    ("height", "width", "channels", "filters", "size", "padding"),
    [(28, 28, 1, 24, 5, (2, 2)), (7, 9, 3, 4, 3, (1, 1)), (5, 6, 2, 1, 2, (0, 1)), (4, 4, 1, 3, 1, (0, 0)), (3, 3, 1, 2, 5, (4, 2))],
)
def test_values_and_gradients(height, width, channels, filters, size, padding):
    x, kernel = normal(0, (2, height, width, channels)), normal(1, (size, size, channels, filters))
    with jax.enable_x64(True):
        exact = partial(direct, padding=padding)
        cotangent = normal(2, jax.eval_shape(exact, x, kernel).shape)
        wanted = value_and_gradients(exact, *(np.float64(array) for array in (cotangent, x, kernel)))
    for found, want in zip(value_and_gradients(partial(patches, padding=padding), cotangent, x, kernel), wanted, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("shared", [False, True])
def test_members_are_each_alone(shared):
    form = partial(patches, padding=(2, 2))
    x, kernel, cotangent = normal(0, (3, 2, 12, 12, 1)), normal(1, (3, 5, 5, 1, 6)), normal(2, (3, 2, 12, 12, 6))
    if shared:  # the images
        x = np.stack([x[0]] * 3)
        together = jax.vmap(partial(value_and_gradients, form), (0, None, 0))(cotangent, x[0], kernel)
    else:
        together = jax.vmap(partial(value_and_gradients, form))(cotangent, x, kernel)
    for member in range(3):
        for a, b in zip(together, value_and_gradients(form, cotangent[member], x[member], kernel[member]), strict=True):
            np.testing.assert_array_equal(a[member], b)


@pytest.mark.parametrize(
    ("size", "channels", "dtype", "change", "products"),
    [
        (5, 1, "float32", {}, 1),
        (3, 3, "float32", {}, 1),
        (5, 3, "float32", {}, 0),
        (5, 1, "bfloat16", {}, 0),
        (5, 1, "float32", {"stride": 2}, 0),
        (5, 1, "float32", {"form": "direct"}, 0),
    ],
)
def test_which_layers_take_it(size, channels, dtype, change, products):
    x, kernel = jnp.zeros((2, 8, 8, channels), dtype), jnp.zeros((size, size, channels, 4), dtype)
    program = jax.jit(partial(conv, **{"stride": 1, "padding": (2, 2)} | change)).lower(x, kernel).as_text()
    assert (program.count("stablehlo.dot_general"), program.count("stablehlo.convolution")) == (products, 1 - products)
