"""What can be read from the answers of M networks and of their ensemble to N examples: confusions, mistakes, calibration. Pure numpy."""

from typing import NamedTuple

import numpy as np

from alexnet_jax.metrics import BINS


class Answers(NamedTuple):
    """The likeliest class and its probability, for each network and for their ensemble: what `metrics.answers` gives."""

    label: np.ndarray  # int32 (N,)
    answer: np.ndarray  # int32 (M, N)
    confidence: np.ndarray  # float32 (M, N); NaN for a network that has diverged
    ensemble_answer: np.ndarray  # int32 (N,)
    ensemble_confidence: np.ndarray  # float32 (N,)


class Reliability(NamedTuple):
    """A network's answers in `BINS` equal bins of confidence, those alone that hold any (B,)."""

    confidence: np.ndarray  # the mean in each bin
    accuracy: np.ndarray
    counts: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: |accuracy - confidence|, weighted by the counts."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.counts)) if len(self.counts) else float("nan")


def confusion_matrix(label: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """int (classes, classes): how many examples of each class (row) were given each answer (column)."""
    return np.bincount(label.astype(np.int64) * classes + answer, minlength=classes**2).reshape(classes, classes)


def most_confused(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """(class, answer, how often) of the commonest confusions, at most `count`."""
    errors = matrix - np.diag(np.diag(matrix))
    places = np.argsort(-errors, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(places, matrix.shape)
    return [(int(r), int(c), int(errors[r, c])) for r, c in zip(rows, columns, strict=True) if errors[r, c]]


def confident_mistakes(answers: Answers, count: int) -> np.ndarray:
    """Indices of the ensemble's wrong answers, the most confident first."""
    wrong = np.flatnonzero(answers.ensemble_answer != answers.label)
    return wrong[np.argsort(-answers.ensemble_confidence[wrong], kind="stable")][:count]


def unsure(answers: Answers, count: int) -> np.ndarray:
    """Indices of the ensemble's least confident answers, the least confident first."""
    return np.argsort(answers.ensemble_confidence, kind="stable")[:count]


def reliability(confidence: np.ndarray, correct: np.ndarray) -> Reliability:
    """How often answers are right, by how confident they are (N,); no bins for a network that says NaN."""
    if np.isnan(confidence).any():
        return Reliability(np.zeros(0), np.zeros(0), np.zeros(0))
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    held = count > 0
    means = [np.bincount(bins, values, minlength=BINS)[held] / count[held] for values in (confidence, correct)]
    return Reliability(means[0], means[1], count[held])
