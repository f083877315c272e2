import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from alexnet_jax.model.conv import conv, max_pool

pytestmark = pytest.mark.newest


def plain_conv(x, kernel, stride, padding, groups):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), [padding] * 2, dimension_numbers=dimensions, feature_group_count=groups)


def plain_pool(x, size, stride):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), "VALID")


def normal(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "groups"),
    [(19, 11, 4, (0, 0), 1), (16, 11, 4, (0, 3), 1), (9, 5, 1, (2, 2), 2), (7, 3, 1, (1, 1), 1), (8, 5, 2, (2, 1), 1)],
)
def test_conv_is_the_plain_one_and_members_are_each_alone(size, kernel, stride, padding, groups):
    members, x, w = 3, normal(0, (3, 2, size, size, 4)), normal(1, (3, kernel, kernel, 4 // groups, 6))
    args = (stride, padding, groups)
    alone = [jax.vjp(lambda x, w: plain_conv(x, w, *args), x[m], w[m]) for m in range(members)]
    together, pullback = jax.vjp(jax.vmap(lambda x, w: conv(x, w, *args)), x, w)
    cotangent = normal(2, together.shape)
    dx, dw = pullback(cotangent)
    for m, (value, plain_pullback) in enumerate(alone):
        plain_dx, plain_dw = plain_pullback(cotangent[m])
        assert np.array_equal(together[m], value)
        assert np.array_equal(dx[m], plain_dx)
        assert np.array_equal(dw[m], plain_dw)


def test_conv_of_shared_images():
    """Where members see the same input, only the kernels have a member axis."""
    x, w = normal(0, (2, 9, 9, 3)), normal(1, (3, 5, 5, 3, 4))
    together = jax.vmap(lambda w: conv(x, w, 1, (2, 2)))(w)
    assert np.array_equal(together[1], plain_conv(x, w[1], 1, (2, 2), 1))
    gradient = jax.grad(lambda w: jnp.sum(jax.vmap(lambda w: conv(x, w, 1, (2, 2)))(w) ** 2))(w)
    np.testing.assert_allclose(gradient[2], jax.grad(lambda w: jnp.sum(plain_conv(x, w, 1, (2, 2), 1) ** 2))(w[2]), rtol=1e-5)


def test_the_grouped_form_is_the_same_convolution():
    x, w = normal(0, (3, 2, 9, 9, 4)), normal(1, (3, 5, 5, 4, 6))

    def value_and_gradients(form):
        value, pullback = jax.vjp(jax.vmap(lambda x, w: conv(x, w, 2, (2, 1), 1, form)), x, w)
        return value, *pullback(normal(2, value.shape))

    for ours, grouped in zip(value_and_gradients("unroll"), value_and_gradients("grouped"), strict=True):
        np.testing.assert_allclose(ours, grouped, rtol=1e-4, atol=1e-4)
    jaxpr = jax.make_jaxpr(jax.vmap(lambda x, w: conv(x, w, 1, (1, 1), 1, "grouped")))(x, w)
    assert str(jaxpr).count("feature_group_count=3") == 1


def test_no_grouped_convolution_under_vmap():
    jaxpr = jax.make_jaxpr(jax.vmap(lambda x, w: conv(x, w, 1, (1, 1))))(normal(0, (4, 2, 5, 5, 3)), normal(1, (4, 3, 3, 3, 2)))
    assert "conv_general_dilated[" in str(jaxpr)  # JAX 0.12 prints it once and names it four times
    assert "feature_group_count=4" not in str(jaxpr)


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (2, 2), (3, 1), (3, 3), (1, 2)])
@pytest.mark.parametrize("length", [6, 7, 13])
def test_max_pool_is_the_plain_one(size, stride, length):
    x = normal(0, (2, length, length + 1, 5))
    value, pullback = jax.vjp(lambda x: max_pool(x, size, stride), x)
    plain, plain_pullback = jax.vjp(lambda x: plain_pool(x, size, stride), x)
    assert np.array_equal(value, plain)
    cotangent = normal(1, value.shape)
    np.testing.assert_allclose(pullback(cotangent)[0], plain_pullback(cotangent)[0], rtol=1e-6, atol=1e-6)


def test_max_pool_gives_ties_to_the_first_in_reading_order():
    x = jax.random.randint(jax.random.key(0), (4, 9, 9, 8), 0, 3).astype(jnp.float32)
    value, pullback = jax.vjp(lambda x: max_pool(x, 3, 2), x)
    cotangent = normal(1, value.shape)
    expected = jax.vjp(lambda x: plain_pool(x, 3, 2), x)[1](cotangent)[0]
    np.testing.assert_allclose(pullback(cotangent)[0], expected, rtol=1e-6, atol=1e-6)
