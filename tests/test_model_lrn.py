import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.model.lrn import lrn

pytestmark = pytest.mark.accelerator

CHANNELS = jnp.arange(10.0, 90.0, 10.0)
GOLDEN = {
    ("paper", 2.0): [5.651838, 10.708635, 14.866753, 17.999544, 20.192328, 21.619856, 26.028212, 31.330759],
    ("per_size", 1.0): [9.795016, 19.144790, 27.741441, 35.330394, 41.794315, 47.123977, 55.953933, 65.786074],
    ("per_size", 2.0): [5.884357, 11.631335, 17.135998, 22.295521, 27.036509, 31.312557, 36.904087, 42.862497],
}


def naive(x, k, alpha, beta, size, convention):
    """The formula, as loops in float64."""
    scale = alpha / size if convention == "per_size" else alpha
    out = np.empty_like(x)
    for i in range(x.shape[-1]):
        window = x[..., max(0, i - size // 2) : i + (size - 1) // 2 + 1]
        out[..., i] = x[..., i] / (k + scale * np.sum(window**2, -1)) ** beta
    return out


@pytest.mark.parametrize(("convention", "k"), GOLDEN)
def test_golden_vector(convention, k):
    np.testing.assert_allclose(lrn(CHANNELS, k, 1e-4, 0.75, 5, convention), GOLDEN[convention, k], rtol=1e-6)


@pytest.mark.parametrize("convention", ["paper", "per_size"])
@pytest.mark.parametrize(("size", "channels"), [(1, 3), (2, 3), (4, 9), (5, 1), (5, 3), (5, 12)])
def test_value_and_gradients_against_naive_loop(size, channels, convention):
    rng = np.random.default_rng(channels)
    x, cotangent = rng.normal(0, 30, (2, 3, channels)), rng.normal(size=(2, 3, channels))
    constants = (1.5, 2e-3, 0.6)
    args = (jnp.float32(x), *map(jnp.float32, constants))
    value, pullback = jax.vjp(lambda *args: lrn(*args, size, convention), *args)
    np.testing.assert_allclose(value, naive(x, *constants, size, convention), rtol=1e-5)

    def loss(x, *constants):
        return np.sum(naive(x, *constants, size, convention) * cotangent)

    dx, *dconstants = pullback(jnp.float32(cotangent))
    step = 1e-4
    expected = np.empty_like(x)
    for place in np.ndindex(x.shape):
        nudge = np.zeros_like(x)
        nudge[place] = step
        expected[place] = (loss(x + nudge, *constants) - loss(x - nudge, *constants)) / (2 * step)
    np.testing.assert_allclose(dx, expected, rtol=2e-4, atol=1e-5)
    for i, gradient in enumerate(dconstants):
        h = constants[i] * 1e-5
        up, down = [*constants], [*constants]
        up[i] += h
        down[i] -= h
        np.testing.assert_allclose(gradient, (loss(x, *up) - loss(x, *down)) / (2 * h), rtol=1e-3, atol=1e-4)


def test_off_is_exactly_the_identity():
    x = jax.random.normal(jax.random.key(0), (4, 5, 5, 16)) * 100
    value, pullback = jax.vjp(lambda x: lrn(x, 1.0, 0.0, 0.75), x)
    assert np.array_equal(value, x)
    assert np.array_equal(pullback(x)[0], x)


def test_members_have_constants_of_their_own():
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 8)) * 50
    k, alpha = jnp.array([1.0, 2.0, 1.0]), jnp.array([1e-4, 1e-4, 0.0])
    together = jax.vmap(lambda x, k, alpha: lrn(x, k, alpha))(x, k, alpha)
    for member in range(3):
        np.testing.assert_allclose(together[member], lrn(x[member], k[member], alpha[member]), rtol=1e-6)
    assert not np.allclose(together[0], lrn(x[0], 2.0, 1e-4), rtol=1e-3)


def test_bfloat16_sums_in_float32():
    x = jax.random.normal(jax.random.key(0), (16, 96)) * 60
    x = x.astype(jnp.bfloat16)
    result = lrn(x)
    assert result.dtype == jnp.bfloat16
    exact = naive(np.float64(x), 2.0, 1e-4, 0.75, 5, "paper")
    np.testing.assert_allclose(np.float64(result), exact, rtol=2**-8)  # nothing but the rounding of the result


@pytest.mark.parametrize(("kwargs", "message"), [({"convention": "caffe"}, "per_size"), ({"size": 0}, "at least 1")])
def test_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        lrn(CHANNELS, **kwargs)


def test_a_window_wider_than_the_channels_is_all_of_them():
    x = jnp.arange(6, dtype=jnp.float32).reshape(1, 6)
    np.testing.assert_allclose(lrn(x, size=10**9), x / (2 + 1e-4 * jnp.sum(x * x)) ** 0.75, rtol=1e-6)
