"""The compiled train step: in place, traced once, no transfer, no work done twice."""

import re
from functools import cache, partial

import jax
import numpy as np
import pytest

from alexnet_jax import data, hyper, parallel, turns
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.architecture import architecture, model_config
from alexnet_jax.model.layers import layers
from alexnet_jax.optimizer import make_optimizer
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.state import Controls, abstract_state, init_state
from alexnet_jax.train.step import make_train_step

BATCH, STORED = 16, 30
# The one-tower network's program before optimisation: five convolutions a member forward, five gradients of kernels, four of inputs; three
# matrix products forward, three gradients of kernels, three of inputs, all members in one.
CONVOLUTIONS, PRODUCTS = 5 + 5 + 4, 3 + 3 + 3
KERNELS = {"conv1": 5, "conv2": 5, "conv3": 3, "conv4": 3, "conv5": 3}  # of the variant `small`


class Trained:
    """A training program with its state, its batch, and how often Python traced it."""

    def __init__(self, members, **changes):
        section = model_config("small")
        section.update({"width": 0.04, **changes})
        self.traces = 0
        model, optimizer = AlexNet(architecture(section), 10), partial(make_optimizer, rule="paper")
        stats = PixelStats(np.float32([120]), np.float32(75), np.float32([75]), np.float32([[1]]))
        inner = make_train_step(model, optimizer, stats, lambda step: 1.0, parallel.DEVICES)

        def train_step(state, controls, batch):
            self.traces += 1
            return inner(state, controls, batch)

        in_turn = turns.plan(members, members)
        self.parts = turns.place(init_state(model, optimizer, members_of(f"seeds={members}"), 1), in_turn)
        controls = turns.place(controls_of(f"seeds={members}"), in_turn)
        shares = parallel.shard(data.blank_batch(BATCH, (STORED, STORED, 1)))
        self.program = turns.TrainProgram(train_step, in_turn, self.parts, controls, shares)
        self.batch = jax.device_put(shares, self.program.compiled.input_shardings[0][2])


def members_of(spec):
    base = {field: float(getattr(hyper.Hyper(), field)) for field in hyper.FIELDS if field not in hyper.WHOLE}
    return hyper.stack(hyper.parse_members(spec, {**base, "seed": 0})[0])


def controls_of(spec):
    members = members_of(spec)
    return Controls(members, np.ones(members.members, np.float32), np.zeros(members.members, bool))


@pytest.fixture(scope="module")
def trained():
    return Trained(members=2)


def test_the_compiled_step_does_the_work_of_the_network_and_little_else():
    """Of a network so wide that convolutions and products are nearly all of the work; by XLA's own count."""
    compiled = compiled_for_one_device(members=1)
    work = layers(architecture(model_config("small")), 10, 1)
    macs = [layer.macs * inside(KERNELS.get(layer.name, 1), layer.shape[0]) for layer in work]
    counted, needed = compiled.cost_analysis()["flops"], 64 * 2 * (3 * sum(macs) - macs[0])
    assert needed < counted < 1.15 * needed


def inside(kernel, size):
    """The share of a convolution's products that meet a pixel, not padding: XLA counts these alone. Input and output have one size."""
    beside = kernel // 2
    return (1 - beside * (beside + 1) / (kernel * size)) ** 2


@pytest.mark.accelerator
def test_the_state_is_updated_in_place(trained):
    """Every array of the state is donated: its buffer takes the result. Without that a step would need the state's memory twice."""
    header = trained.program.compiled.as_text().splitlines()[0]
    assert header.count("may-alias") + header.count("must-alias") == len(jax.tree.leaves(trained.parts))


@pytest.mark.accelerator
def test_steps_are_traced_once_and_move_nothing_between_host_and_device(trained):
    """Whatever the rate, the strengths and the batch. A loop that only steps leaves the device alone with its data."""
    changes = [controls_of(f"learning_rate=[{rate},.1], rotation={degrees}") for rate, degrees in ((0.01, 0), (0.001, 10), (0.0, 45))]
    ready = [parallel.place(change) for change in changes]
    batches = [jax.tree.map(lambda leaf, i=i: leaf + np.asarray(i, leaf.dtype), trained.batch) for i in range(3)]
    with jax.transfer_guard("disallow"):
        for change, batch in zip(ready, batches, strict=True):
            trained.parts, metrics = trained.program(trained.parts, [change], batch)
        with pytest.raises(Exception, match=r"[Dd]isallowed"):
            trained.program(trained.parts, [ready[0]], jax.tree.map(np.asarray, trained.batch))
    assert trained.traces == 1
    np.testing.assert_allclose(metrics["learning_rate"], [0.0, 0.1], rtol=1e-6)
    assert not re.findall(r"callback|infeed|outfeed|\bsend\(|\brecv\(", trained.program.compiled.as_text())


