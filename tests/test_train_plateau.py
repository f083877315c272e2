import numpy as np
import pytest

from alexnet_jax.train import plateau

SETTINGS = {"patience": 2, "min_delta": 0.01, "factor": 0.1, "max_drops": 2, "cooldown": 0}


def run(accuracies, **settings):
    """The states of one member after each evaluation."""
    state, states = plateau.init(1), []
    for accuracy in accuracies:
        state = plateau.update(state, np.float32([accuracy]), **{**SETTINGS, **settings})
        states.append(state)
    return states


def column(states, field):
    return [np.asarray(getattr(state, field))[0].item() for state in states]


def test_drops_after_patience_and_not_before():
    states = run([0.5, 0.5, 0.5, 0.5, 0.5])
    assert column(states, "stale") == [0, 1, 0, 1, 0]
    assert column(states, "drops") == [0, 0, 1, 1, 2]
    np.testing.assert_allclose(column(states, "scale"), [1, 1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_improvement_must_exceed_min_delta():
    assert column(run([0.5, 0.509, 0.511]), "stale") == [0, 1, 0]
    assert column(run([0.5, 0.509, 0.509]), "drops") == [0, 0, 1]
    np.testing.assert_allclose(column(run([0.5, 0.509, 0.511]), "best"), [0.5, 0.5, 0.511], rtol=1e-6)


def test_done_only_at_the_plateau_after_the_last_drop():
    states = run([0.5] * 8)
    assert column(states, "done") == [False] * 6 + [True] * 2
    assert column(states, "drops") == [0, 0, 1, 1, 2, 2, 2, 2]
    late = run([0.5] * 6 + [0.9, 0.9, 0.9])
    assert column(late, "done")[5:] == [False, False, False, True]


def test_no_drops_allowed_means_done_at_the_first_plateau():
    assert column(run([0.5] * 3, max_drops=0), "done") == [False, False, True]


def test_cooldown_evaluations_do_not_count():
    states = run([0.5] * 8, cooldown=2)
    assert column(states, "cooldown") == [0, 0, 2, 1, 0, 0, 2, 1]
    assert column(states, "drops") == [0, 0, 1, 1, 1, 1, 2, 2]
    assert column(run([0.5] * 3 + [0.9, 0.9, 0.9], cooldown=2), "stale") == [0, 1, 0, 0, 0, 1]


def test_nan_is_stale():
    assert column(run([float("nan")] * 3), "drops") == [0, 1, 1]


def test_members_are_independent():
    state = plateau.init(2)
    for accuracies in ([0.5, 0.5], [0.5, 0.6], [0.5, 0.7]):
        state = plateau.update(state, np.float32(accuracies), **SETTINGS)
    assert np.asarray(state.drops).tolist() == [1, 0]
    assert np.asarray(state.scale).tolist() == pytest.approx([0.1, 1])
