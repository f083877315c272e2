"""Images made from noise excite their units, stay pictures, and are the same for the same seed."""

import numpy as np
import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.explain import maximise
from alexnet_jax.explain.__main__ import main
from alexnet_jax.explain.choice import chosen
from alexnet_jax.subject import open_networks

SETTINGS = maximise.Settings(steps=40, starts=2)


@pytest.fixture(scope="module")
def subject(untrained_run):
    return open_networks(untrained_run, None, "last")


@pytest.mark.slow
def test_images_excite_their_units_and_stay_pictures(subject):
    units = np.array([1, 4])
    found, values = maximise.maximise(subject, "fc8", units, 0, SETTINGS)
    assert found.shape == (2, 2, 28, 28, 1)
    assert found.min() >= 0
    assert found.max() <= 255
    outputs = subject.each(lambda params, hyper, views: maximise.methods.layer_outputs(subject.model, params, views, hyper)["fc8"])
    logits = outputs(np.concatenate([subject.views(image) for image in found.reshape(-1, 28, 28, 1)])[None])[0].reshape(2, 2, 10)
    np.testing.assert_allclose([logits[0, :, 1], logits[1, :, 4]], values, atol=1e-5)
    assert (values[0] > logits[1, :, 1]).all()  # more than the images of the other class
    assert (values[1] > logits[0, :, 4]).all()
    np.testing.assert_array_equal(maximise.maximise(subject, "fc8", units, 0, SETTINGS)[0], found)
    assert np.abs(found[:, 0] - found[:, 1]).max() > 1  # from different noise


def test_total_variation_holds_down_every_pixel():
    single = 50 * np.eye(16, dtype=np.float32).reshape(16, 4, 4, 1)  # one bright pixel in each image, in the last one the last
    assert (maximise._variation(single) > maximise._variation(np.zeros_like(single)) + 49).all()


def test_the_page(untrained_run, tmp_path):
    asked = ["--run", str(untrained_run), "--maximise", "conv3", "--filters", "2,5", "--steps", "3", "--starts", "2"]
    main([*asked, "--note", "untrained", "--out", str(tmp_path)])
    with np.load(tmp_path / "maximise.npz") as arrays:
        assert arrays["conv3_units"].tolist() == [2, 5]
        assert arrays["conv3_values"].shape == (2, 2)
    assert (tmp_path / "maximise.html").read_text().count("untrained") > 1
    assert (tmp_path / "figures" / "conv3.svg").exists()


def test_which_filters():
    assert chosen("3", 10, "conv1").tolist() == chosen("3", 10, "conv1").tolist()
    assert len(chosen("30", 10, "conv1")) == 10
    assert chosen("7,", 10, "conv1").tolist() == [7]
    assert chosen("7, 2,7", 10, "conv1").tolist() == [2, 7]
    for text in ("x", "", "0", ",3", "-1", "2,x"):
        with pytest.raises(UserError, match="is neither a number of filters nor a list"):
            chosen(text, 10, "conv1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--units", "conv1"], "--units and --maximise make different pages; give one of them"),
        (["photo.jpg"], "--maximise makes its images; leave the pictures out"),
        (["--steps", "0"], "--steps 0 and --starts 4 must be at least 1"),
        (["--filters", "99,"], "--filters 99,: fc8 has 10 filters, 0 to 9"),
    ],
)
def test_mistakes_are_said(untrained_run, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        main(["--run", str(untrained_run), "--maximise", "fc8", *arguments, "--out", str(tmp_path)])