@pytest.mark.parametrize(
    ("form", "members", "convolutions", "products"),
    [
        ("direct", 1, CONVOLUTIONS, PRODUCTS),
        ("direct", 3, 3 * CONVOLUTIONS, PRODUCTS),
        # On a CPU none is XLA's. Each is, for any number of members, 3 products and 12 transforms; the stem has no gradient of its input.
        ("auto", 3, 0, PRODUCTS + 4 * (3 + 12) + 2 + 10),
    ],
)
def test_the_one_tower_networks_step_computes_nothing_twice(form, members, convolutions, products):
    """Lowered, not compiled: as many convolutions and matrix products as the derivative needs, and no grouped convolution."""
    model, optimizer = AlexNet(network("one_tower", conv_form=form), 1000), partial(make_optimizer, rule="paper")
    stats = PixelStats(np.zeros(3, np.float32), np.float32(74), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    step = make_train_step(model, optimizer, stats, lambda step: 1.0, parallel.DEVICES)
    state = abstract_state(model, optimizer, members_of(f"seeds={members}"), 3)
    batch = parallel.shard(data.blank_batch(128, (256, 256, 3)))
    text = parallel.over_devices_train(step).lower(state, controls_of(f"seeds={members}"), batch).as_text()
    assert text.count("stablehlo.convolution") == convolutions
    assert text.count("stablehlo.dot_general") == products + 2  # and PCA colour's, and the coordinates of the augmentation's
    assert set(re.findall(r"(?:batch|feature)_group_count = (\d+)", text)) <= {"1"}


def test_rematerialisation_takes_less_memory_for_more_work():
    """Where the compiler merges what is computed again with what was, or computes it again too early, both numbers stay what they were."""
    plain, lean = compiled_for_one_device(members=3), compiled_for_one_device(members=3, remat=True)
    assert lean.memory_analysis().temp_size_in_bytes < 0.7 * plain.memory_analysis().temp_size_in_bytes
    assert 1.2 < lean.cost_analysis()["flops"] / plain.cost_analysis()["flops"] < 1.4


def test_a_batch_in_pieces_takes_less_memory():
    """The activations of a quarter of it, and the sums of the gradients."""
    whole, cut = compiled_for_one_device(members=3), compiled_for_one_device(members=3, accumulate=4)
    assert cut.memory_analysis().temp_size_in_bytes < 0.3 * whole.memory_analysis().temp_size_in_bytes


def network(variant, **changes):
    section = model_config(variant)
    section.update(changes)
    return architecture(section)


@cache
def compiled_for_one_device(members, remat=False, accumulate=1):
    """XLA plans the same operations in the same memory, to a millionth, whether it then optimises much or little (conftest.py)."""
    model, optimizer = AlexNet(network("small", conv_form="direct"), 10, remat), partial(make_optimizer, rule="paper")
    stats = PixelStats(np.zeros(1, np.float32), np.float32(74), np.ones(1, np.float32), np.eye(1, dtype=np.float32))
    step = make_train_step(model, optimizer, stats, lambda step: 1.0, parallel.DEVICES, accumulate)
    state = abstract_state(model, optimizer, members_of(f"seeds={members}"), 1)
    batch = jax.tree.map(lambda leaf: leaf[None], data.blank_batch(64, (STORED, STORED, 1)))
    in_axes, device, controls = (None, None, 0), jax.devices()[:1], controls_of(f"seeds={members}")
    program = jax.pmap(step, axis_name=parallel.DEVICES, in_axes=in_axes, out_axes=None, devices=device)
    return program.lower(state, controls, batch).compile()


@pytest.mark.parametrize("devices", [1, 2])
def test_gradients_are_averaged_where_there_are_several_devices(devices):
    """XLA would copy them for the mean of one, which costs as much memory as the weights, and time: docs/performance.md."""
    model, optimizer = AlexNet(architecture(model_config("small")), 10), partial(make_optimizer, rule="paper")
    stats = PixelStats(np.zeros(1, np.float32), np.float32(74), np.ones(1, np.float32), np.eye(1, dtype=np.float32))
    step = make_train_step(model, optimizer, stats, lambda step: 1.0, parallel.DEVICES)
    state = abstract_state(model, optimizer, members_of("seeds=1"), 1)
    batch = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), data.blank_batch(BATCH, (STORED, STORED, 1)))
    program = jax.pmap(step, axis_name=parallel.DEVICES, in_axes=(None, None, 0), out_axes=None, devices=jax.devices()[:devices])
    assert ("all_reduce" in program.lower(state, controls_of("seeds=1"), batch).as_text()) == (devices > 1)
