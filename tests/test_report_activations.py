"""What layers put out: that it is what the network computes with, and that its description is plain numpy's."""

import jax
import numpy as np
import pytest

from alexnet_jax import data, run
from alexnet_jax import network as network_lib
from alexnet_jax.augment import augment, evaluation_view
from alexnet_jax.model.forward import layer_outputs
from alexnet_jax.report import activations
from alexnet_jax.state import AUGMENT, Networks, example_keys


@pytest.fixture(scope="module")
def loaded(digits_dir):
    """A run of two very narrow networks that has not begun, and 70 images: a batch of the probe, and a part of one."""
    from alexnet_jax import config as config_lib

    overrides = [f"data.dir={digits_dir}", "model.width=0.04", "model.positive_bias=0.1"]
    config = config_lib.load("configs/digits.py:members=2", overrides)
    dataset = data.load(config.data)
    network = network_lib.build(config, dataset.image_shape, 10)
    state = jax.tree.map(np.asarray, network.init_state())
    networks = Networks(state.step, state.params, network.hyper)
    return run.Run(digits_dir, config, dataset.classes, dataset.stats, network, networks), activations.sample(dataset.source("train"), 70)


def views_and_outputs(one, images, member):
    params, hyper = (jax.tree.map(lambda leaf: leaf[member], tree) for tree in (one.state.params, one.state.hyper))
    views = jax.vmap(lambda image: evaluation_view(image, hyper, one.stats, 28))(images)
    logits = one.network.model.apply({"params": params}, views, hyper)
    return params, logits, {name: np.asarray(x) for name, x in layer_outputs(one.network.model, params, views, hyper).items()}


def test_outputs_are_what_the_network_computes_with(loaded):
    one, (images, _) = loaded
    params, logits, outputs = views_and_outputs(one, images, 1)
    assert list(outputs) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    stem, pooled, twice, _ = one.network.model.arch.map_sizes
    assert [outputs[name].shape[1] for name in ("conv1", "conv2", "conv5")] == [stem, pooled, twice]
    np.testing.assert_array_equal(outputs["fc8"], logits)
    np.testing.assert_allclose(outputs["fc7"] @ params["fc8"]["kernel"] + params["fc8"]["bias"], logits, atol=1e-5)
    assert all(outputs[name].min() == 0 for name in outputs if name != "fc8")
    assert outputs["fc8"].min() < 0


def test_features_are_the_members_own(loaded):
    one, (images, _) = loaded
    found = [activations.features(one, member, images) for member in (0, 1)]
    for member in (0, 1):
        np.testing.assert_allclose(found[member], views_and_outputs(one, images, member)[2]["fc7"], atol=1e-5)
    assert not np.allclose(*found)


def test_statistics_are_those_of_plain_numpy_and_see_no_padding(loaded):
    one, (images, _) = loaded
    params = jax.tree.map(np.copy, one.state.params)
    params["conv2"]["bias"][1, :2] = -1e6  # two filters of member 1 die
    changed = one._replace(state=one.state.replace(params=params))
    found = activations.layer_statistics(changed, [0, 1], images)
    for member in (0, 1):
        outputs = views_and_outputs(changed, images, member)[2]
        for place, layer in enumerate(found.layers):
            x = outputs[layer]
            assert found.mean[member, place] == pytest.approx(x.mean(), rel=1e-4)
            assert found.std[member, place] == pytest.approx(x.std(), rel=1e-4)
            assert found.zeros[member, place] == pytest.approx((x == 0).mean(), abs=1e-5)
            assert found.dead[member, place] == pytest.approx((x.reshape(-1, x.shape[-1]) == 0).all(0).mean())
    layer = found.layers.index("conv2")
    assert found.dead[1, layer] * one.network.model.arch.channels[layer] >= 2 - 1e-6  # of random filters some may be dead already


def test_nearest_are_nearest():
    rng = np.random.default_rng(0)
    queries, others = rng.normal(size=(3, 5)), rng.normal(size=(40, 5))
    distances = np.linalg.norm(queries[:, None] - others, axis=-1)
    assert activations.nearest(queries, others, 6).tolist() == np.argsort(distances, axis=1)[:, :6].tolist()
    assert activations.nearest(others, others, 1)[:, 0].tolist() == list(range(40))


def test_augmented_draws_are_those_of_training(loaded):
    one, (images, _) = loaded
    found = activations.augmented(one, 1, images[:2], 3)
    assert found.shape == (2, 3, 28, 28, 1)
    hyper = jax.tree.map(lambda leaf: leaf[1], one.state.hyper)
    keys = example_keys(hyper.seed, AUGMENT, np.arange(6))
    view = augment(keys[4], images[1], hyper, one.stats, 28)
    np.testing.assert_allclose(found[1, 1], np.clip(np.asarray(view) + one.stats.mean, 0, 255), atol=0.51)
    assert not np.array_equal(found[0, 0], found[0, 1])


def test_a_sample_is_the_same_at_every_call_and_never_larger_than_the_split(loaded):
    one, (images, labels) = loaded
    source = data.load(one.config.data).source("train")
    again = activations.sample(source, 70)
    np.testing.assert_array_equal(again[0], images)
    np.testing.assert_array_equal(again[1], labels)
    assert len(np.unique(images.reshape(70, -1), axis=0)) == 70
    assert len(activations.sample(data.load(one.config.data).source("validation"), 9999)[1]) == 180
