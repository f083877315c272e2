"""Members in turn are members at once."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from alexnet_jax import parallel, turns
from alexnet_jax.errors import UserError
from alexnet_jax.model.forward import make_log_probs
from tests.test_train_step import STATS, batch, log_probs_of, network, shared, state_of, train


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


@pytest.mark.parametrize(("backend", "size"), [("cpu", 1), ("gpu", parallel.MEMBERS_PER_PROGRAM)])
def test_by_default_a_program_is_small(backend, size, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert turns.plan(size, 0).counts == [size]
    assert max(turns.plan(64, 0).counts) == size


@pytest.mark.parametrize(
    ("members", "devices", "asked", "chosen"),
    [
        (7, 8, "", turns.MEMBERS),
        (4, 4, "", turns.MEMBERS),
        (9, 8, "", turns.DATA),
        (1, 4, "", turns.DATA),
        (4, 4, "data", turns.DATA),
        (9, 8, "members", turns.MEMBERS),
        (7, 1, "members", turns.DATA),
    ],
)
def test_devices_share_members_where_few_places_stay_empty(members, devices, asked, chosen):
    assert turns.choose(members, asked, devices=devices)[0] == chosen


def test_a_split_that_leaves_devices_idle_is_refused_with_numbers_that_fit():
    with pytest.raises(
        UserError, match=r"2 members on 4 devices, 1 on each, would leave 50% of the places empty; take 4 members, or 2 dev"
    ):
        turns.choose(2, "members", devices=4)
    with pytest.raises(UserError, match="did you mean members"):
        turns.choose(2, "member", devices=4)


@pytest.mark.parametrize(
    ("members", "per_program", "counts", "at_once"), [(7, 2, [7], 2), (4, 1, [4], 1), (9, 2, [8, 1], 2), (3, 1, [3], 1)]
)
def test_members_over_devices_take_turns_too(members, per_program, counts, at_once):
    """On the tests' four devices."""
    plan = turns.plan(members, per_program, turns.MEMBERS)
    assert (plan.counts, plan.at_once, plan.size) == (counts, at_once, 4 * at_once)
    tree = {"a": np.arange(2 * members).reshape(members, 2), "step": np.int32(3)}
    parts = turns.place(tree, plan)
    assert {part["a"].sharding.shard_shape(part["a"].shape) for part in parts} == {(1, at_once, 2)}
    assert np.array_equal(plan.on_host(parts)["a"], tree["a"])
    assert np.array_equal(plan.member(parts, members - 1)["a"], tree["a"][-1])


def test_the_split_does_not_change_the_run():
    """Three members on four devices: each device trains its own on whole batches, the last a copy. To the order of float sums."""
    model = network()
    state = state_of(model, "seed=[0,1,2], dropout=.5")
    by_data, metrics = train(model, state)
    by_members, member_metrics = train(model, state, split=turns.MEMBERS)
    assert int(by_members.step) == 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), by_members, by_data)
    for step, member_step in zip(metrics, member_metrics, strict=True):
        for name, values in step.items():
            np.testing.assert_allclose(member_step[name], values, rtol=1e-5)


def test_members_over_devices_exchange_no_gradient():
    model, (state, controls) = network(), state_of(network(), "seeds=3")
    plan = turns.plan(3, 0, turns.MEMBERS)
    program = shared(model, 3, 16, 8, turns.MEMBERS)
    sizes = [
        np.prod([int(n) for n in re.findall(r"\d+", shape)])
        for shape in re.findall(r"= \w+\[([\d,]*)\]\S* all-", program.compiled.as_text())
    ]
    assert sizes, "the batch is exchanged"
    assert max(sizes) <= 16 * 30 * 30  # the images of a batch
    assert "all-reduce" not in program.compiled.as_text()
    images = batch(0)["image"]
    answers = turns.predictor(make_log_probs(model, STATS), plan, turns.place(state.params, plan), turns.place(controls.hyper, plan))(
        images
    )
    np.testing.assert_allclose(answers, log_probs_of(model, state, controls, images), rtol=1e-4, atol=1e-5)


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


def test_the_metrics_of_all_turns_are_joined_by_one_program(monkeypatch):
    """Not by operations that the host starts one after the other: those take longer than to start the turns."""
    in_turn, (state, controls) = turns.plan(5, 2), state_of(network(), "seeds=5")
    controls = replace(controls, scale=np.arange(5, dtype=np.float32))
    placed = turns.place(state, in_turn), turns.place(controls, in_turn), parallel.shard(batch(0))
    program = turns.TrainProgram(lambda state, controls, batch: (state, {"loss": controls.scale}), in_turn, *placed)
    parts, _ = program(*placed)
    monkeypatch.delattr(turns.jnp, "concatenate")
    _, metrics = program(parts, *placed[1:])
    np.testing.assert_array_equal(metrics["loss"], np.arange(5))
