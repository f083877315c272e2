"""One compiled step for all members: what they share, and what they don't."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import cpu, hyper, parallel, turns
from alexnet_jax.metrics import is_error
from alexnet_jax.model import alexnet as model_lib
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.architecture import architecture, model_config
from alexnet_jax.model.forward import make_log_probs, make_sums
from alexnet_jax.optimizer import make_optimizer
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.state import Controls, abstract_state, init_state
from alexnet_jax.train import step
from alexnet_jax.train.step import make_train_step

STATS = PixelStats(np.float32([120]), np.float32(75), np.float32([75]), np.float32([[1]]))
BASE = {
    **{field: float(getattr(hyper.Hyper(), field)) for field in hyper.FIELDS if field not in hyper.WHOLE},
    "seed": 0,
    "learning_rate": 0.05,
}
OPTIMIZER = partial(make_optimizer, rule="paper")


def network(**changes):
    section = model_config("small")
    section.update({"width": 0.04, **changes})
    return AlexNet(architecture(section), 10)


def state_of(model, spec, **base):
    """The state of a run that has not begun, and its controls."""
    rows, _ = hyper.parse_members(spec, {**BASE, **base})
    members = hyper.stack(rows)
    return initial(model, tuple(members.seed.tolist())), Controls(members, np.ones(len(rows), np.float32), np.zeros(len(rows), bool))


@cache
def initial(model, seeds):
    """The state of members with these seeds, which are all that it depends on; on the host, where no step can reuse its buffers."""
    members = hyper.stack([{**BASE, "seed": seed, "draws": seed} for seed in seeds])
    return jax.tree.map(np.asarray, init_state(model, OPTIMIZER, members, 1))


def log_probs_of(model, state, controls, images, **options):
    return np.asarray(make_log_probs(model, STATS, **options)(state.params, controls.hyper, images))


def batch(step, size=16):
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (size, 30, 30, 1)).astype(np.uint8),
        "label": rng.integers(0, 10, size).astype(np.int32),
        "index": np.arange(step * size, (step + 1) * size, dtype=np.uint32),
    }


def compiled(model, members, size, at_once, split):
    """The program of a step; hyperparameters, rates and parameters are its data."""
    in_turn, start = turns.plan(members, at_once, split), state_of(model, f"seeds={members}")
    train_step = make_train_step(model, OPTIMIZER, STATS, lambda step: 1.0, in_turn.batch_axis)
    return turns.TrainProgram(train_step, in_turn, *(turns.place(tree, in_turn) for tree in start), parallel.shard(batch(0, size)))


shared = cache(compiled)  # tests whose networks and numbers of members are equal use one program


def train(model, start, steps=3, size=16, at_once=8, split=turns.DATA, program=shared):
    """The state and the metrics after some steps on all four devices."""
    (state, controls), metrics = start, []
    in_turn = turns.plan(controls.hyper.members, at_once, split)
    parts, controls = turns.place(state, in_turn), turns.place(controls, in_turn)
    program = program(model, in_turn.members, size, at_once, split)
    for i in range(steps):
        parts, values = program(parts, controls, parallel.shard(batch(i, size)))
        metrics.append(jax.tree.map(np.asarray, values))
    return in_turn.on_host(parts), metrics


def member(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.slow
def test_initialisation_quickly_compiled_has_the_same_bits(monkeypatch, as_shipped):
    initialise = partial(init_state, network(), OPTIMIZER, hyper.stack(hyper.parse_members("seeds=2", BASE)[0]), 1)
    options = {**as_shipped, **cpu.quick_to_compile()}
    assert options != as_shipped
    monkeypatch.setattr(cpu, "quick_to_compile", lambda: options)
    quick = initialise()
    monkeypatch.setattr(cpu, "quick_to_compile", lambda: as_shipped)
    jax.tree.map(np.testing.assert_array_equal, quick, initialise())


def test_the_abstract_state_is_the_states():
    rows, _ = hyper.parse_members("seeds=2", BASE)
    of = network(), OPTIMIZER, hyper.stack(rows), 1
    assert jax.eval_shape(lambda state: state, init_state(*of)) == abstract_state(*of)


@pytest.mark.accelerator
@pytest.mark.newest
def test_a_member_of_seven_is_the_run_of_that_member_alone():
    model = network()
    together, metrics = train(model, state_of(model, "seeds=7"))
    alone, alone_metrics = train(model, state_of(model, "seed=4"))
    close(member(together.params, 4), member(alone.params, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([m["loss"][4] for m in metrics], [m["loss"][0] for m in alone_metrics], rtol=1e-5)
    assert not np.allclose(metrics[0]["loss"][4], metrics[0]["loss"][3])


@pytest.mark.accelerator
@pytest.mark.newest
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rematerialisation_changes_no_number(dtype):
    """But for the last bits, where other operations are fused."""
    model = network(dtype=dtype)
    (kept, metrics), (again, again_metrics) = (train(model.clone(remat=remat), state_of(model, "seeds=2")) for remat in (False, True))
    close(kept.params, again.params, rtol=1e-4, atol=1e-6 if dtype == "float32" else 1e-4)
    close(metrics, again_metrics, rtol=1e-5 if dtype == "float32" else 1e-2)


@pytest.mark.newest
@pytest.mark.parametrize(("devices", "pieces"), [(1, 4), (2, 2), (4, 1)])
def test_how_a_batch_is_shared_and_cut_changes_no_number(devices, pieces):
    """With dropout, crops, rotations and the other draws, which belong to the examples."""
    (one, losses), (cut, cut_losses) = shared_and_cut(1, 1), shared_and_cut(devices, pieces)
    np.testing.assert_allclose(cut_losses, losses, rtol=1e-5)
    close(cut, one, rtol=1e-5, atol=1e-6)


@cache
def shared_and_cut(devices, pieces):
    """Parameters and losses of a member after three steps on so many of the devices, each share cut into so many pieces."""
    model = network()
    state, controls = state_of(model, "seed=0")
    train_step = make_train_step(model, OPTIMIZER, STATS, lambda step: 1.0, parallel.DEVICES, pieces)
    some = jax.devices()[:devices]
    program = jax.pmap(train_step, axis_name=parallel.DEVICES, in_axes=(None, None, 0), out_axes=None, devices=some)
    losses = []
    for i in range(3):
        shares = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), batch(i))
        state, metrics = jax.block_until_ready(program(state, controls, shares))
        losses.append(np.asarray(metrics["loss"]))
    return jax.tree.map(np.asarray, state.params), np.array(losses)


def test_bfloat16_has_no_sum_exponential_or_quotient():
    """Those of LRN, the softmax, the loss, the biases' gradients and dropout are float32. Products sum in float32 by themselves."""
    state, controls = state_of(network(dtype="bfloat16"), "seed=0")
    program = jax.make_jaxpr(make_train_step(network(dtype="bfloat16"), OPTIMIZER, STATS, lambda step: 1.0, None))(
        state, controls, batch(0)
    )
    of_bfloat16 = {
        equation.primitive.name
        for equation in equations(program.jaxpr)
        if any(getattr(variable.aval, "dtype", None) == jnp.bfloat16 for variable in equation.invars)
    }
    assert {"dot_general", "conv_general_dilated", "max"} <= of_bfloat16
    assert not of_bfloat16 & {"reduce_sum", "cumsum", "exp", "log", "pow", "rsqrt", "sqrt", "div", "argmax", "reduce_max", "psum"}


