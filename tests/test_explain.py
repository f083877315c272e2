"""The explain command: its pages and files, what it searches, and what it says to mistakes."""

import re

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import data, run
from alexnet_jax.errors import UserError
from alexnet_jax.explain import figures, units
from alexnet_jax.explain.__main__ import main
from alexnet_jax.model.layers import ReceptiveField
from alexnet_jax.subject import open_dataset, open_networks


@pytest.fixture(scope="module")
def picture(untrained_run, tmp_path_factory):
    file = tmp_path_factory.mktemp("pictures") / "a four.png"
    Image.fromarray(data.load(run.load(untrained_run).config.data).source("test")[0]["image"][..., 0]).save(file)
    return file


def test_a_page_an_overlay_and_a_map_for_each_picture_and_method(untrained_run, picture, tmp_path):
    asked = ["--run", str(untrained_run), str(picture), "--out", str(tmp_path / "why"), "--note", "untrained"]
    main([*asked, "--method", "gradcam,deconvnet", "--member", "ensemble", "--target", "7", "--layer", "conv4"])
    page = (tmp_path / "why" / "explain.html").read_text()
    assert re.findall(r"<h2[^>]*>(.*)</h2>", page) == ["a four.png", "How to read the maps"]
    assert "explained is 7" in page
    assert page.count("untrained") > 1  # on the page and in the figure
    assert "aria-label" in page
    with np.load(tmp_path / "why" / "a_four-gradcam.npz") as arrays:
        assert arrays["maps"].shape == (2, 28, 28)
        assert arrays["members"].tolist() == ["seed=0", "seed=1"]
        assert arrays["unit"] == "fc8, 7"
    with np.load(tmp_path / "why" / "a_four-deconvnet.npz") as arrays:
        assert arrays["maps"].shape == (2, 28, 28, 1)
    with Image.open(tmp_path / "why" / "a_four-gradcam.png") as overlay:
        assert overlay.size == (224, 224)
    assert sorted(path.name for path in (tmp_path / "why" / "figures").iterdir()) == ["a_four.png", "a_four.svg"]


def test_a_name_cannot_colour_the_terminal(untrained_run, picture, tmp_path, capsys):
    coloured = tmp_path / "\x1b[31m.png"
    coloured.write_bytes(picture.read_bytes())
    main(["--run", str(untrained_run), str(coloured), "--out", str(tmp_path / "why"), "--method", "gradient"])
    assert capsys.readouterr().out.startswith("\N{REPLACEMENT CHARACTER}[31m.png: answer ")


def test_a_lost_console_loses_no_page(untrained_run, picture, tmp_path, lost_stdout):
    with lost_stdout():
        main(["--run", str(untrained_run), str(picture), "--out", str(tmp_path), "--method", "gradient"])
    assert (tmp_path / "explain.html").exists()
    assert "a four.png: answer " in (tmp_path / "result.txt").read_text()


def test_units_are_the_strongest_of_the_whole_split(untrained_run, tmp_path):
    main(["--run", str(untrained_run), "--units", "conv3", "--filters", "1,4", "--top", "5", "--out", str(tmp_path)])
    with np.load(tmp_path / "units.npz") as arrays:
        found = dict(arrays)
    subject = open_networks(untrained_run, None, "last")
    images = open_dataset(subject, None).source("test").gather(np.arange(360))["image"]
    outputs = subject.each(lambda params, hyper, views: units.layer_outputs(subject.model, params, views, hyper)["conv3"])
    views = np.concatenate([subject.views(image) for image in images])
    values = outputs(views[None])[0][..., [1, 4]]  # (images, height, width, 2)
    best = values.max((1, 2))
    np.testing.assert_allclose(found["conv3_value"], -np.sort(-best, axis=0)[:5].T, rtol=1e-5)
    for filter in range(2):
        places = zip(*(found[f"conv3_{field}"][filter] for field in ("image", "row", "column", "value")), strict=True)
        for image, row, column, value in places:
            assert values[image, row, column, filter] == pytest.approx(value, rel=1e-5)
    asked = ["--units", "conv3", "--filters", "1,4", "--top", "5", "--split", "test[100:140]"]
    main(["--run", str(untrained_run), *asked, "--out", str(tmp_path / "part")])
    with np.load(tmp_path / "part" / "units.npz") as arrays:  # of a part, the images are named as of the whole
        np.testing.assert_array_equal(arrays["conv3_image"], 100 + np.argsort(-best[100:140], axis=0, kind="stable")[:5].T)
    page = (tmp_path / "units.html").read_text()
    assert re.findall(r"<h2[^>]*>(.*)</h2>", page) == ["Receptive fields", "conv3"]


