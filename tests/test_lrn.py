"""LRN under the microscope: its counts are plain numpy's, and its changes are those of the constants that they name."""

import dataclasses

import jax
import numpy as np
import pytest

from alexnet_jax import evaluate
from alexnet_jax.errors import UserError
from alexnet_jax.subject import ENSEMBLE, open_dataset, open_networks
from experiments.lrn import changes, figures, measure
from experiments.lrn.__main__ import main


@pytest.fixture(scope="module")
def subject(untrained_run):
    return open_networks(untrained_run, ENSEMBLE, "last")


def test_counts_and_shares_are_those_of_plain_numpy(subject):
    source = open_dataset(subject, None).source("test[:70]")  # not a multiple of the batch of 64
    layers = measure.measure(subject, source)
    assert [layer.name for layer in layers] == ["norm1", "norm2"]
    images = source.gather(np.arange(70))["image"]
    params, hyper = jax.tree.map(lambda leaf: leaf[1], (subject.params, subject.hyper))
    views = np.stack([subject.views(image)[1] for image in images])
    _, kept = jax.jit(lambda views: subject.model.apply({"params": params}, views, hyper, mutable=["intermediates"]))(views)
    weight = hyper.lrn_alpha * subject.model.arch.pixel_scale**2
    for layer, (x, _) in zip(layers, kept["intermediates"]["lrn"], strict=True):
        x = np.asarray(x, np.float64)
        squares = weight * np.pad(x**2, [(0, 0)] * 3 + [(2, 2)])
        filters = x.shape[-1]
        divisor = hyper.lrn_k + sum(squares[..., i : i + filters] for i in range(5))
        change, active = 1 - (hyper.lrn_k / divisor) ** hyper.lrn_beta, x != 0
        assert layer.counts[1].sum() == active.sum()
        for mark in (*measure.MARKS, 0.1):
            assert layer.share(mark)[1] == pytest.approx((change[active] > mark).mean(), abs=1e-4)
        i, j = 2, 3
        expected = (squares[..., j + 2] / divisor[..., i])[active[..., i]].mean() if active[..., i].any() else 0
        assert layer.inhibition[1, i, j] == pytest.approx(expected, rel=1e-4)
        distance = np.abs(np.subtract.outer(np.arange(filters), np.arange(filters)))
        assert (layer.inhibition[:, distance > 2] == 0).all()
        assert layer.inhibition.max() > 0


def test_changes_move_the_constants_that_they_name(subject):
    by_name = {change.name: change for change in changes.all_changes(subject)}
    assert by_name["constant"].hyper.lrn_k.tolist() == [2, 2]
    assert by_name["constant"].hyper.lrn_alpha.tolist() == [0, 0]
    assert by_name["off"].hyper.lrn_k.tolist() == [1, 1]
    np.testing.assert_allclose(by_name["alpha_times_10"].hyper.lrn_alpha, 1e-3)
    assert by_name["beta_1"].hyper.lrn_beta.tolist() == [1, 1]
    assert (by_name["size_1"].size, by_name["size_9"].size) == (1, 9)


def test_errors_as_trained_are_those_of_evaluate(subject, untrained_run):
    source, (trained, _, off, *_) = open_dataset(subject, None).source("test"), changes.all_changes(subject)
    predictions, _ = evaluate.predict_run(untrained_run, "test")
    expected = (predictions.log_probs.argmax(-1) != predictions.labels).mean(1)
    np.testing.assert_allclose(changes.errors(subject, source, trained), expected)
    strong = trained._replace(hyper=trained.hyper.replace(lrn_alpha=1e4 * trained.hyper.lrn_alpha))
    without = changes.errors(subject, source, off)
    assert (changes.errors(subject, source, strong) != without).any()  # or the errors could not tell


@pytest.mark.slow
def test_the_page(untrained_run, tmp_path, capsys, monkeypatch):
    def three(subject):
        return all_changes(subject)[:3]

    all_changes = changes.all_changes
    monkeypatch.setattr(changes, "all_changes", three)
    main(["--run", str(untrained_run), "--split", "test[:64]", "--retrain", "0.1", "--note", "untrained networks", "--out", str(tmp_path)])
    out = " ".join(capsys.readouterr().out.split())
    assert "n = 5, k = 2, alpha = 0.0001, beta = 0.75" in out
    assert "after retraining, on test" in out
    assert "In norm1, LRN changes" in out
    assert {path.name for path in (tmp_path / "retrained").iterdir()} == {"as_trained", "constant", "off"}
    assert len(list((tmp_path / "figures").glob("*.svg"))) == 3
    for other, said in (
        (["0.2"], r"was trained on for 0\.1 epochs, now it is 0\.2; use another --out"),
        (["0.1", "--rate", "1"], "now it is"),
    ):
        with pytest.raises(UserError, match=said):
            main(["--run", str(untrained_run), "--split", "test[:64]", "--out", str(tmp_path), "--retrain", *other])
    assert (tmp_path / "lrn.html").read_text().count(">untrained networks") == 1 + 3  # the headline, and every figure


def test_the_errors_fill_their_figure():
    def limits(*errors, after=None):
        return figures.errors_figure(["as trained", "off"], [np.array(each) for each in errors], after).axes[0].get_xlim()

    assert limits([0.5, 0.6], [0.7, 0.8]) == pytest.approx((50 / 1.2, 80 * 1.2))
    assert limits([0.0, 0.01], [0.7, 0.8]) == pytest.approx((0, 80 * 1.2))  # a logarithm has no 0
    assert limits([0.5], [0.6], after=[np.array([0.2]), np.array([0.9])]) == pytest.approx((20 / 1.2, 90 * 1.2))


def test_a_network_without_lrn_is_said(subject):
    arch = dataclasses.replace(subject.run.network.model.arch, lrn=False)
    without = subject._replace(run=subject.run._replace(network=subject.run.network._replace(model=subject.model.clone(arch=arch))))
    with pytest.raises(UserError, match=r"has no LRN \(model.lrn is off\)"):
        measure.measure(without, open_dataset(subject, None).source("test[:8]"))
