"""What the methods of explain compute: each against its definition, on small networks with random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from sklearn.datasets import load_digits

from alexnet_jax.errors import UserError
from alexnet_jax.explain import methods
from alexnet_jax.explain.rules import Deconvnet, Explained, Guided
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.architecture import architecture, model_config
from alexnet_jax.model.forward import layer_outputs, logits
from alexnet_jax.model.layers import receptive_fields

SMALL = dataclasses.replace(architecture(model_config("small")), width=0.04)
SETTINGS = methods.Settings().sized(SMALL.input_size)


def networks(arch, channels=1, members=1, classes=10):
    """A module, random parameters (M, ...), with biases that are not all zero, and the constants of its members."""
    model, rng = Explained(arch, classes), np.random.default_rng(0)
    image = jnp.zeros((1, arch.input_size, arch.input_size, channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, Hyper())["params"]

    def draw(leaf):
        deviation = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if leaf.ndim > 1 else 0.1
        return rng.normal(0, deviation, (members, *leaf.shape)).astype(np.float32)

    return model, jax.tree.map(draw, shapes), jax.tree.map(lambda value: np.full(members, value, np.float32), Hyper())


def one(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def view(arch, channels=1, seed=0):
    return np.random.default_rng(seed).normal(0, 50, (arch.input_size, arch.input_size, channels)).astype(np.float32)


def class_of(target, classes=10):
    return np.eye(classes, dtype=np.float32)[target]


@pytest.fixture(scope="module")
def small():
    """A network, a view, and all that the tests ask of it for class 0: one program, so that it compiles once."""
    model, params, hyper = networks(SMALL)
    params, hyper, x, unit = one(params), one(hyper), view(SMALL), class_of(0)
    asked = {name: (name, SETTINGS) for name in ("gradient", "gradcam")}
    asked["integrated"] = ("integrated", SETTINGS._replace(steps=128))
    asked["occlusion"] = ("occlusion", SETTINGS._replace(window=14, stride=14))
    asked |= {f"smoothgrad {noise}": ("smoothgrad", SETTINGS._replace(draws=4, noise=noise)) for noise in (0.0, 0.2)}
    made = {key: methods.make(name, model, "fc8", "conv5", settings) for key, (name, settings) in asked.items()}
    found = jax.jit(lambda *given: {key: method(*given) for key, method in made.items()})(params, hyper, x, unit)
    outputs = jax.jit(lambda views: layer_outputs(model, params, views, hyper))
    return model, params, hyper, x, {key: np.asarray(value) for key, value in found.items()}, outputs


def test_the_gradient_is_that_of_finite_differences():
    arch = dataclasses.replace(SMALL, activation="tanh")  # a ReLU has a kink
    model, params, hyper = networks(arch)
    x, direction, step = view(arch), view(arch, seed=7) / 50, 0.02
    logit = jax.jit(lambda views: logits(model, one(params), views, one(hyper))[:, 3])
    ahead, behind = (float(value) for value in logit(np.stack([x + step * direction, x - step * direction])))
    gradient = jax.jit(methods.make("gradient", model, "fc8", "conv5", SETTINGS))(one(params), one(hyper), x, class_of(3))
    assert float(jnp.vdot(gradient, direction)) == pytest.approx((ahead - behind) / (2 * step), rel=0.02)


def test_smoothgrad_without_noise_is_the_gradient(small):
    *_, found, _ = small
    largest = np.abs(found["gradient"]).max()
    np.testing.assert_allclose(found["smoothgrad 0.0"], found["gradient"], atol=1e-5 * largest)
    assert np.abs(found["smoothgrad 0.2"] - found["gradient"]).max() > 0.01 * largest


def test_integrated_gradients_are_complete(small):
    """Their sum is the difference of the logits (Sundararajan et al., 2017, proposition 1)."""
    *_, x, found, outputs = small
    at, base = outputs(np.stack([x, np.zeros_like(x)]))["fc8"][:, 0]
    assert abs(float(at - base)) > 0.1
    assert found["integrated"].sum() == pytest.approx(float(at - base), rel=0.02)


def test_gradcam_weights_each_map_by_its_mean_gradient(small):
    model, params, hyper, x, found, outputs = small
    maps, step = np.asarray(outputs(x[None])["conv5"]), 1e-2
    filters, places = maps.shape[-1], maps.shape[1] * maps.shape[2]
    moved = np.zeros((2 * filters, *maps.shape[1:]), np.float32)  # each filter's map, a little higher and a little lower everywhere
    for filter in range(filters):
        moved[filter, ..., filter], moved[filters + filter, ..., filter] = step, -step
    views = np.broadcast_to(x, (2 * filters, *x.shape))
    high, low = np.split(
        np.asarray(jax.jit(lambda added: layer_outputs(model, params, views, hyper, added={"conv5": added})["fc8"])(moved))[:, 0], 2
    )
    expected = np.maximum(maps[0] @ ((high - low) / (2 * step) / places), 0)
    field = receptive_fields(SMALL, 1)["conv5"]
    centres = field.start + field.stride * np.arange(len(expected)) + field.size // 2  # whole pixels: the sizes are odd
    inside = (centres >= 0) & (centres < SMALL.input_size)
    assert inside.sum() > 2
    assert expected.max() > 0
    at_centres = found["gradcam"][np.ix_(centres[inside], centres[inside])]
    np.testing.assert_allclose(at_centres, expected[np.ix_(inside, inside)], atol=0.03 * expected.max())


def test_occlusion_is_the_fall_under_the_square_that_covers_a_pixel(small):
    *_, x, found, outputs = small
    quarters = [(slice(top, top + 14), slice(left, left + 14)) for top in (0, 14) for left in (0, 14)]
    views = np.stack([x] * 5)
    for i, quarter in enumerate(quarters):
        views[i][quarter] = 0
    logit = np.asarray(outputs(views)["fc8"][:, 0])
    for i, quarter in enumerate(quarters):
        np.testing.assert_allclose(found["occlusion"][quarter], logit[4] - logit[i], rtol=1e-3, atol=1e-4)


def back_through_pool(signal, x, size, stride):
    """Unpooling by hand: every value returns to the first place, in reading order, of its window's maximum."""
    found = np.zeros_like(x)
    for row, column, filter in np.ndindex(*signal.shape):
        window = x[row * stride : row * stride + size, column * stride : column * stride + size, filter]
        y, z = np.unravel_index(window.argmax(), window.shape)
        found[row * stride + y, column * stride + z, filter] += signal[row, column, filter]
    return found


