"""The study post's recipe at full size, on a folder of real photographs: a few steps."""

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from alexnet_jax import config as config_lib
from alexnet_jax import data, history, run, state
from alexnet_jax.augment import augment
from alexnet_jax.prepare.datasets import prepare_folder
from alexnet_jax.train.loop import train


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A data directory with a dataset of 256-pixel cuts from scikit-learn's two photographs, a temple and a flower."""
    directory, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 5)):
        for name, photograph in zip(("flower", "temple"), reversed(load_sample_images().images), strict=True):
            folder = directory / "raw" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                top, left = rng.integers(0, 427 - 300), rng.integers(0, 640 - 300)
                Image.fromarray(photograph[top : top + 300, left : left + 300]).save(folder / f"{i}.jpg", quality=95)
    prepare_folder(directory / "raw", "imagenet", directory / "data")
    return directory / "data"


def first_loss(finished):
    """The loss of the first batch before anything was learnt, computed one example after the other, with no step."""
    config, network = finished.config, finished.network
    initial, source = network.init_state(), data.load(config.data, config.model.pixel_mean).source("train")
    hyper, params = jax.tree.map(lambda leaf: leaf[0], (network.hyper, initial.params))
    settings = {"batch_size": config.train.batch_size, "seed": config.data.seed, "position": 0, "threads": 1}

    @jax.jit
    def loss(image, label, index):
        augmented, dropped = (jax.random.fold_in(state._key(hyper.seed, purpose), index) for purpose in (state.AUGMENT, state.DROPOUT))
        view = augment(augmented, image, hyper, finished.stats, network.model.arch.input_size)
        return -jax.nn.log_softmax(network.model.apply({"params": params}, view[None], hyper, dropped[None])[0])[label]

    batch = next(data.train_batches(source, **settings))
    return np.mean([loss(*example) for example in zip(batch["image"], batch["label"], batch["index"], strict=True)])


@pytest.mark.slow
def test_the_one_tower_network_trains_at_full_size(photographs, tmp_path):
    overrides = [f"data.dir={photographs}", "train.batch_size=16", "train.epochs=2", "train.log_every_steps=1", "eval.batch_size=4"]
    test = train(config_lib.load("configs/imagenet.py", overrides), tmp_path)
    events = history.load(tmp_path).events
    losses = [event["loss"][0] for event in events if event["event"] == "train"]
    assert len(losses) == 6
    assert np.isfinite(losses).all()
    assert losses[0] == pytest.approx(first_loss(run.load(tmp_path)), rel=1e-4)
    assert test["count"] == 10
    params = run.load(tmp_path).state.params
    classes = 2
    assert sum(leaf.size for layer in params.values() for leaf in layer.values()) == 62_378_344 - (1000 - classes) * 4097
    assert params["conv1"]["kernel"].shape == (1, 11, 11, 3, 96)