def test_batches_leave_the_same_strongest_in_any_cut():
    rng = np.random.default_rng(0)
    value, place = rng.normal(size=(20, 3)).astype(np.float32), rng.integers(0, 16, (20, 3))
    whole = units.Strongest.none(3, 4).with_batch(value, place, np.arange(20), 4)
    parts = units.Strongest.none(3, 4)
    for part in np.array_split(np.arange(20), 6):
        parts = parts.with_batch(value[part], place[part], part, 4)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isinf(units.Strongest.none(3, 30).with_batch(value, place, np.arange(20), 4).value[:, 20:]).all()


def test_a_window_is_the_receptive_field_and_no_more_than_the_view():
    picture = np.arange(100.0).reshape(10, 10, 1)
    inside = units._window(picture, ReceptiveField(3, 2, 0), 1, 2)
    np.testing.assert_array_equal(inside, picture[2:5, 4:7])
    corner = units._window(picture, ReceptiveField(5, 2, -2), 0, 1)
    np.testing.assert_array_equal(corner[:3], picture[:3, :5])  # two rows lie above the view
    assert np.isnan(corner[3:]).all()
    larger = units._window(picture, ReceptiveField(15, 2, -14), 1, 6)
    assert larger.shape == (10, 10, 1)
    np.testing.assert_array_equal(larger[:3], picture[:3])
    assert np.isnan(larger[3:]).all()


def test_a_white_patch_on_a_white_page_has_a_frame():
    white = np.full((2, 5, 8, 8, 1), 255, np.float32)  # of two filters, five patches, in squares of three columns
    figure = figures.units_figure(np.array([3, 7]), white, np.zeros_like(white), "")
    for axes in figure.axes:
        (frames,), (shown,) = axes.collections, axes.images
        corners = {tuple(path.vertices[0]) for path in frames.get_paths()}
        assert {(-0.5, -0.5), (8.5, 8.5), (27.5, -0.5)} <= corners  # of the first patch, the fifth, and the first projection
        assert len(corners) == 2 * 5
        assert axes.get_xlim() == (-0.5, shown.get_array().shape[1] - 0.5)


def test_colours_of_an_overlay():
    grey, signed = np.full((4, 4, 1), 128, np.uint8), np.zeros((4, 4), np.float32)
    signed[0, 0], signed[0, 1] = 1, -1
    red, blue, none = (figures.over(grey, signed, "signed")[0, i].astype(int) for i in range(3))
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 100
    assert np.ptp(none) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to explain; give pictures, or --split"),
        (["PICTURE", "--units", "conv1"], "--units looks for its images in --split; leave the pictures out"),
        (["PICTURE", "--split", "test"], "give pictures or --split, not both"),
        (["--split", "tset"], "dataset digits has no split 'tset'; it has"),
        (["PICTURE", "--method", "gradcam,lime"], "unknown method 'lime'; known: all, gradient"),
        (["PICTURE", "--layer", "conv9"], "unknown layer 'conv9'; did you mean conv"),
        (["PICTURE", "--target", "seven"], "--target seven: .* knows no such class; known: 0, 1"),
        (["PICTURE", "--filter", "90"], r"--filter 90: conv5 has 10 filters, 0 to 9"),
        (["PICTURE", "--member", "9"], "has no member '9'; its members: 0"),
        (["--units", "conv5..conv1"], r"conv5\.\.conv1 is an empty range; write conv1\.\.conv5"),
        (["--units", "fc6"], "--units shows filters, and fc6 has none; choose layers among conv1"),
        (["--units", "conv1", "--filters", "x"], "--filters x is neither a number of filters nor a list"),
        (["--units", "conv1", "--filters", "1,99"], "--filters 1,99: conv1 has 4 filters, 0 to 3"),
        (["none.png"], "cannot read none.png"),
    ],
)
def test_mistakes_are_said(untrained_run, picture, tmp_path, arguments, message):
    arguments = [str(picture) if argument == "PICTURE" else argument for argument in arguments]
    with pytest.raises(UserError, match=message):
        main(["--run", str(untrained_run), *arguments, "--out", str(tmp_path)])


@pytest.mark.parametrize("option", ["--top", "--batch-size"])
def test_no_images_at_all_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        main(["--run", "x", "--units", "conv1", "--out", "y", option, "0"])
    assert f"{option}: '0' is not a whole number above 0" in capsys.readouterr().err