def back_through_conv(signal, params, name, into):
    kernel, padding = params[name]["kernel"], params[name]["kernel"].shape[0] // 2
    transposed = jax.linear_transpose(
        lambda x: lax.conv_general_dilated(x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")),
        jax.ShapeDtypeStruct((1, *into), jnp.float32),
    )
    return np.asarray(transposed(signal[None])[0][0])


def test_the_deconvnet_is_the_papers_layer_by_layer(small):
    """From a filter of conv3 back: transposed filters, LRN passed by, unpooling, rectification, down to pixels."""
    model, params, hyper, x, _, outputs = small
    outputs = {name: np.asarray(x[0]) for name, x in outputs(x[None]).items()}
    row, column, filter = np.unravel_index(outputs["conv3"].argmax(), outputs["conv3"].shape)
    unit = np.zeros(outputs["conv3"].shape, np.float32)
    unit[row, column, filter] = 1
    found = jax.jit(methods.make("deconvnet", model, "conv3", "conv5", SETTINGS))(params, hyper, x, unit)

    signal = unit * outputs["conv3"]
    for name, before in (("conv3", "conv2"), ("conv2", "conv1")):
        pooled = (*((size - 3) // 2 + 1 for size in outputs[before].shape[:2]), outputs[before].shape[2])
        signal = back_through_conv(np.maximum(signal, 0), params, name, pooled)
        signal = back_through_pool(signal, outputs[before], 3, 2)
    signal = back_through_conv(np.maximum(signal, 0), params, "conv1", (28, 28, 1))
    assert np.abs(signal).max() > 0
    np.testing.assert_allclose(found, signal * SMALL.pixel_scale, rtol=1e-4, atol=1e-5 * np.abs(signal * SMALL.pixel_scale).max())


def test_ties_return_to_the_first_place_as_in_max_pool():
    arch = dataclasses.replace(SMALL, lrn=False)
    model = Deconvnet(arch, 10)
    x = jnp.zeros((1, 5, 5, 1)).at[0, 1, 1].set(2.0).at[0, 1, 2].set(2.0).at[0, 2, 0].set(2.0)
    signal = np.arange(1.0, 5).reshape(1, 2, 2, 1).astype(np.float32)
    (found,) = jax.jit(lambda: jax.vjp(model.pool, x)[1](signal))()
    np.testing.assert_array_equal(found[0], back_through_pool(signal[0], np.asarray(x[0]), 3, 2))
    assert found[0, 1, 1, 0] == 1  # not [1, 2], and not [2, 0]


class Linear(Deconvnet):
    """A deconvnet without a ReLU, and with average pooling."""

    def activation(self, x):
        return x

    def pool(self, x):
        size, stride = self.arch.pool_size, self.arch.pool_stride
        return lax.reduce_window(x, 0.0, lax.add, (1, size, size, 1), (1, stride, stride, 1), "VALID") / size**2


def test_the_deconvnet_of_a_linear_network_is_its_gradient_times_the_output():
    arch = dataclasses.replace(SMALL, lrn=False)
    _, params, hyper = networks(arch)
    model, x, unit = Linear(arch, 10), view(arch)[None], class_of(5)[None]
    functions = methods.gradients, methods.values, methods.projections
    gradient, output, found = jax.jit(lambda: [each(model, "fc8", one(params), one(hyper), x, unit) for each in functions])()
    np.testing.assert_allclose(found, gradient * output * arch.pixel_scale**2, rtol=1e-4, atol=1e-6)


def test_the_pixel_scale_is_undone_for_each_channel():
    arch = dataclasses.replace(SMALL, lrn=False, pixel_scale=(50.0, 100.0, 200.0))
    _, params, hyper = networks(arch, channels=3)
    params["conv1"]["kernel"] = np.repeat(params["conv1"]["kernel"][:, :, :, :1], 3, 3)
    x, unit = view(arch, 3)[None], class_of(5)[None]
    found = jax.jit(lambda: methods.projections(Deconvnet(arch, 10), "fc8", one(params), one(hyper), x, unit))()[0]
    assert float(jnp.abs(found).max()) > 0
    np.testing.assert_allclose(
        found[..., 1], 2 * found[..., 0], rtol=1e-4
    )  # equal filters send back equal signals, on channels of unequal scales
    np.testing.assert_allclose(found[..., 2], 4 * found[..., 0], rtol=1e-4)


@pytest.mark.parametrize(("kind", "kept"), [(Guided, lambda x, g: (x > 0) & (g > 0)), (Deconvnet, lambda x, g: g > 0)])
def test_rules_of_the_relu(kind, kept):
    x, g = jnp.meshgrid(jnp.array([-1.0, 2.0]), jnp.array([-3.0, 4.0]))
    _, back = jax.vjp(kind(SMALL, 10).activation, x)
    np.testing.assert_array_equal(back(g)[0], jnp.where(kept(x, g), g, 0))


def test_forward_every_rule_is_the_network():
    _, params, hyper = networks(SMALL)
    given = one(params), view(SMALL)[None], one(hyper)
    kinds = AlexNet, Explained, Guided, Deconvnet
    plain, *others = jax.jit(lambda: [logits(kind(SMALL, 10), *given) for kind in kinds])()
    for other in others:
        np.testing.assert_array_equal(other, plain)


def test_members_are_explained_at_once_as_alone():
    model, params, hyper = networks(SMALL, members=2)
    given = params, hyper, np.stack([view(SMALL, seed=seed) for seed in (0, 1)]), np.stack([class_of(0), class_of(1)])
    method = methods.make("occlusion", model, "fc8", "conv5", SETTINGS._replace(window=14, stride=14))
    both, second = jax.jit(jax.vmap(method))(*given), jax.jit(method)(*jax.tree.map(lambda leaf: leaf[1], given))
    np.testing.assert_allclose(both[1], second, rtol=1e-4, atol=1e-5 * float(jnp.abs(second).max()))


@pytest.mark.slow
def test_occluding_the_digit_lowers_its_class_and_the_blank_half_does_nothing():
    """A network that is trained on halves of digits, left or right; the other half is the mean, 0."""
    arch = dataclasses.replace(SMALL, width=0.06, lrn=False)
    model, params, hyper = networks(arch)
    images, labels = load_digits(return_X_y=True)
    upright = np.kron(images.reshape(-1, 8, 8)[..., None], np.ones((1, 3, 1, 1), np.float32)).repeat(3, 2) * 16.0
    halves = np.zeros((len(images), 28, 28, 1), np.float32)
    halves[:, 2:26, 2:14] = upright[:, :, 6:18] - 80  # the middle of the digit
    params, optimizer = one(params), optax.adam(3e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(logits(model, params, x, one(hyper)), y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for i in range(80):
        batch = slice(i * 32 % 1700, i * 32 % 1700 + 32)
        params, state = step(params, state, halves[batch], labels[batch])
    method = jax.jit(methods.make("occlusion", model, "fc8", "conv5", SETTINGS._replace(window=14, stride=7)))
    answers = jax.jit(lambda views: logits(model, params, views, one(hyper)))(halves[1700:1760]).argmax(-1)
    right = np.asarray(answers) == labels[1700:1760]
    places = 1700 + np.flatnonzero(right)[:12]
    found = np.stack([method(params, one(hyper), halves[place], class_of(labels[place])) for place in places])
    assert right.mean() > 0.5
    np.testing.assert_allclose(found[:, :, 21:], 0, atol=1e-4)  # here every square lies within the blank half
    assert (found[:, :, 2:14].mean((1, 2)) > 0).mean() > 0.8


def test_what_a_method_can_not_do_is_said():
    tanh = Explained(dataclasses.replace(SMALL, activation="tanh"), 10)
    with pytest.raises(UserError, match="guided is defined for ReLUs, this network has tanh"):
        methods.make("guided", tanh, "fc8", "conv5", SETTINGS)
    with pytest.raises(UserError, match="--layer fc7 is none; choose one of conv1, conv2"):
        methods.make("gradcam", Explained(SMALL, 10), "fc8", "fc7", SETTINGS)
    with pytest.raises(UserError, match="unknown method 'gradcan'; did you mean gradcam"):
        methods.check_method("gradcan")
    with pytest.raises(UserError, match="--window 40 is larger than what the network sees, 28 x 28"):
        methods.Settings(window=40).sized(28)