def equations(jaxpr):
    """All equations of a program, also those of the functions that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_members_with_equal_seeds_share_every_draw():
    model = network()
    state, metrics = train(model, state_of(model, "seed=[5,5,6]"))
    assert np.array_equal(metrics[-1]["loss"][0], metrics[-1]["loss"][1])
    assert jax.tree.all(jax.tree.map(lambda leaf: np.array_equal(leaf[0], leaf[1]), state.params))
    assert not np.allclose(metrics[-1]["loss"][0], metrics[-1]["loss"][2])


@pytest.mark.parametrize(("off", "same"), [("augment=off, dropout=0, ", True), ("augment=off, ", False), ("dropout=0, ", False)])
def test_draws_are_dropouts_and_augmentations_alone(off, same):
    """Two members start from the same weights. A third has other weights and the second's draws: it sees the second's views."""
    model = network()
    state, controls = state_of(model, f"{off}seed=5; {off}seed=5, draws=6; {off}seed=6")
    assert controls.hyper.draws.tolist() == [5, 6, 6]
    first, second, third = (jax.tree.map(lambda leaf, i=i: leaf[i], state.params) for i in range(3))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))
    assert not np.array_equal(second["conv1"]["kernel"], third["conv1"]["kernel"])
    _, metrics = train(model, (state, controls), steps=1)
    assert (metrics[0]["loss"][0] == metrics[0]["loss"][1]) == same
    seen = [step.inputs(model, STATS, jax.tree.map(lambda leaf, i=i: leaf[i], controls.hyper), batch(0)) for i in range(3)]
    np.testing.assert_array_equal(seen[1][0], seen[2][0])
    np.testing.assert_array_equal(*(jax.random.key_data(keys) for *_, keys in seen[1:]))


@pytest.mark.parametrize("field", [field for field in hyper.FIELDS if field not in hyper.WHOLE])
def test_every_hyperparameter_acts_on_its_member_alone(field):
    model = network()
    changed = {"flip": 1.0, "rotation": 40.0, "dropout": 0.1, "lrn_alpha": 1e-2}.get(field, BASE[field] * 0.5)
    _, metrics = train(model, state_of(model, f"{field}=[{BASE[field]},{changed}]"))
    _, plain = train(model, state_of(model, "seed=0"))
    np.testing.assert_allclose(metrics[-1]["loss"][0], plain[-1]["loss"][0], rtol=1e-5)
    assert metrics[-1]["loss"][0] != metrics[-1]["loss"][1]


def test_dropout_zero_and_augmentation_off_is_the_plain_network():
    """The first loss is that of the evaluation network on the evaluation views."""
    model = network()
    start = state_of(model, "augment=off, dropout=0, seed=0")
    _, metrics = train(model, start, steps=1)
    log_probs = log_probs_of(model, *start, batch(0)["image"])
    np.testing.assert_allclose(metrics[0]["loss"], -np.mean(log_probs[0, np.arange(16), batch(0)["label"]]), rtol=1e-6)


@pytest.mark.newest
@pytest.mark.parametrize("what", ["augment", "dropout", "lrn"])
def test_what_is_off_is_bitwise_not_there(what, monkeypatch):
    """Two steps with a strength of zero, and two of a network that was built without: momentum, parameters and losses to the bit."""
    off = {"augment": "augment=off", "dropout": "dropout=0", "lrn": "lrn=off"}
    others = ", ".join(spec for name, spec in off.items() if name != what)
    after, metrics = train(network(), state_of(network(), f"{off[what]}, {others}, seeds=2"), steps=2)
    if what == "augment":

        def centre(key, image, hyper, stats, size, shear_to):
            """Of each member its own, as augmentation's views are: products of shared ones are summed in another order."""
            return image[1:29, 1:29].astype(jnp.float32) - stats.mean + 0 * hyper.crop

        monkeypatch.setattr(step, "augment", centre)
    elif what == "dropout":
        monkeypatch.setattr(model_lib, "dropout", lambda x, rate, keys, layer: x)
    without = network(lrn=what != "lrn")
    plain, plain_metrics = train(without, state_of(without, f"{others}, seeds=2"), steps=2, program=compiled)
    assert jax.tree.all(jax.tree.map(np.array_equal, (after.params, after.opt_state), (plain.params, plain.opt_state)))
    assert np.array_equal(metrics[1]["loss"], plain_metrics[1]["loss"])


