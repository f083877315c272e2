"""Forms that differ by device: each pair gives the same numbers, and a program gets those of the platform that it is compiled for."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from alexnet_jax import data, device_choices, hyper, parallel
from alexnet_jax.device_choices import Choice, by_device
from alexnet_jax.model import bias as bias_lib
from alexnet_jax.model import conv as conv_lib
from alexnet_jax.model import lrn as lrn_lib
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.architecture import architecture, model_config
from alexnet_jax.optimizer import make_optimizer
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.state import Controls, abstract_state
from alexnet_jax.train.step import make_train_step

RNG = np.random.default_rng(0)


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.normal(size=shape), dtype)


@pytest.mark.parametrize(
    ("size", "stride", "length", "dtype", "rounding"),
    [(3, 2, 13, "float32", 1e-6), (2, 2, 6, "float32", 1e-6), (3, 1, 7, "float32", 1e-6), (3, 2, 13, "bfloat16", 2**-5)],
)
def test_both_forms_of_pooling_are_one_function(size, stride, length, dtype, rounding):
    x = jnp.round(2 * normal(2, length, length + 1, 5, dtype=dtype))  # so that windows have several maxima
    slices, window = ([partial(form, size=size, stride=stride) for form in forms] for forms in conv_lib.POOLS.values())
    values = [jax.jit(pool)(x) for pool, _ in (slices, window)]
    assert np.array_equal(*values)
    gradient = normal(*values[0].shape, dtype=dtype)
    gradients = [np.float32(jax.jit(unpool)(x, gradient)) for _, unpool in (slices, window)]
    np.testing.assert_allclose(*gradients, rtol=rounding, atol=rounding)


@pytest.mark.parametrize(("channels", "below", "above"), [(9, 2, 2), (9, 2, 1), (3, 2, 2), (4, 0, 0), (1, 2, 2), (5, 30, 40)])
def test_both_sums_of_lrn_are_one_function(channels, below, above):
    squares = 1e4 * normal(2, 3, channels) ** 2
    by_slices, by_product = (form(squares, below, above) for form in lrn_lib.SUMS.values())
    np.testing.assert_allclose(by_slices, by_product, rtol=1e-6)


def test_both_convolutions_of_two_towers_are_one_function():
    def gradients(form, *arrays):
        return jax.vjp(partial(conv_lib.conv, stride=2, padding=(1, 1), groups=2, form=form), *arrays[:2])[1](arrays[2])

    arrays = normal(2, 7, 7, 6), normal(3, 3, 3, 8), normal(2, 4, 4, 8)
    each, grouped = (jax.jit(partial(gradients, form)) for form in ("auto", "direct"))
    on_cpus, elsewhere = (each.trace(*arrays).lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda"))
    assert "group_count = 2" not in on_cpus
    assert "group_count = 2" in elsewhere
    for one, other in zip(each(*arrays), grouped(*arrays), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_derivatives_of_lrn_are_one_function(dtype, monkeypatch):
    def total(x, k, alpha, beta):
        return jnp.sum(jnp.sin(lrn_lib.lrn(x, k, alpha, beta)).astype(jnp.float32))

    arguments = normal(2, 3, 3, 8, dtype=dtype), 2.0, 0.1, 0.75
    again = jax.grad(total, argnums=(0, 1, 2, 3))(*arguments)
    monkeypatch.setattr(lrn_lib, "delayed", lambda x, gradient: x)
    same = jax.grad(total, argnums=(0, 1, 2, 3))(*arguments)
    for one, other in zip(again, same, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere the sums of the forward pass are kept")
def test_on_cpus_the_derivative_of_lrn_keeps_no_sums(monkeypatch):
    def total(x, kernel):
        return jnp.sum(jnp.tanh(lrn_lib.lrn(x) @ kernel))  # its gradient comes long after the sums

    x, kernel = normal(8, 12, 12, 16), normal(16, 16)
    again = jax.jit(jax.grad(total, argnums=(0, 1))).lower(x, kernel).compile().memory_analysis().temp_size_in_bytes
    monkeypatch.setattr(lrn_lib, "delayed", lambda x, gradient: x)
    kept = jax.jit(jax.grad(lambda *arrays: total(*arrays), argnums=(0, 1))).lower(x, kernel).compile().memory_analysis().temp_size_in_bytes
    assert again <= kept - x.nbytes


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 7, 5), (2, 1, 1, 3)])
def test_both_sums_of_a_bias_gradient_are_one_function(shape):
    gradient = normal(*shape)
    rows_first, at_once = (bias_lib.SUMS[name](gradient) for name in ("rows first", "at once"))
    np.testing.assert_allclose(rows_first, at_once, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(at_once, np.sum(np.asarray(gradient), tuple(range(len(shape) - 1)), dtype=np.float64), rtol=1e-5, atol=1e-6)


def test_a_choice_names_forms_that_there_are():
    named = {"POOL": conv_lib.POOLS, "LRN_SUMS": lrn_lib.SUMS, "BIAS_GRADIENT": bias_lib.SUMS}
    for name, forms in named.items():
        assert set(getattr(device_choices, name)) <= set(forms)


@pytest.mark.parametrize(("platform", "factor"), [("cpu", 11), ("cuda", 12), ("rocm", 12), ("tpu", 13)])
def test_the_form_is_that_of_the_platform_that_is_compiled_for(platform, factor):
    """Not of this machine, and no other is in the program: also under `vmap` and in a gradient."""
    forms = {str(number): partial(jnp.multiply, number) for number in (11.0, 12.0, 13.0)}

    def total(x):
        return jnp.sum(jax.vmap(lambda x: by_device(Choice("11.0", "12.0", "13.0"), forms, jnp.sin(x)))(x))

    text = jax.jit(jax.grad(total)).trace(jnp.ones(3)).lower(lowering_platforms=(platform,)).as_text()
    assert {number for number in (11, 12, 13) if f"dense<{number / 10}00000e+01>" in text} == {factor}


@pytest.mark.parametrize(
    ("platform", "pools", "products", "groups"),
    # Three pools. Nine products of the dense layers, two of the augmentation; LRN's two sums forward, backward twice again and two more.
    # On CPUs a convolution in Winograd's form is 3 products and 12 transforms, and there is one of these here; by patches it is 2.
    [("cpu", 0, 11 + 15 + 2, {"1"}), ("cuda", 0, 11, {"1"}), ("tpu", 3, 11 + 8, {"1", "2"})],
)
def test_a_step_has_the_forms_of_its_platform(step_of_two_members, platform, pools, products, groups):
    text = step_of_two_members.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("select_and_scatter") == pools
    assert text.count("stablehlo.dot_general") == products
    assert set(re.findall(r"(?:batch|feature)_group_count = (\d+)", text)) == groups


@pytest.fixture(scope="module")
def step_of_two_members():
    """The traced train step of two networks for 64 images of 28 x 28 pixels."""
    section = model_config("small")
    section.update(width=0.5, filters=(8, 48, 128, 8, 8), dense=16)
    model, optimizer = AlexNet(architecture(section), 10), partial(make_optimizer, rule="paper")
    stats = PixelStats(np.zeros(1, np.float32), np.asarray(74, np.float32), np.ones(1, np.float32), np.eye(1, dtype=np.float32))
    step = make_train_step(model, optimizer, stats, lambda step: 1.0, parallel.DEVICES)
    base = {field: float(getattr(hyper.Hyper(), field)) for field in hyper.FIELDS if field not in hyper.WHOLE}
    members = hyper.stack(hyper.parse_members("seeds=2", {**base, "seed": 0})[0])
    program = parallel.over_mesh_train(step, Mesh(np.array(jax.devices()[:1]), (parallel.DEVICES,)))
    controls = Controls(members, np.ones(2, np.float32), np.zeros(2, bool))
    return program.trace(abstract_state(model, optimizer, members, 1), controls, data.blank_batch(64, (28, 28, 1)))
