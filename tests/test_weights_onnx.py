"""The ONNX graph of a network answers as the network does, in another runtime."""

import json
import sys

import jax
import numpy as np
import pytest

from alexnet_jax import network as network_lib
from alexnet_jax.errors import UserError
from alexnet_jax.model.forward import make_log_probs
from alexnet_jax.weights import formats
from alexnet_jax.weights.__main__ import main, write_run
from configs import imagenet

CLASSES = ("Kater", "Hündin", "a, b", "n01440764", "0")


def weights_of(overrides, whitening=0.0, members=""):
    """A narrow network for photographs that has learnt nothing."""
    config = imagenet.get_config(f"variant={overrides.pop('variant')}")
    config.augment.whitening = whitening
    config.model.update({"width": 1 / 16, "init": "scaled", **overrides})
    config.ensemble.members = members or "seed=3"
    stats = {"mean": (120.0, 115.0, 100.0), "std": 70.0, "pca_std": formats.PCA_STD, "pca_axes": formats.PCA_AXES}
    record = {"name": "x", "classes": CLASSES, "image_shape": (256, 250, 3), "split_sizes": {}, "stats": stats}
    dataset = formats.dataset_from_json(record)
    state = network_lib.build(config, dataset.image_shape, len(CLASSES)).init_state()
    return formats.Weights(config.lock(), dataset, jax.tree.map(lambda leaf: np.asarray(leaf[0]), state.params))


@pytest.mark.parametrize(
    ("overrides", "whitening", "members"),
    [
        ({"variant": "one_tower"}, 1.0, ""),
        ({"variant": "one_tower", "activation": "tanh", "pixel_scale": 60.0}, 0.5, "seed=1, lrn_k=1.5, lrn_alpha=0.01, lrn_beta=0.6"),
        ({"variant": "one_tower", "dtype": "float32", "pool_size": 2, "lrn_size": 3}, 0.0, "seed=1, lrn=off"),
        ({"variant": "one_tower", "lrn_size": 4, "lrn_alpha": 0.01}, 0.0, ""),  # reaches further down than up
        ({"variant": "caffenet"}, 0.0, ""),
        ({"variant": "caffe", "lrn_alpha": 0.01}, 0.0, ""),
        ({"variant": "paper", "lrn_alpha": 0.01}, 1.0, ""),
        ({"variant": "owt"}, 0.0, ""),
    ],
    ids=str,
)
def test_onnx_computes_what_the_network_does(overrides, whitening, members, tmp_path):
    """For one image and for three, from the file that the command writes; the classes' names are in it."""
    runtime = pytest.importorskip("onnxruntime")
    weights = weights_of(dict(overrides), whitening, members)
    write_run(tmp_path / "run", weights)
    main(["export", "--to", "onnx", str(tmp_path / "net.onnx"), "--run", str(tmp_path / "run")])
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (3, 256, 250, 3)).astype(np.uint8)
    network, networks = weights.networks()
    expected = np.asarray(jax.jit(make_log_probs(network.model, weights.dataset.stats))(networks.params, networks.hyper, images))[0]
    assert np.ptp(expected) > 1e-3
    for batch in (1, 3):
        (found,) = session.run(None, {"images": images[:batch]})
        np.testing.assert_allclose(found, expected[:batch], rtol=1e-4, atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(CLASSES)


def test_without_the_onnx_package(tmp_path, monkeypatch):
    write_run(tmp_path / "run", weights_of({"variant": "one_tower"}))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r'onnx.* not installed: pip install -e "\.\[onnx\]"'):
        main(["export", "--to", "onnx", str(tmp_path / "net.onnx"), "--run", str(tmp_path / "run")])
    assert not (tmp_path / "net.onnx").exists()
