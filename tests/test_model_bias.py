"""The bias of a layer, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.model.bias import add_bias

pytestmark = pytest.mark.newest


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_is_summed_in_float32(dtype, members):
    """Summed in bfloat16, ones would never come to more than 256."""
    lead = () if members is None else (members,)
    x, bias = jnp.zeros((*lead, 4, 55, 5, 7), dtype), jnp.ones((*lead, 7), jnp.float32)
    value, pull = jax.vjp(add_bias if members is None else jax.vmap(add_bias), x, bias)
    assert value.dtype == dtype
    assert np.all(value == 1)
    x_gradient, bias_gradient = pull(jnp.ones_like(value))
    assert x_gradient.dtype == dtype
    assert bias_gradient.dtype == jnp.float32
    np.testing.assert_array_equal(bias_gradient, np.full(bias.shape, 4 * 55 * 5))
