"""Errors, calibration and ensembles of predictions.

The compiled steps call `is_error` with JAX arrays. The loop, evaluate.py and the report call the rest with numpy arrays:

    result = summarise(predictions)
    result["mean_top1_error"], result["ensemble_top1_error"]    # fractions, such as 0.0103
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np


def is_error(scores: Any, labels: Any, k: int) -> Any:
    """Whether the label is not among the k best scores: (..., N, classes), (N,) -> bool (..., N).

    The label's rank counts the classes with a higher score and, among equal scores, the classes before it. So a network that gives all
    classes the same score is right for one class, not for all. A NaN as the label's score is an error.
    """
    xp = scores.__array_namespace__()
    index = xp.broadcast_to(labels, scores.shape[:-1])[..., None]
    at_label = xp.take_along_axis(scores, index, axis=-1)
    before = xp.arange(scores.shape[-1]) < labels[:, None]
    rank = xp.sum((scores > at_label) | ((scores == at_label) & before), axis=-1)
    return (rank >= k) | xp.isnan(at_label[..., 0])


SUBSETS = 100  # of each size in the ensemble curve; drawn at random if there are more
FEW_SUBSETS, WORK = 10, 10**11  # fewer, but at least FEW_SUBSETS, if they would take more than WORK additions (minutes)
BINS = 15  # bins of confidence for the calibration error


class Predictions(NamedTuple):
    """Predictions of M networks for N examples."""

    labels: np.ndarray  # int32 (N,)
    log_probs: np.ndarray  # float32 (M, N, classes)
    member_names: list[str]


def answers(predictions: Predictions) -> dict[str, np.ndarray]:
    """The likeliest class and its probability: what a run stores of its predictions.

    Returns:
      `label` int32 (N,); of the networks `answer` int32 and `confidence` float32 (M, N); of their ensemble `ensemble_answer` and
      `ensemble_confidence` (N,).
    """
    labels, log_probs, _ = predictions
    both = {"": log_probs, "ensemble_": average(voting(log_probs))}
    found: dict[str, np.ndarray] = {"label": labels}
    for name, values in both.items():
        found |= {f"{name}answer": values.argmax(-1).astype(np.int32), f"{name}confidence": np.exp(values.max(-1)).astype(np.float32)}
    return found


def voting(log_probs: np.ndarray) -> np.ndarray:
    """The log-probabilities (M, N, classes) of the members in the ensemble: those without a NaN, or the first if all have one."""
    diverged = np.isnan(log_probs).any(axis=(1, 2))
    if not diverged.any():
        return log_probs  # not copied: for many networks on ImageNet this is gigabytes
    return log_probs[~diverged] if not diverged.all() else log_probs[:1]


def sum_over_split(eval_step: Callable, batches: Iterable[dict], examples: int, stop: Callable[[], bool] = lambda: False) -> dict | None:
    """Add up `eval_step(batch)` over a split.

    Returns:
      `count`, and the means `loss`, `top1_error`, `top5_error` (M,) and `ensemble_top1_error`; None if `stop()` was true before a batch.

    Raises:
      RuntimeError: the batches didn't hold every example once.
    """
    totals: dict[str, Any] = {}
    for batch in batches:
        if stop():
            return None
        totals = {name: np.asarray(value, np.float64) + totals.get(name, 0) for name, value in eval_step(batch).items()}
    count = int(totals.pop("count"))
    if count != examples:
        raise RuntimeError(f"evaluation saw {count} examples of a split of {examples}")
    return {"count": count, **{name.replace("errors", "error"): value / count for name, value in totals.items()}}


def predict_split(log_probs: Callable, batches: Iterable[dict], examples: int, member_names: list[str]) -> Predictions:
    """The predictions for a whole split, with `log_probs(images) -> (M, B, classes)`.

    Raises:
      RuntimeError: the batches didn't hold every example once, in order.
    """
    parts = [(batch["label"][m], batch["index"][m], log_probs(batch["image"])[:, m]) for batch in batches if (m := batch["mask"]).any()]
    labels, indices, predicted = (np.concatenate(column, axis) for column, axis in zip(zip(*parts, strict=True), (0, 0, 1), strict=True))
    if not np.array_equal(indices, np.arange(examples)):
        raise RuntimeError(f"evaluation saw {len(indices)} examples of a split of {examples}, or not each once")
    return Predictions(labels, predicted, member_names)


def summarise(predictions: Predictions) -> dict[str, Any]:
    """The errors, likelihood and calibration of all members and of their ensemble. Errors are fractions.

    A member that has diverged (NaN) errs on every example. The ensemble leaves it out, and so do all figures about several members, unless
    all have diverged.

    Returns:
      `count`, `members`, `diverged` (names); per member `top1_error`, `top5_error`, `nll` (nats), `ece`; `mean_top1_error` and
      `std_top1_error`, the mean and the standard deviation over members; `ensemble_...` of each; `relative_cut`, the fraction of the mean
      error that the ensemble removes; `disagreement`, the fraction of examples on which two members differ, the mean over pairs; `curve`,
      a row for each ensemble size; `geometric_top1_error`, the error of the ensemble that averages log-probabilities.
    """
    labels, log_probs, names = predictions
    diverged = np.isnan(log_probs).any(axis=(1, 2))
    voters = voting(log_probs)
    each = [figures(labels, member) for member in log_probs]
    ensemble = figures(labels, average(voters))
    top1 = np.array([top_k_error(labels, voter, 1) for voter in voters])
    pairs = [np.mean(one != other) for one, other in itertools.combinations(voters.argmax(-1), 2)]
    return {
        "count": len(labels),
        "members": names,
        "diverged": [name for name, lost in zip(names, diverged, strict=True) if lost],
        **{name: [row[name] for row in each] for name in ensemble},
        "mean_top1_error": float(top1.mean()),
        "std_top1_error": float(top1.std(ddof=1)) if len(top1) > 1 else 0.0,
        **{f"ensemble_{name}": value for name, value in ensemble.items()},
        "relative_cut": float(1 - ensemble["top1_error"] / top1.mean()) if top1.any() else 0.0,
        "geometric_top1_error": top_k_error(labels, voters.mean(0), 1),
        "disagreement": float(np.mean(pairs)) if pairs else 0.0,
        "curve": ensemble_curve(labels, voters),
    }


def figures(labels: np.ndarray, log_probs: np.ndarray) -> dict[str, float]:
    """`top1_error`, `top5_error`, `nll` (nats) and `ece` of one network's log-probabilities (N, classes)."""
    return {
        "top1_error": top_k_error(labels, log_probs, 1),
        "top5_error": top_k_error(labels, log_probs, 5),
        "nll": float(-np.mean(np.take_along_axis(log_probs, labels[:, None], 1), dtype=np.float64)),
        "ece": calibration_error(labels, log_probs),
    }


