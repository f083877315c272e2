"""The dense product against the plain one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.model.dense import dense

RNG = np.random.default_rng(0)


def random(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def plain(x, kernel):
    return x @ kernel


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("members", [None, 3])
def test_values_and_gradients_are_the_plain_products(members, dtype):
    lead = () if members is None else (members,)
    x, kernel, gradient = (random(*lead, *shape).astype(dtype) for shape in ((5, 7), (7, 4), (5, 4)))

    def both(function):
        function = function if members is None else jax.vmap(function)
        value, backward = jax.vjp(function, x, kernel)
        return value, *backward(gradient)

    for ours, theirs in zip(jax.jit(lambda: both(dense))(), jax.jit(lambda: both(plain))(), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=2e-2 if dtype == "bfloat16" else 1e-5, atol=1e-5)


def gradients(function, members, platform):
    """The lowered gradients of a product of (8, 64) and (64, 32)."""
    lead = () if members is None else (members,)
    arrays = [jax.ShapeDtypeStruct((*lead, *shape), jnp.float32) for shape in ((8, 64), (64, 32), (8, 32))]
    function = function if members is None else jax.vmap(function)
    traced = jax.jit(lambda x, kernel, gradient: jax.vjp(function, x, kernel)[1](gradient)).trace(*arrays)
    return traced.lower(lowering_platforms=(platform,))


@pytest.mark.parametrize("members", [None, 3])
def test_cpus_read_the_kernel_along_its_rows(members):
    assert contiguous_axis(gradients(plain, members, "cpu").compile()) == 64
    assert contiguous_axis(gradients(dense, members, "cpu").compile()) == 8


def contiguous_axis(program):
    """The length of the axis along which the input's gradient is written: the batch, if the kernel is read along its rows."""
    results = re.findall(r"= f32\[([\d,]+)\]\{(\d),\S* dot\(", program.as_text())
    (axis,) = (int(shape.split(",")[int(minor)]) for shape, minor in results if not shape.endswith("64,32"))
    return axis


@pytest.mark.parametrize(("platform", "constrained"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_the_layout_is_for_cpus_alone(platform, constrained):
    assert ("LayoutConstraint" in gradients(dense, None, platform).as_text()) == constrained
