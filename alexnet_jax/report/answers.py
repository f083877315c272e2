"""What can be read from the answers of M networks and of their ensemble to N examples: confusions and mistakes. Pure numpy."""

from typing import NamedTuple

import numpy as np


class Answers(NamedTuple):
    """The likeliest class and its probability, for each network and for their ensemble: what `metrics.answers` gives."""

    label: np.ndarray  # int32 (N,)
    answer: np.ndarray  # int32 (M, N)
    confidence: np.ndarray  # float32 (M, N); NaN for a network that has diverged
    ensemble_answer: np.ndarray  # int32 (N,)
    ensemble_confidence: np.ndarray  # float32 (N,)


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