def top_k_error(labels: np.ndarray, scores: np.ndarray, k: int) -> float:
    """The fraction of examples whose label isn't among the k best scores (N, classes)."""
    return float(np.mean(is_error(scores, labels, k)))


def calibration_error(labels: np.ndarray, log_probs: np.ndarray) -> float:
    """Expected calibration error (Guo et al., 2017) of log-probabilities (N, classes); NaN if one of them is NaN."""
    return reliability(np.exp(log_probs.max(1)), log_probs.argmax(1) == labels).ece


class Reliability(NamedTuple):
    """A network's answers in `BINS` equal bins of confidence. Arrays (B,); empty bins are left out."""

    confidence: np.ndarray  # mean of each bin
    accuracy: np.ndarray  # mean of each bin
    counts: np.ndarray  # answers in each bin

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean of |accuracy - confidence|, weighted by the counts; NaN without bins."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.counts)) if len(self.counts) else float("nan")


def reliability(confidence: np.ndarray, correct: np.ndarray) -> Reliability:
    """How often answers are right, by their confidence (N,). There are no bins if a confidence is NaN."""
    if np.isnan(confidence).any():
        return Reliability(np.zeros(0), np.zeros(0), np.zeros(0))
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    held = count > 0
    means = [np.bincount(bins, values, minlength=BINS)[held] / count[held] for values in (confidence, correct)]
    return Reliability(means[0], means[1], count[held])


def average(log_probs: np.ndarray) -> np.ndarray:
    """The log of the mean probability over members: (M, N, classes) -> (N, classes)."""
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return np.logaddexp.reduce(log_probs, axis=0) - np.log(len(log_probs))


def ensemble_curve(labels: np.ndarray, log_probs: np.ndarray) -> list[dict[str, float]]:
    """Errors of ensembles of 1 to M members, from labels (N,) and log-probabilities (M, N, classes).

    Each row is the mean over all subsets of a size, or over at most `SUBSETS` random ones; `std` is the standard deviation of the top-1
    error over these subsets.
    """
    members, rng = len(log_probs), np.random.default_rng(0)
    probs, most = np.exp(log_probs), max(FEW_SUBSETS, min(SUBSETS, WORK // (members * log_probs.size)))
    rows = []
    for size in range(1, members + 1):
        subsets = list(itertools.islice(itertools.combinations(range(members), size), most + 1))
        if len(subsets) > most:
            subsets = [tuple(rng.choice(members, size, replace=False)) for _ in range(most)]
        averages = (functools.reduce(np.add, (probs[member] for member in subset)) / size for subset in subsets)
        top1, top5 = zip(*([top_k_error(labels, scores, k) for k in (1, 5)] for scores in averages), strict=True)
        errors = {
            "top1_error": float(np.mean(top1)),
            "top5_error": float(np.mean(top5)),
            "std": float(np.std(top1, ddof=1)) if len(top1) > 1 else 0.0,
        }
        rows.append({"members": size, "subsets": len(subsets), **errors})
    return rows
