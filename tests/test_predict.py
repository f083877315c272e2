"""Pictures of any kind get the answers that evaluate counts; what is no picture is named and left out."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from alexnet_jax import config as config_lib
from alexnet_jax import data, evaluate, history, metrics, predict, run
from alexnet_jax.errors import UserError
from alexnet_jax.images import Resize, load_image
from alexnet_jax.model import forward
from alexnet_jax.pictures import find_images
from alexnet_jax.predict import Prediction, Predictor, figure, main
from alexnet_jax.train.loop import train

COUNT = 21  # pictures: no batch of 4 devices divides them
TINY = ("model.width=0.04", "train.batch_size=40", "train.epochs=0.2", "eval.batch_size=64")


@pytest.fixture(scope="module")
def workdir(digits_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    train(config_lib.load("configs/digits.py:members=2", [f"data.dir={digits_dir}", *TINY]), directory)
    return directory


@pytest.fixture(scope="module")
def pictures(workdir, tmp_path_factory):
    """A folder with the first test digits, 00.png, 01.png, ..."""
    folder, source = tmp_path_factory.mktemp("pictures"), data.load(run.load(workdir).config.data).source("test")
    for i in range(COUNT):
        Image.fromarray(source[i]["image"][..., 0]).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def log_probs(workdir):
    """What evaluate says of the same digits, by ten_crop: (2, COUNT, 10)."""
    return {ten_crop: evaluate.predict_run(workdir, "test", ten_crop)[0].log_probs[:, :COUNT] for ten_crop in (False, True)}


@pytest.fixture
def answers(workdir, tmp_path):
    """`answers(*arguments)`: what `main` writes as JSON of the run."""

    def ask(*arguments, code=0):
        file = tmp_path / "answers.json"
        assert main(["--run", str(workdir), *map(str, arguments), f"--json={file}"]) == code
        return json.loads(file.read_text())

    return ask


def table(found):
    """Probabilities (pictures, classes) of answers that name all classes."""
    return np.array([[row["probability"] for row in sorted(answer["top"], key=lambda row: row["index"])] for answer in found])


@pytest.mark.parametrize(("ten_crop", "batch_size"), [(False, 8), (False, None), (True, 64)])
def test_answers_are_those_of_evaluate(answers, pictures, log_probs, ten_crop, batch_size):
    options = ["--ten-crop"] * ten_crop + [f"--batch-size={batch_size}"] * bool(batch_size)
    found = answers(pictures, "--top=10", *options)
    expected = np.exp(metrics.average(log_probs[ten_crop]))
    np.testing.assert_allclose(table(found), expected, atol=1e-6)
    assert [answer["file"] for answer in found] == [str(pictures / f"{i:02}.png") for i in range(COUNT)]
    assert [answer["top"][0]["index"] for answer in found] == expected.argmax(1).tolist()


def test_the_views_differ(log_probs):
    assert np.abs(log_probs[True] - log_probs[False]).max() > 1e-3  # or the test above could not tell


@pytest.mark.parametrize("member", ["seed=1", "1"])
def test_one_member(answers, pictures, log_probs, member):
    found = answers(pictures, "--top=10", "--member", member)
    np.testing.assert_allclose(table(found), np.exp(log_probs[False][1]), atol=1e-6)
    assert found[0]["protocol"]["members"] == ["seed=1"]


@pytest.mark.parametrize("member", ["seed=9", "2", "-1"])
def test_unknown_member(workdir, pictures, member):
    with pytest.raises(UserError, match=rf"no member '{member}'; its members: 0 \(seed=0\), 1 \(seed=1\)$"):
        main(["--run", str(workdir), str(pictures), f"--member={member}"])


def test_one_program_and_no_say_for_the_padding(workdir, pictures, monkeypatch):
    traces, make_log_probs = [], forward.make_log_probs

    def counting(*args):
        inner = make_log_probs(*args)
        return lambda params, hyper, images: (traces.append(images.shape), inner(params, hyper, images))[1]

    monkeypatch.setattr(forward, "make_log_probs", counting)
    predictor = Predictor(workdir, COUNT, batch_size=8)
    found = list(predictor.predict(find_images([pictures]), 1, pytest.fail))
    assert len(found) == COUNT
    assert traces == [(2, 28, 28, 1)]  # of each device
    alone, among_others = predictor.probabilities([found[0].image]), predictor.probabilities([one.image for one in found[:8]])
    np.testing.assert_allclose(alone[0], among_others[0], atol=1e-6)
    assert len(alone) == 1


def test_batch_size(workdir, pictures):
    assert Predictor(workdir, 1).batch_size == 4  # one picture a device
    assert Predictor(workdir, 1000).batch_size == 64
    assert Predictor(workdir, 1000, batch_size=128).batch_size == 128
    with pytest.raises(UserError, match="--batch-size=6 can't be shared evenly by 4 devices"):
        main(["--run", str(workdir), str(pictures), "--batch-size=6"])


def test_files_are_decoded_a_batch_at_a_time(workdir, pictures):
    predictor, asked = Predictor(workdir, COUNT, batch_size=4), []
    found = predictor.predict((asked.append(file) or file for file in find_images([pictures])), 1, pytest.fail)
    next(found)
    assert len(asked) == 4


def test_every_format(workdir, answers, tmp_path):
    grey = np.asarray(Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 40))
    plain, rotated = Image.fromarray(grey), Image.Exif()
    rotated[0x0112] = 6
    lossless = {
        "grey.png": (plain, {}),
        "alpha.png": (plain.convert("RGBA"), {}),
        "palette.png": (plain.convert("P"), {}),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "rotated.png": (plain.transpose(Image.Transpose.ROTATE_90), {"exif": rotated}),
        "picture.webp": (plain.convert("RGB"), {"lossless": True}),
        "inks.tif": (Image.merge("CMYK", [Image.new("L", plain.size)] * 3 + [Image.fromarray(255 - grey)]), {}),
        "named_wrongly.txt": (plain, {"format": "BMP"}),
    }
    for name, (image, options) in lossless.items():
        image.save(tmp_path / name, **options)
    plain.save(tmp_path / "grey.JPEG", quality=95)
    predictor, expected = Predictor(workdir, 1), Resize(28)(grey[..., None])
    for name in lossless:
        np.testing.assert_array_equal(predictor.prepare(tmp_path / name), expected, err_msg=name)
    assert np.abs(predictor.prepare(tmp_path / "grey.JPEG").astype(int) - expected).max() < 16
    found = answers("--top=10", *(tmp_path / name for name in [*lossless, "grey.JPEG"]))
    assert np.ptp(table(found[:-1]), axis=0).max() < 1e-6
    assert len(found) == len(lossless) + 1


def test_colour_becomes_luminance_or_stays(workdir, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)).save(tmp_path / "colour.png")
    predictor, colour = Predictor(workdir, 1), load_image(tmp_path / "colour.png")
    luminance = np.rint(colour @ [0.299, 0.587, 0.114]).astype(np.uint8)[..., None]
    grey = predictor.prepare(tmp_path / "colour.png")
    assert grey.shape == (28, 28, 1)
    assert np.abs(grey.astype(int) - Resize(28)(luminance)).max() <= 1
    predictor.channels = 3  # as of a run on colours
    np.testing.assert_array_equal(predictor.prepare(tmp_path / "colour.png"), Resize(28)(colour))


def test_find_images(tmp_path, capsys):
    for name in ("b/2.PNG", "b/c/1.jpeg", "a/3.webp", "a/notes.txt", "a/x.HEIC", "a/._3.webp", ".thumbnails/3.png", "4.gif", "5.jfif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    Image.new("L", (2, 2)).save(tmp_path / "b/scan", "tiff")
    (tmp_path / "folder.png").mkdir()
    inside = [tmp_path / name for name in ("4.gif", "5.jfif", "a/3.webp", "a/x.HEIC", "b/2.PNG", "b/c/1.jpeg", "b/scan")]
    assert find_images([tmp_path]) == inside
    assert capsys.readouterr().err.splitlines() == [
        f"left out of {tmp_path}: 1 not an image: {tmp_path}/a/notes.txt",
    ]
    assert find_images([tmp_path / "a/notes.txt", tmp_path, Path("none.png")]) == [tmp_path / "a/notes.txt", *inside, Path("none.png")]
    with pytest.raises(UserError, match=r"folder\.png holds no image"):
        find_images([tmp_path, tmp_path / "folder.png"])
    with pytest.raises(UserError, match="no images"):
        main(["--run", "anywhere"])


def test_what_is_no_picture_is_named_and_left_out(answers, pictures, tmp_path, capsys, monkeypatch):
    good, whole = pictures / "00.png", (pictures / "01.png").read_bytes()
    bad = {"page.jpg": b"<html>404</html>", "half.png": whole[: len(whole) // 2], "empty.gif": b""}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    Image.new("L", (60, 60)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    files = [tmp_path / name for name in [*bad, "bomb.png", "missing.png"]]
    found = answers(files[0], good, *files[1:], good, code=1)
    assert [answer["file"] for answer in found] == [str(good)] * 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(files)
    for file, line, reason in zip(files, lines, ["not an image", "broken", "not an image", "2,000 pixels", "No such file"], strict=True):
        assert line.startswith("skipped: ")
        assert str(file) in line
        assert reason in line
    drawing = tmp_path / "answers.png"
    assert answers(*files, f"--figure={drawing}", code=1) == []
    assert not drawing.exists()


def test_text(workdir, pictures, log_probs, capsys):
    assert main(["--run", str(workdir), str(pictures / "03.png"), "--top", "2", str(pictures / "05.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(pictures / "03.png")
    assert lines[3] == str(pictures / "05.png")
    assert len(lines) == 6
    row = np.exp(metrics.average(log_probs[False]))[5]
    for line, best in zip(lines[4:], np.argsort(-row)[:2], strict=True):
        percent, label = line.split()
        assert label == str(best)
        assert float(percent.rstrip("%")) == pytest.approx(100 * row[best], abs=0.0051)


def test_names_that_are_not_utf8(workdir, pictures, tmp_path, capsys):
    file = tmp_path / os.fsdecode(b"\xff\n.png")
    file.write_bytes((pictures / "00.png").read_bytes())
    assert main(["--run", str(workdir), str(file), str(tmp_path / "no\n.png"), "--figure", str(tmp_path / "figure.svg")]) == 1
    output = capsys.readouterr()
    assert output.out.splitlines()[0] == f"{tmp_path}/\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}.png"
    assert len(output.err.splitlines()) == 1


def test_json_on_stdout_is_nothing_but_json(workdir, pictures, capsys):
    assert main(["--run", str(workdir), str(pictures / "00.png"), "--top=99", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert set(answer) == {"file", "top", "protocol"}
    assert sorted(row["index"] for row in answer["top"]) == list(range(10))  # --top 99 of ten classes
    assert all(set(row) == {"label", "index", "probability"} and row["label"] == str(row["index"]) for row in answer["top"])
    probabilities = [row["probability"] for row in answer["top"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert answer["protocol"] == {
        "run": str(workdir),
        "step": history.saved_step(workdir),
        "members": ["seed=0", "seed=1"],
        "views": 1,
        "input_size": 28,
        "stored_size": 28,
        "resize": "shorter-side",
        "interpolation": "bicubic",
        "averaging": "softmax",
    }


def test_a_lost_console_loses_no_file(workdir, answers, pictures, tmp_path, lost_stdout):
    with lost_stdout():
        assert len(answers(pictures)) == COUNT
    with lost_stdout(), pytest.raises(BrokenPipeError):  # where the console is to have the answers
        main(["--run", str(workdir), str(pictures), "--json", "--figure", str(tmp_path / "answers.png")])
    assert load_image(tmp_path / "answers.png").std() > 10


def test_outputs_are_checked_before_the_work(workdir, pictures, tmp_path):
    picture = tmp_path / "00.png"
    picture.write_bytes((pictures / "00.png").read_bytes())
    for options, message in {
        ("--json", str(picture)): "would overwrite a picture",  # meant: --json, then the picture
        ("--json", str(tmp_path)): "cannot write",
        ("--json", f"{tmp_path}/none/a.json"): "cannot write .*none/a.json",
        ("--figure", "a.bmp"): r"must end in \.png",
    }.items():
        with pytest.raises(UserError, match=message):
            main(["--run", "anywhere", str(pictures), *options])
    assert picture.read_bytes() == (pictures / "00.png").read_bytes()


def test_no_picture_is_overwritten(workdir, pictures, tmp_path):
    digit = load_image(pictures / "00.png")
    Image.fromarray(digit).save(tmp_path / "a.png")
    Image.fromarray(digit).save(tmp_path / "noext", "png")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    (tmp_path / "link.png").symlink_to("a.png")
    for options, message in {
        ("--json", "noext"): "noext would overwrite a picture; put --json after",
        ("--figure", "a.png"): "a.png would overwrite a picture that isn't a figure of this command",
        ("--figure", "drawing.svg"): "drawing.svg would overwrite a picture",
        ("--figure", "link.png"): "link.png would overwrite a picture",
    }.items():
        with pytest.raises(UserError, match=message):
            main(["--run", "anywhere", str(pictures), options[0], str(tmp_path / options[1])])
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), digit)
    asked = ["--run", str(workdir), str(pictures / "00.png"), "--top=1"]
    for name in ("figure.png", "figure.svg", "figure.pdf"):
        (tmp_path / name).touch()  # as mktemp does
        for _ in range(2):  # its own figure is replaced
            assert main([*asked, "--figure", str(tmp_path / name)]) == 0
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "figure.png").hardlink_to(tmp_path / "figure.png")
    for named in ("figure.png", "figures"):
        with pytest.raises(
            UserError, match=r"figure\.png is among the pictures to classify and would be overwritten; write to another file"
        ):
            main(["--run", "anywhere", str(tmp_path / named), "--figure", str(tmp_path / "figure.png")])


def test_a_diverged_member_has_no_say(workdir, answers, pictures, log_probs, monkeypatch, capsys):
    loaded = run.load(workdir)

    def load_with_nan(*lost):
        params = jax.tree.map(
            lambda leaf: np.where(np.isin(np.arange(2), lost).reshape(2, *[1] * (leaf.ndim - 1)), np.nan, leaf), loaded.state.params
        )
        return lambda *_: loaded._replace(state=dataclasses.replace(loaded.state, params=params))

    monkeypatch.setattr(run, "load", load_with_nan(1))
    found = answers(pictures, "--top=10")
    np.testing.assert_allclose(table(found), np.exp(log_probs[False][0]), atol=1e-6)
    assert capsys.readouterr().err == "left out, because they diverged in training: seed=1\n"
    with pytest.raises(UserError, match="seed=1: diverged"):
        main(["--run", str(workdir), str(pictures), "--member=1"])
    monkeypatch.setattr(run, "load", load_with_nan(0, 1))
    with pytest.raises(UserError, match="seed=0, seed=1: diverged"):
        main(["--run", str(workdir), str(pictures)])


def test_figure_file(workdir, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict, "PICTURES", 3)
    drawing = tmp_path / "answers.png"
    assert main(["--run", str(workdir), str(pictures), f"--figure={drawing}"]) == 0
    assert capsys.readouterr().err == f"{drawing} shows the first 3 of {COUNT} pictures\n"
    assert load_image(drawing).std() > 10
    assert main(["--run", str(workdir), str(pictures / "00.png"), "--figure", str(tmp_path / "one.pdf"), "--top=1"]) == 0
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF")


def prediction(name, labels, channels=3):
    rng = np.random.default_rng(len(name))
    probabilities = np.sort(rng.dirichlet(np.ones(len(labels))).astype(np.float32))[::-1]
    top = [{"label": label, "index": i, "probability": p} for i, (label, p) in enumerate(zip(labels, probabilities, strict=True))]
    return Prediction(Path("folder", name), rng.integers(0, 256, (32, 32, channels), np.uint8), top)


def test_a_class_cannot_colour_the_terminal():
    first, *rest = predict.text(prediction("a\x1b[31m.png", ["\x1b[31mcat", "dog"])).splitlines()
    assert first == "folder/a\N{REPLACEMENT CHARACTER}[31m.png"
    assert [line.split("%  ")[1] for line in rest] == ["\N{REPLACEMENT CHARACTER}[31mcat", "dog"]


@pytest.mark.parametrize("count", [1, 7])
def test_bars_are_the_probabilities_and_nothing_overlaps(count):
    labels = ["Staffordshire bullterrier, Staffordshire bull terrier", "costs $1 or $2", "a_b^c", "W" * 40, "mite", "sixth", "seventh"]
    predictions = [prediction(f"{i}_{'long ' * 9}$x$.jpeg", labels, channels=1 + 2 * (i % 2)) for i in range(count)]
    drawing = figure(predictions)
    assert len(drawing.axes) == 2 * count
    drawing.draw_without_rendering()  # which puts the names in their places
    boxes = []
    for one, picture, chart in zip(predictions, drawing.axes[::2], drawing.axes[1::2], strict=True):
        np.testing.assert_array_equal(picture.images[0].get_array().reshape(one.image.shape), one.image)
        assert picture.get_xlabel().startswith(one.file.name[:2])
        assert picture.get_xlabel().endswith("g $x$.jpeg")
        whole, bars = chart.containers
        assert [bar.get_width() for bar in whole] == [1] * 5
        assert [bar.get_width() for bar in bars] == [row["probability"] for row in one.top[:5]]
        numbers, names = chart.texts[::2], chart.texts[1::2]
        assert [number.get_text() for number in numbers] == [f"{100 * row['probability']:.1f} %" for row in one.top[:5]]
        assert names[0].get_text().startswith("Staffordshire bull")
        assert names[1].get_text() == "costs $1 or $2"
        extents = [artist.get_window_extent() for artist in (picture, picture.xaxis.label, *names, *numbers, *whole)]
        assert all(picture.bbox.x0 - 1 <= box.x0 and box.x1 <= picture.bbox.x1 + 1 for box in extents)
        boxes += extents
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[:i])


def test_certainty_fits_beside_its_bar():
    certain = prediction("a.png", ["0", "1"])
    certain.top[0]["probability"] = np.float32(1)
    chart = figure([certain]).axes[1]
    assert chart.texts[0].get_text() == "100.0 %"
    assert not chart.texts[0].get_window_extent().overlaps(chart.containers[0][0].get_window_extent())


def test_progress_on_a_terminal(workdir, pictures, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["--run", str(workdir), str(pictures), "--batch-size=4"]) == 0
    assert f"{COUNT} of {COUNT} images (100%)" in capsys.readouterr().err
    assert main(["--run", str(workdir), str(pictures)]) == 0
    assert capsys.readouterr().err == ""


def test_help_loads_no_jax():
    code = "import sys, alexnet_jax.predict; sys.exit(bool({'jax', 'matplotlib', 'tensorflow_datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(SystemExit) as caught:
        predict.main(["--help"])
    assert caught.value.code == 0
