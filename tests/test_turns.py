"""Members in turn are members at once."""

import jax
import numpy as np
import pytest

from alexnet_jax import parallel, turns
from tests.test_train_step import network, state_of, train


@pytest.mark.parametrize(
    ("members", "per_program", "counts"),
    [(1, 0, [1]), (7, 3, [3, 3, 1]), (6, 2, [2, 2, 2]), (3, 50, [3]), (5, 3, [3, 2])],
)
def test_turns_are_as_even_as_can_be_and_hold_every_member_once(members, per_program, counts):
    plan = turns.plan(members, per_program)
    assert plan.counts == counts
    tree = {"a": np.arange(members), "step": np.int32(3)}
    parts = plan.split(tree)
    assert {len(part["a"]) for part in parts} == {plan.size}
    assert np.array_equal(plan.join(parts)["a"], tree["a"])
    assert plan.join(parts)["step"] == 3


def test_by_default_a_program_is_small():
    assert turns.plan(parallel.MEMBERS_PER_PROGRAM, 0).counts == [parallel.MEMBERS_PER_PROGRAM]
    assert max(turns.plan(64, 0).counts) <= parallel.MEMBERS_PER_PROGRAM


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
