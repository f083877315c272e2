import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax import evaluate, metrics
from alexnet_jax.errors import UserError

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 8, 203).astype(np.int32)


def log_softmax(scores):
    return (scores - np.logaddexp.reduce(scores, -1, keepdims=True)).astype(np.float32)


LOG_PROBS = log_softmax(RNG.normal(size=(5, 203, 8)) + 2 * (np.arange(8) == LABELS[:, None]))
PREDICTIONS = metrics.Predictions(LABELS, LOG_PROBS, [f"seed={i}" for i in range(5)])


def test_summary_against_plain_numpy():
    result = metrics.summarise(PREDICTIONS)
    errors = (LOG_PROBS.argmax(-1) != LABELS).mean(1)
    assert result["top1_error"] == pytest.approx(errors.tolist())
    top5 = (np.argsort(-LOG_PROBS, -1)[..., :5] == LABELS[:, None]).any(-1)
    assert result["top5_error"] == pytest.approx((1 - top5.mean(1)).tolist())
    assert result["nll"] == pytest.approx((-LOG_PROBS[:, np.arange(203), LABELS]).mean(1).tolist(), rel=1e-5)
    assert result["mean_top1_error"] == pytest.approx(errors.mean())
    assert result["std_top1_error"] == pytest.approx(errors.std(ddof=1))
    ensemble = (np.exp(LOG_PROBS).mean(0).argmax(-1) != LABELS).mean()
    assert result["ensemble_top1_error"] == pytest.approx(ensemble)
    assert ensemble < errors.mean()
    assert result["relative_cut"] == pytest.approx(1 - ensemble / errors.mean())
    answers = LOG_PROBS.argmax(-1)
    assert result["disagreement"] == pytest.approx(np.mean([np.mean(answers[i] != answers[j]) for i in range(5) for j in range(i)]))
    assert result["geometric_top1_error"] == pytest.approx((LOG_PROBS.sum(0).argmax(-1) != LABELS).mean())
    json.dumps(result)


def test_a_diverged_member_counts_neither_in_the_mean_nor_in_the_ensemble():
    lost = np.concatenate([LOG_PROBS, np.full_like(LOG_PROBS[:1], np.nan)])
    result, healthy = metrics.summarise(metrics.Predictions(LABELS, lost, [*"abcdef"])), metrics.summarise(PREDICTIONS)
    assert result["diverged"] == ["f"]
    assert result["top1_error"][-1] == 1
    assert result["ensemble_top1_error"] == healthy["ensemble_top1_error"]
    assert result["curve"] == healthy["curve"]
    assert result["relative_cut"] == pytest.approx(healthy["relative_cut"])
    for name in ("mean_top1_error", "std_top1_error", "disagreement"):
        assert result[name] == pytest.approx(healthy[name])
    everyone = metrics.summarise(metrics.Predictions(LABELS, np.full_like(LOG_PROBS, np.nan), [*"abcde"]))
    assert everyone["ensemble_top1_error"] == 1


def test_curve_is_the_mean_over_all_subsets():
    curve = metrics.ensemble_curve(LABELS, LOG_PROBS)
    assert [row["members"] for row in curve] == [1, 2, 3, 4, 5]
    assert [row["subsets"] for row in curve] == [math.comb(5, k) for k in range(1, 6)]
    pairs = [(np.exp(LOG_PROBS[list(pair)]).mean(0).argmax(-1) != LABELS).mean() for pair in itertools.combinations(range(5), 2)]
    assert curve[1]["top1_error"] == pytest.approx(np.mean(pairs))
    assert curve[1]["std"] == pytest.approx(np.std(pairs, ddof=1))
    assert curve[0]["top5_error"] == pytest.approx(np.mean(metrics.summarise(PREDICTIONS)["top5_error"]))


def test_curve_of_many_members_samples_subsets():
    curve = metrics.ensemble_curve(LABELS, np.concatenate([LOG_PROBS] * 3))
    assert [row["subsets"] for row in curve][:3] == [15, 100, 100]
    assert curve[-1]["subsets"] == 1


def test_curve_of_much_data_samples_fewer_subsets(monkeypatch):
    monkeypatch.setattr(metrics, "WORK", 20 * 5 * LOG_PROBS.size * 9)
    curve = metrics.ensemble_curve(LABELS, np.concatenate([LOG_PROBS] * 3))
    assert [row["subsets"] for row in curve][:3] == [15, 20, 20]


def test_calibration_error_of_known_cases():
    labels = np.array([0, 0, 0, 1])
    three_of_four = np.log(np.float32([[0.75, 0.25]] * 4))
    assert metrics.calibration_error(labels, three_of_four) == pytest.approx(0, abs=1e-6)
    assert metrics.calibration_error(labels, np.log(np.float32([[0.95, 0.05]] * 4))) == pytest.approx(0.2, abs=1e-6)


def batches(count, batch_size, examples):
    for start in range(0, count, batch_size):
        index = np.arange(start, start + batch_size)
        mask = index < examples
        yield {"image": np.where(mask, index, 0), "label": LABELS[np.where(mask, index, 0)], "index": index, "mask": mask}


@pytest.mark.parametrize("batch_size", [10, 203, 64])
def test_predict_split_sees_every_example_once(batch_size):
    predictions = metrics.predict_split(lambda image: LOG_PROBS[:, image], batches(203, batch_size, 203), 203, PREDICTIONS.member_names)
    assert np.array_equal(predictions.log_probs, LOG_PROBS)
    assert np.array_equal(predictions.labels, LABELS)