@pytest.mark.accelerator
@pytest.mark.newest
def test_a_done_member_stays_what_it_was():
    model = network()
    state, controls = state_of(model, "seeds=2")
    after, _ = train(model, (state, controls.replace(done=np.array([True, False]))))
    before = jax.tree.map(np.asarray, state.params)
    assert jax.tree.all(jax.tree.map(np.array_equal, member(after.params, 0), member(before, 0)))
    free, _ = train(model, (state, controls))
    assert jax.tree.all(jax.tree.map(np.array_equal, member(after.params, 1), member(free.params, 1)))


@pytest.mark.accelerator
@pytest.mark.newest
def test_one_trace_whatever_the_rate():
    model, traces = network(), []
    inner = make_train_step(model, OPTIMIZER, STATS, lambda step: 1.0, parallel.DEVICES)

    def counted(state, controls, batch):
        traces.append(1)
        return inner(state, controls, batch)

    two, (state, controls) = turns.plan(2, 2), state_of(model, "seeds=2")
    parts = turns.place(state, two)
    program = turns.TrainProgram(counted, two, parts, turns.place(controls, two), parallel.shard(batch(0)))
    for i in range(4):
        scaled = controls.replace(scale=np.float32([0.1**i, 1]))
        parts, metrics = program(parts, turns.place(scaled, two), parallel.shard(batch(i)))
        np.testing.assert_allclose(metrics["learning_rate"], [0.05 * 0.1**i, 0.05], rtol=1e-6)
    assert len(traces) == 1


