"""What a training step costs, counted in ways that don't depend on the machine, so that a slip in speed shows in a test.

When a change makes a number grow on purpose, or shrink, write the new one here: the message says which and how.
"""

import re
from collections import Counter
from functools import partial

import jax
import numpy as np
import pytest

from alexnet_jax import data, hyper, parallel, turns
from alexnet_jax.augment import PixelStats
from alexnet_jax.model import AlexNet, architecture, model_config
from alexnet_jax.optimizer import make_optimizer
from alexnet_jax.step import abstract_state, init_state, make_train_step

BATCH, STORED = 16, 30
# The optimised program of two narrow small networks, a batch of 16 grey images, four on each of four devices.
COUNTED = {"convolution": 28, "dot": 10, "while": 11, "gather": 2, "all-reduce": 1}
MEASURED = {
    "flops": 21_440_000,
    "transcendentals": 16_848,
    "bytes accessed": 10_731_000,
    "bytes of temporaries": 956_000,
    "instructions": 5_061,
    "fusion": 236,
    "copy": 259,
    "transpose": 37,
}
TOLERANCE = 0.1  # of what is measured; what is counted must be the same
# The seed network's program before optimisation: five convolutions a member forward, five gradients of kernels, four of inputs; three
# matrix products forward, three gradients of kernels, three of inputs, all members in one.
CONVOLUTIONS, PRODUCTS = 5 + 5 + 4, 3 + 3 + 3


class Trained:
    """A training program with its state, its batch, and how often Python traced it."""

    def __init__(self, members, **changes):
        section = model_config("small")
        section.update({"width": 0.04, **changes})
        self.traces = 0
        model, optimizer = AlexNet(architecture(section), 10), partial(make_optimizer, rule="paper")
        stats = PixelStats(np.float32([120]), np.float32(75), np.float32([75]), np.float32([[1]]))
        inner = make_train_step(model, optimizer, stats, lambda step: 1.0, parallel.DEVICES)

        def train_step(state, batch):
            self.traces += 1
            return inner(state, batch)

        in_turn = turns.plan(members, 0)
        (self.state,) = turns.place(init_state(model, optimizer, members_of(f"seeds={members}"), 1), in_turn)
        shares = parallel.shard(data.blank_batch(BATCH, (STORED, STORED, 1)))
        self.program = turns.TrainProgram(train_step, in_turn, [self.state], shares)
        self.batch = jax.device_put(shares, self.program.compiled.input_shardings[0][1])


def members_of(spec):
    base = {field: float(getattr(hyper.Hyper(), field)) for field in hyper.FIELDS}
    return hyper.stack(hyper.parse_members(spec, {**base, "seed": 0})[0])


@pytest.fixture(scope="module")
def trained():
    return Trained(members=2)


def operations(text):
    """How often each operation stands in the text of an optimised program."""
    return Counter(re.findall(r"= (?:\(.*?\)|\S+) ([a-z][\w-]*)\(", text))


def test_the_compiled_step_costs_what_it_did(trained):
    compiled = trained.program.compiled
    found, cost = operations(compiled.as_text()), compiled.cost_analysis()
    found["instructions"] = found.total()
    found["bytes of temporaries"] = compiled.memory_analysis().temp_size_in_bytes
    found |= {name: round(cost[name]) for name in ("flops", "transcendentals", "bytes accessed")}
    assert not changes(found, COUNTED, 0.0) + changes(found, MEASURED, TOLERANCE)


def changes(found, known, tolerance):
    """What is no longer as known, in words."""
    return [
        f"{name} {'grew' if found[name] > value else 'shrank'} from {value:,} to {found[name]:,}"
        for name, value in known.items()
        if abs(found[name] - value) > tolerance * value
    ]


def test_changes_are_said():
    assert changes({"a": 109, "b": 91}, {"a": 100, "b": 100}, 0.1) == []
    assert changes({"a": 111, "b": 2}, {"a": 100, "b": 3}, 0.1) == ["a grew from 100 to 111", "b shrank from 3 to 2"]


def test_the_state_is_updated_in_place(trained):
    """Every array of the state is donated: its buffer takes the result. Without that a step would need the state's memory twice."""
    header = trained.program.compiled.as_text().splitlines()[0]
    assert header.count("may-alias") + header.count("must-alias") == len(jax.tree.leaves(trained.state))


