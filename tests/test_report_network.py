"""The report's sections that ask the networks again, of a run of two very narrow ones; and the page in a browser."""

import dataclasses
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest
from PIL import Image

from alexnet_jax import data, run
from alexnet_jax.report import charts, network, page, pictures, style
from alexnet_jax.report.answers import Answers
from alexnet_jax.report.bars import Bars, bars_figure
from alexnet_jax.report.network import network_sections
from alexnet_jax.report.write import write_report
from alexnet_jax.runlog import RunLog
from alexnet_jax.train.loop import train

FIGURES = ["filters", "filters-1", "augmentations", "confusion", "mistakes", "predictions", "neighbours", "calibration", "activations"]
HOSTILE = "<script>alert('x')</script> $\\frac$ 中国"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


@pytest.fixture(scope="module")
def workdir(digits_dir, tmp_path_factory):
    from alexnet_jax import config as config_lib

    fields = {"data.dir": digits_dir, "model.width": 0.04, "train.batch_size": 40, "train.epochs": 0.5, "eval.batch_size": 64}
    config = config_lib.load("configs/digits.py:members=2", [f"{name}={value}" for name, value in fields.items()])
    directory = tmp_path_factory.mktemp("runs") / "run"
    train(config, directory)
    return directory


@pytest.fixture(scope="module")
def sections(workdir):
    return network_sections(workdir)


def drawings(sections):
    return {drawing.name: drawing.figure for section in sections for drawing in page.drawings(section.blocks)}


def words(section):
    return " ".join(block.text for block in section.blocks if isinstance(block, page.Text))


def table(section):
    (found,) = (block for block in section.blocks if isinstance(block, page.Table))
    return found.rows


def by_title(sections):
    return {section.title: section for section in sections}


def test_every_figure_is_on_the_page_and_beside_it(workdir, sections):
    assert list(drawings(sections)) == FIGURES
    report = write_report(workdir, sections)
    assert report.stat().st_size < 2e6
    html = report.read_text()
    identities = re.findall(r'\bid="([^"]*)"', html)
    assert len(identities) == len(set(identities))
    assert not re.search(r'(?:src|href)="(?!#|data:image/)', html)
    for name in [*FIGURES, "curves", "ensemble", "throughput"]:
        assert f'id="{name}-' in html
        with Image.open(workdir / "figures" / f"{name}.png") as picture:
            assert picture.width == pytest.approx(style.WIDTH * style.PIXELS, rel=0.05)
        assert (workdir / "figures" / f"{name}.svg").stat().st_size > 1000
    assert "python -m experiments.report" not in html


def test_what_the_sections_say_of_a_finished_run_is_what_was_logged(workdir, sections):
    titled, stored = by_title(sections), Answers(**run.load_predictions(workdir))
    wrong = int((stored.ensemble_answer != stored.label).sum())
    assert words(titled["Confusions"]).startswith(f"{wrong} of 360 test images are classified wrongly")
    assert sum(int(row[2]) for row in table(titled["Confusions"])) <= wrong
    assert [row[0] for row in table(titled["Calibration"])] == ["seed=0", "seed=1", "ensemble"]
    assert [row[0] for row in table(titled["Activations"])] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    assert "6 of 1,257 training images" in words(titled["Nearest neighbours"])
    assert "5 x 5 pixels at stride 1" in words(titled["First-layer filters"])
    assert "rotation 10 degrees, shift 0.1." in words(titled["Augmentation"])


def test_the_surest_mistakes_are_shown_with_their_pictures(workdir, sections):
    stored = Answers(**run.load_predictions(workdir))
    wrong = np.flatnonzero(stored.ensemble_answer != stored.label)
    surest = wrong[stored.ensemble_confidence[wrong].argmax()]
    first = drawings(sections)["mistakes"].axes[0]
    example = data.load(run.load(workdir).config.data).source("test")[surest]
    np.testing.assert_array_equal(first.images[0].get_array().reshape(28, 28, 1), example["image"])
    label, answer = (text.get_text() for text in first.texts)
    assert label == str(example["label"])
    assert answer == f"{stored.ensemble_answer[surest]} {100 * stored.ensemble_confidence[surest]:.1f} %"


