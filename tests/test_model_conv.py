from functools import partial

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


@partial(jax.jit, static_argnums=0)
def value_and_gradients(function, cotangent, *args):
    """In one program, which is compiled faster than its operations one by one."""
    value, pullback = jax.vjp(function, *args)
    return value, *pullback(cotangent)


def normal(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "groups"),
    [(19, 11, 4, (0, 0), 1), (16, 11, 4, (0, 3), 1), (9, 5, 1, (2, 2), 2), (7, 3, 1, (1, 1), 1), (8, 5, 2, (2, 1), 1)],
)
def test_conv_is_the_plain_one_and_members_are_each_alone(size, kernel, stride, padding, groups):
    members, x, w = 3, normal(0, (3, 2, size, size, 4)), normal(1, (3, kernel, kernel, 4 // groups, 6))
    args = (stride, padding, groups)
    ours = jax.vmap(lambda x, w: conv(x, w, *args))
    cotangent = normal(2, jax.eval_shape(ours, x, w).shape)
    together = value_and_gradients(ours, cotangent, x, w)
    for m in range(members):
        settings = {"stride": stride, "padding": padding, "groups": groups}
        alone, plain = (value_and_gradients(partial(form, **settings), cotangent[m], x[m], w[m]) for form in (conv, plain_conv))
        for a, b, c in zip(together, alone, plain, strict=True):
            assert np.array_equal(a[m], b)
            assert np.array_equal(b, c) if groups == 1 else np.allclose(b, c, rtol=1e-5, atol=1e-4)  # XLA sums over groups otherwise


def test_conv_of_shared_images():
    """Where members see the same input, only the kernels have a member axis."""
    x, w = normal(0, (2, 9, 9, 3)), normal(1, (3, 5, 5, 3, 4))
    together = jax.vmap(lambda w: conv(x, w, 1, (2, 2)))(w)
    assert np.array_equal(together[1], plain_conv(x, w[1], 1, (2, 2), 1))
    gradient = jax.grad(lambda w: jnp.sum(jax.vmap(lambda w: conv(x, w, 1, (2, 2)))(w) ** 2))(w)
    np.testing.assert_allclose(gradient[2], jax.grad(lambda w: jnp.sum(plain_conv(x, w, 1, (2, 2), 1) ** 2))(w[2]), rtol=1e-5)


def test_the_grouped_form_is_the_same_convolution():
    x, w = normal(0, (3, 2, 9, 9, 4)), normal(1, (3, 5, 5, 4, 6))

    forms = [jax.vmap(partial(conv, stride=2, padding=(2, 1), groups=1, form=form)) for form in ("direct", "grouped")]
    cotangent = normal(2, jax.eval_shape(forms[0], x, w).shape)
    for ours, grouped in zip(*(value_and_gradients(form, cotangent, x, w) for form in forms), strict=True):
        np.testing.assert_allclose(ours, grouped, rtol=1e-4, atol=1e-4)
    jaxpr = jax.make_jaxpr(jax.vmap(lambda x, w: conv(x, w, 1, (1, 1), 1, "grouped")))(x, w)
    assert str(jaxpr).count("feature_group_count=3") == 1


def test_no_grouped_convolution_under_vmap():
    """But on TPUs, test_device_choices.py."""
    jaxpr = jax.make_jaxpr(jax.vmap(lambda x, w: conv(x, w, 1, (1, 1), 1, "direct")))(
        normal(0, (4, 2, 5, 5, 3)), normal(1, (4, 3, 3, 3, 2))
    )
    assert "conv_general_dilated[" in str(jaxpr)  # JAX 0.12 prints it once and names it four times
    assert "feature_group_count=4" not in str(jaxpr)


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (2, 2), (3, 1), (3, 3), (1, 2)])
@pytest.mark.parametrize("length", [6, 7, 13])
def test_max_pool_is_the_plain_one(size, stride, length):
    x = normal(0, (2, length, length + 1, 5))
    forms = [partial(pool, size=size, stride=stride) for pool in (max_pool, plain_pool)]
    cotangent = normal(1, jax.eval_shape(forms[1], x).shape)
    (value, gradient), (plain, plain_gradient) = (value_and_gradients(form, cotangent, x) for form in forms)
    assert np.array_equal(value, plain)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-6, atol=1e-6)


def test_max_pool_gives_ties_to_the_first_in_reading_order():
    x = jax.random.randint(jax.random.key(0), (4, 9, 9, 8), 0, 3).astype(jnp.float32)
    forms = [partial(pool, size=3, stride=2) for pool in (max_pool, plain_pool)]
    cotangent = normal(1, jax.eval_shape(forms[1], x).shape)
    (_, gradient), (_, expected) = (value_and_gradients(form, cotangent, x) for form in forms)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)
