"""What is read from answers, on cases small enough to count by hand."""

import numpy as np
import pytest

from alexnet_jax.metrics import reliability
from alexnet_jax.report.answers import Answers, confident_mistakes, confusion_matrix, most_confused, unsure

LABEL = np.array([0, 0, 0, 1, 1, 2], np.int32)
ANSWER = np.array([0, 1, 1, 1, 2, 2], np.int32)
CONFIDENCE = np.array([0.9, 0.6, 0.8, 0.5, 0.7, 0.99], np.float32)
ANSWERS = Answers(LABEL, ANSWER[None], CONFIDENCE[None], ANSWER, CONFIDENCE)


def test_rows_are_classes_and_columns_answers():
    assert confusion_matrix(LABEL, ANSWER, 4).tolist() == [[1, 2, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_the_commonest_confusions_come_first_and_right_answers_never():
    matrix = confusion_matrix(LABEL, ANSWER, 3)
    assert most_confused(matrix, 9) == [(0, 1, 2), (1, 2, 1)]
    assert most_confused(matrix, 1) == [(0, 1, 2)]
    assert most_confused(np.diag([3, 4]), 9) == []


def test_many_classes_are_counted_without_overflow():
    label = np.full(3, 65_000 // 20, np.int32)  # times as many classes, this is close to int32's end
    matrix = confusion_matrix(label, label, 5000)
    assert matrix[3250, 3250] == matrix.sum() == 3


def test_mistakes_by_confidence_and_answers_by_doubt():
    assert confident_mistakes(ANSWERS, 9).tolist() == [2, 4, 1]
    assert confident_mistakes(ANSWERS, 2).tolist() == [2, 4]
    assert confident_mistakes(ANSWERS._replace(ensemble_answer=LABEL), 9).tolist() == []
    assert unsure(ANSWERS, 2).tolist() == [3, 1]


def test_reliability_of_known_answers():
    found = reliability(np.array([0.61, 0.65, 1.0, 0.94]), np.array([True, False, True, True]))
    assert found.counts.tolist() == [2, 2]
    assert found.confidence == pytest.approx([0.63, 0.97])
    assert found.accuracy == pytest.approx([0.5, 1])
    assert found.ece == pytest.approx(0.5 * 0.13 + 0.5 * 0.03)


def test_a_diverged_member_has_no_calibration():
    found = reliability(np.full(6, np.nan), np.zeros(6, bool))
    assert len(found.counts) == 0
    assert np.isnan(found.ece)
