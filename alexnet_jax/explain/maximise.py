"""The page of images that excite classes and filters most: made from noise, by gradient ascent on the pixels.

    write_page(subject, Asked(["fc8"], filters="9"), out)

Two regularisers keep the images legible (Yosinski et al., 2015, describe such): each step sees the image shifted and scaled at random, and
total variation is held down. Pixels stay between 0 and 255. In the folder `out`:

    maximise.html                 a figure for each layer, with a row for each class or filter
    figures/LAYER.png, .svg
    maximise.npz                  of each layer its `units`, `images` float32 (units, starts, size, size, C) and `values` (units, starts)
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.augment import evaluation_view
from alexnet_jax.errors import UserError
from alexnet_jax.explain import figures, methods
from alexnet_jax.explain.choice import chosen
from alexnet_jax.explain.rules import Leaky, check_relu
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.alexnet import LAST
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.progress import ImageBar
from alexnet_jax.report import page
from alexnet_jax.report.style import any_script
from alexnet_jax.runlog import writing
from alexnet_jax.subject import Subject

FEW = 12  # up to this many classes, all are shown


class Settings(NamedTuple):
    """The ascent, by Adam."""

    steps: int = 200
    starts: int = 4  # images of each unit, from different noise
    rate: float = 4.0  # grey levels by which a step moves a pixel
    variation: float = 0.2  # weight of a pixel's total variation, beside the unit's gradient of root mean square 1
    jitter: float = 0.06  # of the size: the largest random shift
    scale: float = 0.1  # 0.9 to 1.1


class Asked(NamedTuple):
    """What is asked."""

    layers: list[str]
    filters: str = "9"  # how many random ones, or a list with commas; of up to `FEW` classes all
    seed: int = 0
    settings: Settings = Settings()
    note: str = ""


@any_script()
def write_page(subject: Subject, asked: Asked, out: Path) -> Path:
    """Make the images, write the page and its files, and return the page's path. It shows the subject's first network.

    Raises:
      UserError: a layer has no such filter, the network has no ReLUs, or a file can't be written.
    """
    if min(asked.settings.steps, asked.settings.starts) < 1:
        raise UserError(f"--steps {asked.settings.steps} and --starts {asked.settings.starts} must be at least 1")
    check_relu(subject.model, "maximisation")
    sections, arrays = [], dict[str, Any]()
    for layer in asked.layers:
        count = subject.shapes[layer][-1]
        classes = layer == LAST
        of = np.arange(count) if classes and count <= FEW and "," not in asked.filters else chosen(asked.filters, count, layer)
        images, values = maximise(subject, layer, of, asked.seed, asked.settings)
        arrays |= {f"{layer}_units": of, f"{layer}_images": images, f"{layer}_values": values}
        names = [subject.short_labels[unit] if classes else f"filter {unit}" if layer.startswith("conv") else f"unit {unit}" for unit in of]
        figure = figures.rows_figure(names, np.round(images).astype(np.uint8), asked.note)
        alt = f"Images made to excite {', '.join(names)} of {layer}, {asked.settings.starts} of each"
        sections.append(
            page.Section("Classes" if classes else layer, [page.Text(_in_words(layer, values)), page.Drawing(layer, figure, alt)])
        )
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out / "maximise.npz", **arrays)
    page.write_figures(out / "figures", sections)
    title = f"What {subject.run.workdir.resolve().name} would like to see"
    status = f"{subject.members[0]} at step {int(subject.run.state.step):,}, seed {asked.seed}"
    page.write_page(out / "maximise.html", title, status, f"{asked.note}. {_WHAT}" if asked.note else _WHAT, sections)
    page.write_result(out, status)
    return out / "maximise.html"


_WHAT = (
    "These images were made from noise, step by step, to raise one value of the network as far as possible. They show what the network "
    "asks for, and not what its classes look like: it has never had to tell images from noise."
)


def _in_words(layer: str, values: np.ndarray) -> str:
    one, value = ("class", "logit") if layer == LAST else ("filter", "sum of its map") if layer.startswith("conv") else ("unit", "output")
    return f"Each row: images from different noise for one {one}. Its {value} ends at {values.min():.3g} to {values.max():.3g}."


def maximise(subject: Subject, layer: str, of: np.ndarray, seed: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Images, float32 (units, starts, size, size, C) of 0 to 255, that excite units of the first network, and the units' values.

    Of a filter, the whole map is raised.
    """
    import optax

    model, size, stats = Leaky(subject.model.arch, subject.model.classes), subject.model.arch.input_size, subject.run.stats
    (params, hyper), key = subject.first, jax.random.key(seed)
    units = np.zeros((len(of), settings.starts, *subject.shapes[layer]), np.float32)
    for unit, filter in zip(units, of, strict=True):
        unit[..., filter] = 1
    units = units.reshape(-1, *units.shape[2:])
    # Every unit starts from the same noise, so that rows can be compared.
    noise = 20 * jax.random.normal(key, (settings.starts, size, size, subject.channels)) + stats.mean
    images = jnp.tile(jnp.clip(noise, 0, 255), (len(of), 1, 1, 1))
    optimizer = optax.adam(settings.rate)
    state = optimizer.init(images)

    def values(params: Any, hyper: Hyper, images: jax.Array, units: jax.Array) -> jax.Array:
        views = jax.vmap(lambda image: evaluation_view(image, hyper, stats, size))(images)
        return methods.values(model, layer, params, hyper, views, units)

    @jax.jit
    def step(params: Any, hyper: Hyper, images: jax.Array, units: jax.Array, state: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        up = jax.grad(lambda images: values(params, hyper, _moved(images, key, settings, stats), units).sum())(images)
        down = jax.grad(lambda images: _variation(images).sum())(images)
        up /= jnp.sqrt(jnp.mean(up**2, axis=(1, 2, 3), keepdims=True)) + 1e-12
        updates, state = optimizer.update(settings.variation * down - up, state)
        return jnp.clip(images + updates, 0, 255), state

    with ImageBar(settings.steps * len(images), layer, every=30) as bar:
        for number in range(settings.steps):
            images, state = step(params, hyper, images, units, state, jax.random.fold_in(key, number + 1))
            bar.add(len(images))
    found, shape = jax.jit(values)(params, hyper, images, jnp.asarray(units)), (len(of), settings.starts)
    return np.asarray(images).reshape(*shape, *images.shape[1:]), np.asarray(found).reshape(shape)


def _moved(images: jax.Array, key: jax.Array, settings: Settings, stats: PixelStats) -> jax.Array:
    """The images shifted and scaled about their middle, all alike; the mean fills what becomes free."""
    size = images.shape[1]
    shift_key, scale_key = jax.random.split(key)
    shift = settings.jitter * size * jax.random.uniform(shift_key, (2,), minval=-1, maxval=1)
    scale = 1 + settings.scale * jax.random.uniform(scale_key, (), minval=-1, maxval=1)
    place = (shift + size / 2 * (1 - scale)).astype(images.dtype)

    def one(image: jax.Array) -> jax.Array:
        return jax.image.scale_and_translate(image, image.shape, (0, 1), jnp.stack([scale, scale]), place, "linear", antialias=False)

    return jax.vmap(one)(images - stats.mean) + stats.mean


def _variation(images: jax.Array) -> jax.Array:
    """Total variation (B,) with a smooth corner at 0: the sum over pixels of the length of the differences to the right and below.

    At the last column and row such a difference is 0, so that every pixel has a part in it, the last one too.
    """
    right, below = (jnp.diff(images, axis=axis, append=jax.lax.slice_in_dim(images, -1, None, axis=axis)) for axis in (2, 1))
    return jnp.sqrt(right**2 + below**2 + 1).sum((1, 2, 3))
