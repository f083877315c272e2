"""The update rules against a float64 reference in numpy, over 50 steps with two drops of the rate."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax.optimizer import make_optimizer

MOMENTUM, DECAY = 0.9, 5e-4
RATES = [1e-2] * 20 + [1e-3] * 15 + [1e-4] * 15


def gradients(w, step):
    """Of a made-up loss, the same in numpy and JAX."""
    return {name: 2 * value + np.float32(np.cos(step)) for name, value in w.items()}


def reference(rule, bias):
    w = {"kernel": np.array([1.0, -2.0, 3.0]), "bias": np.array([0.5])}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    path = []
    for step, rate in enumerate(RATES):
        for name, gradient in gradients(w, step).items():
            special = bias == "caffe" and name == "bias"
            lr, decay = rate * (2 if special else 1), 0 if special else DECAY
            if rule == "paper":
                v[name] = MOMENTUM * v[name] - decay * lr * w[name] - lr * gradient
                w[name] = w[name] + v[name]
            else:
                v[name] = MOMENTUM * v[name] + gradient + decay * w[name]
                w[name] = w[name] - lr * v[name]
        path.append(np.concatenate([w["kernel"], w["bias"]]))
    return np.array(path)


def ours(rule, bias):
    w = {"kernel": jnp.array([1.0, -2.0, 3.0]), "bias": jnp.array([0.5])}
    state = make_optimizer(RATES[0], MOMENTUM, DECAY, rule=rule, bias=bias).init(w)
    path = []
    for step, rate in enumerate(RATES):
        optimizer = make_optimizer(jnp.float32(rate), jnp.float32(MOMENTUM), jnp.float32(DECAY), rule=rule, bias=bias)
        updates, state = optimizer.update(gradients(w, step), state, w)
        w = optax.apply_updates(w, updates)
        path.append(np.concatenate([w["kernel"], w["bias"]]))
    return np.array(path)


@pytest.mark.parametrize("rule", ["paper", "torch"])
@pytest.mark.parametrize("bias", ["same", "caffe"])
def test_rule_is_the_reference(rule, bias):
    np.testing.assert_allclose(ours(rule, bias), reference(rule, bias), atol=1e-6)


def test_rules_agree_until_the_rate_drops_and_then_do_not():
    paper, torch = reference("paper", "same"), reference("torch", "same")
    np.testing.assert_allclose(paper[:20], torch[:20], atol=1e-12)
    # At the drop the paper's velocity keeps its scale: its first step is nearly ten times PyTorch's.
    ratio = np.abs(paper[20] - paper[19])[0] / np.abs(torch[20] - torch[19])[0]
    assert 5 < ratio < 11
    np.testing.assert_allclose(ours("paper", "same")[20:25], paper[20:25], atol=1e-6)


@pytest.mark.parametrize("kwargs", [{"rule": "adam"}, {"bias": "none"}])
def test_unknown_choices_are_refused(kwargs):
    with pytest.raises(ValueError, match="known rules: paper, torch"):
        make_optimizer(0.1, 0.9, 0.0, **kwargs)


@pytest.mark.parametrize("rule", ["paper", "torch"])
@pytest.mark.parametrize("bias", ["same", "caffe"])
def test_lars_makes_every_step_a_share_of_its_arrays_norm(rule, bias):
    """The first step moves an array by lr * trust * |w|, whatever its gradient; an array of zeros by lr times its gradient."""
    w = {"fc6": {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.array([0.0, 0.0])}, "fc7": {"kernel": jnp.array([[1e-3]])}}
    w["fc7"]["bias"] = jnp.array([2.0])
    g = {"fc6": {"kernel": jnp.array([[0.0, 100.0]]), "bias": jnp.array([1.0, 2.0])}, "fc7": {"kernel": jnp.array([[-7.0]])}}
    g["fc7"]["bias"] = jnp.array([5.0])
    optimizer = make_optimizer(0.1, 0.9, 0.0, rule=rule, bias=bias, lars=0.01)
    updates, _ = optimizer.update(g, optimizer.init(w), w)
    np.testing.assert_allclose(updates["fc6"]["kernel"], [[0, -0.1 * 0.01 * 5]], rtol=1e-5)
    np.testing.assert_allclose(updates["fc7"]["kernel"], [[0.1 * 0.01 * 1e-3]], rtol=1e-5)
    np.testing.assert_allclose(updates["fc7"]["bias"], [-0.1 * 0.01 * 2], rtol=1e-5)
    np.testing.assert_allclose(updates["fc6"]["bias"], np.array([-0.1, -0.2]) * (2 if bias == "caffe" else 1), rtol=1e-6)


def test_lars_takes_decay_into_its_ratio():
    """Section 4 of the LARS paper has |g| + wd |w| in the ratio, optax.lars and this |g + wd w|: the same where they are parallel."""
    w, g = {"kernel": jnp.array([3.0, 4.0])}, {"kernel": jnp.array([6.0, 8.0])}
    optimizer = make_optimizer(0.1, 0.0, 0.5, rule="paper", lars=0.01)
    updates, _ = optimizer.update(g, optimizer.init(w), w)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.01 * 5 / (10 + 0.5 * 5) * (np.array([6, 8]) + 0.5 * np.array([3, 4])), rtol=1e-5)


def test_a_negative_trust_coefficient_is_refused():
    with pytest.raises(ValueError, match=r"optimizer\.lars is -1"):
        make_optimizer(0.1, 0.9, 0.0, lars=-1.0)
