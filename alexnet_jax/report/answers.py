"""Finds confusions and mistakes in the answers of M networks and of their ensemble to N examples. Pure numpy.

The report's sections (network.py) call it:

    answers = Answers(**run.load_predictions("runs/digits"))
    matrix = confusion_matrix(answers.label, answers.ensemble_answer, classes=10)
"""

from typing import NamedTuple

import numpy as np


class Answers(NamedTuple):
    """The likeliest class and its probability, for each network and for their ensemble, from `metrics.answers`."""

    label: np.ndarray  # int32 (N,)
    answer: np.ndarray  # int32 (M, N)
    confidence: np.ndarray  # float32 (M, N); NaN for a network that has diverged
    ensemble_answer: np.ndarray  # int32 (N,)
    ensemble_confidence: np.ndarray  # float32 (N,)


def confusion_matrix(label: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """int (classes, classes): how many examples of each class (row) got each answer (column)."""
    return np.bincount(label.astype(np.int64) * classes + answer, minlength=classes**2).reshape(classes, classes)


def most_confused(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """(class, answer, how often) of the most frequent confusions, at most `count`."""
    errors = matrix - np.diag(np.diag(matrix))
    places = np.argsort(-errors, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(places, matrix.shape)
    return [(int(r), int(c), int(errors[r, c])) for r, c in zip(rows, columns, strict=True) if errors[r, c]]


def confident_mistakes(answers: Answers, count: int) -> np.ndarray:
    """Indices of the ensemble's wrong answers, the most confident first, at most `count`."""
    wrong = np.flatnonzero(answers.ensemble_answer != answers.label)
    return wrong[np.argsort(-answers.ensemble_confidence[wrong], kind="stable")][:count]


def unsure(answers: Answers, count: int) -> np.ndarray:
    """Indices of the ensemble's least confident answers, the least confident first, at most `count`."""
    return np.argsort(answers.ensemble_confidence, kind="stable")[:count]
