"""Members in turn are members at once."""

import jax
import numpy as np
import pytest

from alexnet_jax import turns
from tests.test_step import member, network, state_of, train


@pytest.mark.parametrize(
    ("members", "per_program", "starts", "overlap"),
    [
        (1, 0, [0], 0),
        (7, 0, [0], 0),
        (9, 0, [0, 4], 1),
        (7, 3, [0, 3, 4], 2),
        (6, 2, [0, 2, 4], 0),
        (64, 0, range(0, 64, 8), 0),
        (3, 50, [0], 0),
    ],
)
def test_turns_are_as_even_as_can_be(members, per_program, starts, overlap):
    plan = turns.plan(members, per_program)
    assert plan.starts == list(starts)
    assert plan.overlap == overlap


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_members_in_turn_are_members_at_once(at_once):
    """To the order of float sums, on four devices; the counter of steps, momentum and metrics too."""
    model = network()
    state = state_of(model, "seed=[0,1,2], dropout=.5; seed=3, learning_rate=.001; seed=0")
    together, metrics = train(model, state)
    in_turn, turn_metrics = train(model, state, at_once=at_once)
    assert int(in_turn.step) == 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), in_turn, together)
    for step, turn_step in zip(metrics, turn_metrics, strict=True):
        for name, values in step.items():
            np.testing.assert_allclose(turn_step[name], values, rtol=1e-5)


def test_a_done_member_has_no_turn():
    model = network()
    state = state_of(model, "seeds=3")
    done = state.replace(plateau=state.plateau.replace(done=np.array([False, True, False])))
    after, _ = train(model, done, at_once=2)
    assert jax.tree.all(jax.tree.map(np.array_equal, member(after.params, 1), member(state.params, 1)))
    assert not np.array_equal(after.params["fc8"]["kernel"][2], state.params["fc8"]["kernel"][2])