def test_where_the_dataset_is_gone_the_rest_is_made(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    config.write_text(re.sub(r'"dir": ".*?"', f'"dir": "{tmp_path}/nowhere"', config.read_text()).replace('"digits"', '"photographs"'))
    found = network_sections(tmp_path / "run")
    assert list(by_title(found)) == ["First-layer filters", "Confusions", "Calibration", "Left out"]
    assert f"Every section that needs the dataset is left out: no dataset at {tmp_path}/nowhere" in words(found[-1])
    (tmp_path / "run" / run.PREDICTIONS).unlink()
    assert list(by_title(network_sections(tmp_path / "run"))) == ["First-layer filters", "Left out"]


def test_without_a_checkpoint_one_line_says_so(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    (found,) = network_sections(tmp_path / "run")
    assert "has no checkpoint yet" in words(found)


def test_an_unfinished_run_is_asked_about_the_validation_split(workdir, tmp_path, monkeypatch):
    shutil.copytree(workdir, tmp_path / "run")
    with RunLog(tmp_path / "run", 15) as log:
        log.event("resume", 15)
    asked = []
    monkeypatch.setattr(network.evaluate, "predict_run", lambda _, split, **__: asked.append(split) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        network_sections(tmp_path / "run")
    assert asked == ["validation"]


def test_diverged_members_are_left_out(workdir, monkeypatch):
    loaded = run.load(workdir)

    def load_with_nan(*lost):
        def spoil(leaf):
            return np.where(np.isin(np.arange(2), lost).reshape(2, *[1] * (leaf.ndim - 1)), np.nan, leaf)

        return lambda *_: loaded._replace(state=dataclasses.replace(loaded.state, params=jax.tree.map(spoil, loaded.state.params)))

    monkeypatch.setattr(run, "load", load_with_nan(0))
    titled = by_title(network_sections(workdir))
    assert words(titled["First-layer filters"]).startswith("The 4 filters of seed=1 after 16 steps")
    assert "filters-1" not in drawings(titled.values())
    assert table(titled["Calibration"])[0] == ("seed=0", "nan %")
    assert "dot" not in words(titled["Activations"])  # one member is left
    monkeypatch.setattr(run, "load", load_with_nan(0, 1))
    (found,) = network_sections(workdir)
    assert "every member has diverged" in words(found)


def test_an_ensemble_without_mistakes_shows_where_it_is_least_sure(workdir, monkeypatch):
    loaded = run.load(workdir)
    dataset = data.load(loaded.config.data)
    label = np.array([dataset.source("test")[i]["label"] for i in range(360)])
    answers = Answers(label, label[None], np.linspace(0.5, 1, 360)[None], label, np.linspace(0.5, 1, 360))
    subject = network.Subject(loaded, 0, dataset, "test", network.metrics.Predictions(label, np.zeros((1, 360, 10)), ["seed=0"]))
    section = network.mistakes_section(subject, answers)
    assert section.title == "Least confident answers"
    axes = section.blocks[1].figure.axes
    assert axes[0].texts[1].get_text() == f"{label[0]} 50.0 %"
    assert axes[0].texts[1].get_color() == style.INK
    assert "All 360 answers of the network are right" in words(section)


def test_many_classes_have_a_table_of_confusions_and_no_matrix():
    label = np.arange(60, dtype=np.int32) % 50
    answer = np.where(label == 7, 3, label)
    classes = tuple(f"class {i}" for i in range(50))
    section = network.confusion_section(Answers(label, answer[None], np.ones((1, 60)), answer, np.ones(60)), classes, "test")
    assert table(section) == [("class 7", "class 3", "2", "100.0 %")]
    assert drawings([section]) == {}


@style.any_script()
def test_class_names_in_any_script_are_text_and_nothing_else(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    names = (HOSTILE, "long " * 20, "宠物\nx")
    top = [{"label": name, "index": i, "probability": 0.3} for i, name in enumerate(names)]
    figures = {
        "bars": bars_figure([Bars(image, HOSTILE, top, right=1)], 4, 1.3, 9),
        "mistakes": pictures.mistakes_figure([pictures.Mistake(image, names[0], names[1], 0.5)]),
        "neighbours": pictures.neighbours_figure([[(image, name) for name in names]], HOSTILE),
        "confusion": charts.confusion_figure(np.arange(9).reshape(3, 3), names),
    }
    blocks = [page.Drawing(name, figure, HOSTILE) for name, figure in figures.items()]
    sections = [page.Section(HOSTILE, [*blocks, page.Table([HOSTILE], [[HOSTILE]]), page.Folded(HOSTILE, [page.Code(HOSTILE)])])]
    page.write_figures(tmp_path / "figures", sections)
    page.write_page(tmp_path / "page.html", HOSTILE, HOSTILE, HOSTILE, sections)
    html = (tmp_path / "page.html").read_text()
    assert "<script" not in html
    assert "$\\frac$ 中国" in html
    assert html.count("data:image/jpeg") == 5  # photographs; a tenth of a PNG


def test_filters_are_divided_by_their_largest_weight():
    kernels = np.zeros((5, 5, 3, 12), np.float32)
    kernels[0, 0, :, 0] = (2, -4, 0)
    (axes,) = pictures.filters_figure(kernels).axes
    shown = axes.images[0].get_array()
    assert shown.shape == (11, 35, 4)  # two rows of six, a pixel between them
    np.testing.assert_allclose(shown[0, 0], (0.75, 0, 0.5, 1))
    np.testing.assert_allclose(shown[1, 1], (0.5, 0.5, 0.5, 1))
    assert shown[0, 5, 3] == 0


def test_the_right_answer_is_blue_and_a_wrong_first_one_red():
    top = [{"label": str(i), "index": i, "probability": p} for i, p in enumerate((0.6, 0.3, 0.1))]
    image = np.zeros((4, 4, 1), np.uint8)

    def colours(right):
        bars = bars_figure([Bars(image, "", top, right)], 1).axes[1].containers[1]
        return [style.COLOURS.index(next(c for c in style.COLOURS if tuple(bar.get_facecolor()[:3]) == rgb(c))) for bar in bars]

    def rgb(colour):
        return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))

    right, wrong, other = (style.COLOURS.index(colour) for colour in (style.RIGHT, style.WRONG, style.OTHER))
    assert colours(None) == [right, other, other]
    assert colours(0) == [right, other, other]
    assert colours(2) == [wrong, other, right]
    assert colours(7) == [wrong, other, other]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_page_within_its_width(workdir, sections, tmp_path):
    report = write_report(workdir, sections)
    script = "onload = () => document.title = [document.documentElement.scrollWidth, document.querySelectorAll('svg').length].join(' ')"
    (tmp_path / "page.html").write_text(report.read_text().replace("</body>", f"<script>{script}</script></body>"))
    browser = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--window-size=500,900"]
    dom = subprocess.run([*browser, "--dump-dom", f"file://{tmp_path}/page.html"], capture_output=True, text=True, check=True).stdout
    width, figures = map(int, re.search(r"<title>(\d+) (\d+)</title>", dom).groups())
    assert width <= 500
    assert figures == len(FIGURES) + 3  # and curves, ensemble, throughput
    subprocess.run([*browser, f"--print-to-pdf={tmp_path}/page.pdf", f"file://{report}"], capture_output=True, check=True)
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