def test_missing_examples_are_noticed():
    with pytest.raises(RuntimeError, match="saw 200 examples of a split of 203"):
        metrics.predict_split(lambda image: LOG_PROBS[:, image], batches(200, 10, 203), 203, [])
    with pytest.raises(RuntimeError, match="saw 200 examples of a split of 203"):
        metrics.sum_over_split(lambda batch: {"count": batch["mask"].sum()}, batches(200, 10, 203), 203)


def test_sum_over_split():
    def eval_step(batch):
        return {"count": batch["mask"].sum(), "loss": (batch["label"] * batch["mask"]).sum() * np.ones(2), "top1_errors": np.zeros(2)}

    result = metrics.sum_over_split(eval_step, batches(203, 64, 203), 203)
    assert result["count"] == 203
    np.testing.assert_allclose(result["loss"], LABELS.mean())
    assert set(result) == {"count", "loss", "top1_error"}
    assert metrics.sum_over_split(eval_step, batches(203, 64, 203), 203, stop=lambda: True) is None


def test_combine_runs(tmp_path):
    two = PREDICTIONS._replace(log_probs=LOG_PROBS[:2, ::-1], member_names=["a", "b"])
    both = evaluate.combine([(tmp_path / "five", PREDICTIONS), (tmp_path / "two", two)])
    assert both.log_probs.shape == (7, 203, 8)
    assert both.member_names[-1] == "two: b"
    other = PREDICTIONS._replace(labels=LABELS[::-1])
    with pytest.raises(UserError, match="can't form one ensemble"):
        evaluate.combine([(tmp_path / "five", PREDICTIONS), (tmp_path / "other", other)])


PROTOCOL = {
    "dataset": "pets",
    "digest": "a",
    "split": "test",
    "step": 7,
    "views": 1,
    "input_size": 28,
    "stored_size": 32,
    "resize": "warp",
    "averaging": "softmax",
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset": "flowers"}, "two and one can't form one ensemble: one is of the dataset flowers, the other of pets"),
        ({"digest": "b"}, "two and one can't form one ensemble: the dataset pets of one has other classes or images; name one of them"),
    ],
)
def test_runs_on_different_datasets_are_no_ensemble_though_their_labels_are_equal(tmp_path, changed, message):
    two = PREDICTIONS._replace(log_probs=LOG_PROBS[:, ::-1])
    parts = [(Path("one"), PREDICTIONS, PROTOCOL), (Path("two"), two, PROTOCOL | changed)]
    with pytest.raises(UserError, match=message):
        evaluate._conclude([Path("one"), Path("two")], parts, tmp_path / "result.json")
    assert not list(tmp_path.iterdir())


def test_each_run_keeps_its_protocol_where_they_differ(tmp_path, capsys):
    two = PREDICTIONS._replace(log_probs=LOG_PROBS[:, ::-1])
    parts = [(Path("one"), PREDICTIONS, PROTOCOL), (Path("two"), two, PROTOCOL | {"input_size": 24})]
    evaluate._conclude([Path("one"), Path("two")], parts, tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["protocol"] == {name: value for name, value in PROTOCOL.items() if name != "input_size"}
    assert result["protocols"] == [{"input_size": 28}, {"input_size": 24}]
    assert capsys.readouterr().out.splitlines()[:3] == [
        "pets test, 203 examples",
        "one: centre crop of 28 from 32 pixels",
        "two: centre crop of 24 from 32 pixels",
    ]
    evaluate._conclude([Path("one"), Path("two")], [parts[0], (Path("two"), two, PROTOCOL)], tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["protocol"] == PROTOCOL
    assert "protocols" not in result
    assert capsys.readouterr().out.startswith("pets test, 203 examples, centre crop of 28 from 32 pixels\n")


def test_a_lost_console_loses_no_result(lost_stdout, tmp_path):
    with lost_stdout():
        evaluate._conclude([Path("one")], [(Path("one"), PREDICTIONS, PROTOCOL)], tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text())["count"] == 203


@pytest.mark.parametrize("file", ["no/such/x.json", "."])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, file):
    with pytest.raises(UserError, match=r"cannot write .*: it is a folder, or its folder doesn't exist"):
        evaluate.main(["--run", "nowhere", "--json", str(tmp_path / file)])


def test_the_same_network_in_two_runs_is_refused(tmp_path):
    """As where a run is named twice, was copied, or was trained again with the same seed."""
    names = PREDICTIONS.member_names
    again = PREDICTIONS._replace(log_probs=LOG_PROBS[2:3], member_names=["seed=2"])
    for other in (tmp_path / "five", tmp_path / "again"):
        with pytest.raises(UserError, match=rf"{names[2]} of .*five and seed=2 of {other} give the same answers: .* would count as two"):
            evaluate.combine([(tmp_path / "five", PREDICTIONS), (other, again)])


def test_table_reads_in_percent():
    text = evaluate.table(metrics.summarise(PREDICTIONS))
    errors = (LOG_PROBS.argmax(-1) != LABELS).mean(1)
    assert f"{100 * errors[3]:.2f}%" in text.splitlines()[4]
    assert "relative cut" in text
    assert "ensemble" not in evaluate.table(metrics.summarise(PREDICTIONS._replace(log_probs=LOG_PROBS[:1], member_names=["seed=0"])))