@pytest.mark.newest
def test_drop_scales_the_step():
    """Under PyTorch's rule without momentum the update is proportional to the rate."""
    model = network()
    state, controls = state_of(model, "seed=[0,0]", momentum=0.0)
    before = jax.tree.map(np.asarray, state.params)
    after, metrics = train(model, (state, controls.replace(scale=np.float32([1, 0.1]))), steps=1)
    np.testing.assert_allclose(metrics[0]["learning_rate"], [0.05, 0.005], rtol=1e-6)
    moved = jax.tree.map(lambda new, old: new - old, after.params, before)
    close(member(moved, 1), jax.tree.map(lambda leaf: 0.1 * leaf, member(moved, 0)), rtol=2e-2, atol=1e-7)


@pytest.mark.newest
@pytest.mark.parametrize("at_once", [3, 2])
def test_sums_of_what_the_mask_admits(at_once):
    model = network()
    state, controls = state_of(model, "seeds=3")
    masked = {**batch(0), "mask": np.arange(16) < 13}
    shares = parallel.shard(masked)
    in_turn = turns.plan(3, at_once)
    predict = turns.over_devices_predict(make_log_probs(model, STATS), in_turn)
    on_devices = predict(turns.place(state.params, in_turn), turns.place(controls.hyper, in_turn), shares["image"])
    sums = parallel.over_devices_sum(make_sums(parallel.DEVICES))(on_devices, shares)
    log_probs = log_probs_of(model, state, controls, masked["image"])[:, :13]
    label = masked["label"][:13]
    assert float(sums["count"]) == 13
    np.testing.assert_allclose(sums["loss"], -log_probs[:, np.arange(13), label].sum(-1), rtol=1e-5)
    assert np.array_equal(sums["top1_errors"], (log_probs.argmax(-1) != label).sum(-1))
    in_top5 = (np.argsort(-log_probs, -1)[..., :5] == label[:, None]).any(-1)
    assert np.array_equal(sums["top5_errors"], (~in_top5).sum(-1))
    assert float(sums["ensemble_top1_errors"]) == (np.exp(log_probs).mean(0).argmax(-1) != label).sum()


def test_ten_crop_averages_probabilities():
    model = network(input_size=28)
    start = state_of(model, "augment=off, seed=0")
    image = batch(0)["image"][:1]
    ten = np.exp(log_probs_of(model, *start, image, ten_crop=True))[0, 0]
    corners = [image[:, t : t + 28, s : s + 28] for t, s in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))]
    views = np.concatenate([*corners, *(view[:, :, ::-1] for view in corners)])
    np.testing.assert_allclose(ten, np.exp(log_probs_of(model, *start, views))[0].mean(0), rtol=1e-4)


def test_is_error_gives_no_credit_for_ties_or_nan():
    scores = np.float32([[1, 1, 1], [0, 2, 2], [3, 1, 2], [np.nan] * 3])
    for xp in (np, jnp):
        assert np.asarray(is_error(xp.asarray(scores), xp.asarray([1, 2, 0, 0]), 1)).tolist() == [True, True, False, True]
        assert np.asarray(is_error(xp.asarray(scores), xp.asarray([1, 2, 1, 0]), 2)).tolist() == [False, False, True, True]
        assert np.asarray(is_error(xp.asarray(scores[:3]), xp.asarray([0, 1, 2]), 5)).tolist() == [False] * 3
