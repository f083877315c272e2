"""The report's sections that explain the networks, and that they are left out where they can't be made."""

import shutil
from pathlib import Path

import pytest

from alexnet_jax import data, metrics, run
from alexnet_jax import evaluate as evaluate_lib
from alexnet_jax.report import compare, network, write
from alexnet_jax.report.page import drawings
from experiments.report import __main__ as report
from experiments.report import explained


@pytest.mark.slow
def test_an_unfinished_run_has_no_mistakes(untrained_run, monkeypatch):
    monkeypatch.setattr(explained, "SAMPLE", 64)
    sections = explained.explained_sections(untrained_run)
    assert [section.title for section in sections] == ["What LRN does", "What excites a filter"]
    (drawing,) = (found for section in sections for found in drawings(section.blocks))
    assert "test[:64]" in drawing.alt


def test_mistakes_are_the_ensembles_and_their_maps_are_shown(untrained_run):
    predictions, _ = evaluate_lib.predict_run(untrained_run, "test")
    subject = explained.open_networks(untrained_run, None, "last")
    dataset = data.load(run.load(untrained_run).config.data)
    section = explained.mistakes_section(subject, dataset, explained.Answers(**metrics.answers(predictions)))
    assert section.title == "Why the most confident mistakes"
    (drawing,) = drawings(section.blocks)
    assert drawing.alt.count("why ") == explained.MISTAKES
    bold = [text.get_text() for axes in drawing.figure.axes for text in axes.texts if text.get_weight() == "bold"]
    assert len(bold) == explained.MISTAKES
    assert not any(name.startswith("why ") for name in bold)


def test_a_lost_console_loses_no_report(monkeypatch, lost_stdout):
    asked = []
    for module in (network, explained):
        monkeypatch.setattr(module, f"{module.__name__.rpartition('.')[2]}_sections", lambda _: [])
    monkeypatch.setattr(write, "write_report", lambda workdir, _: asked.append(workdir) or Path(__file__))
    monkeypatch.setattr(compare, "write_comparison", lambda workdirs, _: asked.append(workdirs) or Path(__file__))
    with lost_stdout():
        report.main(["one", "two"])
    assert asked == [Path("one"), Path("two"), [Path("one"), Path("two")]]


def test_without_a_checkpoint_there_are_none(untrained_run, tmp_path):
    shutil.copytree(untrained_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    assert explained.explained_sections(tmp_path / "run") == []