def test_steps_are_traced_once_and_move_nothing_between_host_and_device(trained):
    """Whatever the rate, the strengths and the batch. A loop that only steps leaves the device alone with its data."""
    changes = [members_of(f"learning_rate=[{rate},.1], rotation={degrees}") for rate, degrees in ((0.01, 0), (0.001, 10), (0.0, 45))]
    ready = [parallel.replicate(change) for change in changes]
    batches = [jax.tree.map(lambda leaf, i=i: leaf + np.asarray(i, leaf.dtype), trained.batch) for i in range(3)]
    with jax.transfer_guard("disallow"):
        for change, batch in zip(ready, batches, strict=True):
            (trained.state,), metrics = trained.program([trained.state.replace(hyper=change)], batch)
        with pytest.raises(Exception, match=r"[Dd]isallowed"):
            trained.program([trained.state], jax.tree.map(np.asarray, trained.batch))
    assert trained.traces == 1
    np.testing.assert_allclose(metrics["learning_rate"], [0.0, 0.1], rtol=1e-6)
    assert not re.findall(r"callback|infeed|outfeed|\bsend\(|\brecv\(", trained.program.compiled.as_text())


@pytest.mark.parametrize("members", [1, 3])
def test_the_seed_networks_step_computes_nothing_twice(members):
    """Lowered, not compiled: as many convolutions and matrix products as the derivative needs, and no grouped convolution."""
    model, optimizer = AlexNet(architecture(model_config("seed")), 1000), partial(make_optimizer, rule="paper")
    stats = PixelStats(np.zeros(3, np.float32), np.float32(74), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    step = make_train_step(model, optimizer, stats, lambda step: 1.0, parallel.DEVICES)
    state = abstract_state(model, optimizer, members_of(f"seeds={members}"), 3)
    batch = parallel.shard(data.blank_batch(128, (256, 256, 3)))
    text = parallel.over_devices_train(step).lower(state, batch).as_text()
    assert text.count("stablehlo.convolution") == members * CONVOLUTIONS
    assert text.count("stablehlo.dot_general") == PRODUCTS + 2  # and PCA colour's, and the coordinates of the augmentation's
    assert set(re.findall(r"(?:batch|feature)_group_count = (\d+)", text)) == {"1"}


def test_rematerialisation_takes_less_memory_for_more_work():
    """Where the compiler merges what is computed again with what was, or computes it again too early, both numbers stay what they were."""
    plain, lean = (compiled_for_one_device(members=3, remat=remat) for remat in (False, True))
    assert lean.memory_analysis().temp_size_in_bytes < 0.6 * plain.memory_analysis().temp_size_in_bytes
    assert 1.2 < lean.cost_analysis()["flops"] / plain.cost_analysis()["flops"] < 1.4


def compiled_for_one_device(members, remat):
    model, optimizer = AlexNet(architecture(model_config("small")), 10, remat), partial(make_optimizer, rule="paper")
    stats = PixelStats(np.zeros(1, np.float32), np.float32(74), np.ones(1, np.float32), np.eye(1, dtype=np.float32))
    step = make_train_step(model, optimizer, stats, lambda step: 1.0, parallel.DEVICES)
    state = abstract_state(model, optimizer, members_of(f"seeds={members}"), 1)
    batch = jax.tree.map(lambda leaf: leaf[None], data.blank_batch(64, (STORED, STORED, 1)))
    in_axes, device = (None, 0), jax.devices()[:1]
    return jax.pmap(step, axis_name=parallel.DEVICES, in_axes=in_axes, out_axes=None, devices=device).lower(state, batch).compile()


@pytest.mark.parametrize("devices", [1, 2])
def test_gradients_are_averaged_where_there_are_several_devices(devices):
    """XLA would copy them for the mean of one, which costs as much memory as the weights, and time: docs/performance.md."""
    model, optimizer = AlexNet(architecture(model_config("small")), 10), partial(make_optimizer, rule="paper")
    stats = PixelStats(np.zeros(1, np.float32), np.float32(74), np.ones(1, np.float32), np.eye(1, dtype=np.float32))
    step = make_train_step(model, optimizer, stats, lambda step: 1.0, parallel.DEVICES)
    state = abstract_state(model, optimizer, members_of("seeds=1"), 1)
    batch = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), data.blank_batch(BATCH, (STORED, STORED, 1)))
    program = jax.pmap(step, axis_name=parallel.DEVICES, in_axes=(None, 0), out_axes=None, devices=jax.devices()[:devices])
    assert ("all_reduce" in program.lower(state, batch).as_text()) == (devices > 1)
