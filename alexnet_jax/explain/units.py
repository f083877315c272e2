"""The page of units: the images of a split that excite filters most, each beside its projection by the deconvnet (Zeiler and Fergus, 2014).

    write_page(subject, dataset, Asked(["conv1", "conv2"], filters="9", top=9, split="test"), out)

The split is streamed once: of each filter only its strongest places are kept, one an image. Then only those images are read again. In the
folder `out`:

    units.html               a table of receptive fields, and a figure for each layer
    figures/LAYER.png, .svg
    units.npz                of each layer its `filters`, and their (filters, top) `value`, `image` (its index in the whole split), `row`
                             and `column`
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import data, parallel, turns
from alexnet_jax.augment import evaluation_view
from alexnet_jax.errors import UserError
from alexnet_jax.examples import Examples
from alexnet_jax.explain import figures, methods
from alexnet_jax.explain.choice import chosen
from alexnet_jax.explain.rules import Deconvnet, check_relu
from alexnet_jax.model.forward import layer_outputs
from alexnet_jax.model.layers import ReceptiveField, receptive_fields
from alexnet_jax.progress import ImageBar
from alexnet_jax.report import page
from alexnet_jax.report.style import any_script
from alexnet_jax.runlog import writing
from alexnet_jax.subject import Subject

BATCH = 32  # units that are projected at once


class Asked(NamedTuple):
    """What is asked."""

    layers: list[str]
    filters: str  # how many random ones, or a list with commas
    top: int
    split: str
    batch_size: int | None = None
    note: str = ""


class Strongest(NamedTuple):
    """The places of a split that excite filters most, at most one in an image: arrays (filters, top), the strongest first."""

    value: np.ndarray  # float32; -inf where the split has fewer images
    image: np.ndarray  # its index in the split
    row: np.ndarray  # of the layer's map
    column: np.ndarray

    @classmethod
    def none(cls, filters: int, top: int) -> "Strongest":
        places = [np.zeros((filters, top), np.int64) for _ in range(3)]
        return cls(np.full((filters, top), -np.inf, np.float32), *places)

    def with_batch(self, value: np.ndarray, place: np.ndarray, image: np.ndarray, width: int) -> "Strongest":
        """These and a batch's: each image's largest `value` (B, filters), its `place` in the flat map, and the `image` indices (B,)."""
        image = np.broadcast_to(image[:, None], value.shape)
        row, column = np.divmod(place, width)
        joined = [np.concatenate([kept, new.T], 1) for kept, new in zip(self, (value, image, row, column), strict=True)]
        best = np.argsort(-joined[0], axis=1, kind="stable")[:, : self.value.shape[1]]
        return Strongest(*(np.take_along_axis(each, best, 1) for each in joined))


@any_script()
def write_page(subject: Subject, dataset: data.Dataset, asked: Asked, out: Path) -> Path:
    """Search the split, write the page and its files, and return the page's path. It shows the subject's first network.

    Raises:
      UserError: there is no such split or filter, the network has no ReLUs, or a file can't be written.
    """
    check_relu(subject.model, "the deconvnet")
    arch, fields = subject.model.arch, receptive_fields(subject.model.arch, subject.channels)
    dense = [layer for layer in asked.layers if layer not in fields]
    if dense:
        raise UserError(f"--units shows filters, and {dense[0]} has none; choose layers among conv1..conv5")
    of = {layer: chosen(asked.filters, subject.shapes[layer][-1], layer) for layer in asked.layers}
    found = search(subject, dataset, asked, of)
    sections = [page.Section("Receptive fields", [page.Text(_FIELDS), _fields_table(fields)])]
    source = dataset.source(asked.split)
    for layer, strongest in found.items():
        patches, projected = project(subject, source, layer, of[layer], strongest, fields[layer])
        figure = figures.units_figure(of[layer], patches, projected, asked.note)
        alt = f"For filters {', '.join(map(str, of[layer]))} of {layer}: the image patches that excite it most, and their projections"
        sections.append(
            page.Section(
                layer, [page.Text(_layer_in_words(fields[layer], of[layer], asked, len(source))), page.Drawing(layer, figure, alt)]
            )
        )
    arrays: dict[str, Any] = {f"{layer}_filters": filters for layer, filters in of.items()}
    for layer, strongest in found.items():
        in_whole = strongest._replace(image=source.places()[strongest.image])
        arrays |= {f"{layer}_{field}": values for field, values in in_whole._asdict().items()}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out / "units.npz", **arrays)
    page.write_figures(out / "figures", sections)
    path = out / "units.html"
    title = f"What excites the filters of {subject.run.workdir.resolve().name}"
    shown = f"{dataset.name}, {asked.split}, {len(source):,} images of {arch.input_size} pixels"
    status = f"{subject.members[0]} at step {int(subject.run.state.step):,}; {shown}"
    page.write_page(path, title, status, f"{asked.note}. {_WHAT}" if asked.note else _WHAT, sections)
    page.write_result(out, f"{status}\n" + "\n".join(f"{layer}: filters {', '.join(map(str, of[layer]))}" for layer in found))
    return path


_WHAT = (
    "Left in each pair: the patches that excite a filter most. Right: what in each patch did it, as the deconvnet projects the filter's "
    "one output back to the pixels, by the switches of the pools."
)
_FIELDS = (
    "The pixels on which one unit depends, computed from the network: their number in height and width, the pixels between neighbouring "
    "units, and the first pixel of the first unit. Before pixel 0 is zero padding."
)


def search(subject: Subject, dataset: data.Dataset, asked: Asked, of: dict[str, np.ndarray]) -> dict[str, Strongest]:
    """The strongest places of the chosen filters of each layer in the whole split, for the subject's first network."""
    model, size = subject.model, subject.model.arch.input_size

    def largest(params: Any, hyper: Any, images: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        def of_member(params: Any, hyper: Any) -> dict[str, tuple[jax.Array, jax.Array]]:
            views = jax.vmap(lambda image: evaluation_view(image, hyper, subject.run.stats, size))(images)
            outputs = layer_outputs(model, params, views, hyper)
            flat = {layer: outputs[layer][..., filters].reshape(len(views), -1, len(filters)) for layer, filters in of.items()}
            return {layer: (x.max(1), x.argmax(1)) for layer, x in flat.items()}

        return jax.vmap(of_member)(params, hyper)

    if asked.batch_size is not None:
        parallel.check_batch_size(asked.batch_size, "--batch-size")
    source, one = dataset.source(asked.split), turns.plan(1, 1)
    batch_size = parallel.even(min(asked.batch_size or subject.run.config.eval.batch_size, len(source)))
    first = jax.tree.map(lambda leaf: leaf[:1], (subject.params, subject.hyper))
    program = turns.predictor(largest, one, *(turns.place(tree, one) for tree in first))
    _, *widths = model.arch.map_sizes
    width = {"conv1": model.arch.map_sizes[0], "conv2": widths[0]}
    found = {layer: Strongest.none(len(filters), asked.top) for layer, filters in of.items()}
    with ImageBar(len(source), asked.split, every=30) as bar:
        for batch in data.eval_batches(source, batch_size=batch_size, threads=subject.run.config.data.threads):
            seen = batch["mask"]
            for layer, (value, place) in program(batch["image"]).items():
                new = value[0][seen], place[0][seen], batch["index"][seen].astype(np.int64)
                found[layer] = found[layer].with_batch(*new, width.get(layer, widths[1]))
            bar.add(int(seen.sum()))
    return found


def project(
    subject: Subject, source: Examples, layer: str, filters: np.ndarray, strongest: Strongest, field: ReceptiveField
) -> tuple[np.ndarray, np.ndarray]:
    """The patch of each place (filters, top, size, size, C), float32 pixels, and its projection; both NaN outside the receptive field."""
    model, pixels = Deconvnet(subject.model.arch, subject.model.classes), subject.model.arch.input_size
    params, hyper = subject.first

    @jax.jit
    def back(params: Any, hyper: Any, images: jax.Array, filter: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        views = jax.vmap(lambda image: evaluation_view(image, hyper, subject.run.stats, pixels))(images)
        shape = jax.eval_shape(lambda: layer_outputs(model, params, views, hyper)[layer]).shape
        units = jnp.zeros(shape).at[jnp.arange(len(images)), row, column, filter].set(1)
        return methods.projections(model, layer, params, hyper, views, units)

    def windows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        flat = [
            np.repeat(filters, strongest.value.shape[1]),
            *(each.ravel() for each in (strongest.row, strongest.column, strongest.image)),
        ]
        for start in range(0, len(flat[0]), BATCH):
            # The last batch is filled with its first place, so that one program does for all.
            count = min(BATCH, len(flat[0]) - start)
            filter, row, column, image = (np.resize(each[start : start + BATCH], BATCH) for each in flat)
            images = source.gather(image)["image"]
            projected = np.asarray(back(params, hyper, images, filter, row, column))
            for i in range(count):
                yield _window(subject.crop(images[i]), field, row[i], column[i]), _window(projected[i], field, row[i], column[i])

    pairs = [np.stack(each) for each in zip(*windows(), strict=True)]
    patches, projected = (each.reshape(*strongest.value.shape, *each.shape[1:]) for each in pairs)
    missing = np.isinf(strongest.value)
    patches[missing] = projected[missing] = np.nan
    return patches, projected


def _window(picture: np.ndarray, field: ReceptiveField, row: int, column: int) -> np.ndarray:
    """The receptive field of a unit cut out of a picture (size, size, C), and no more than the picture; NaN outside the field."""
    size = len(picture)
    box = min(field.size, size)
    spans = [field.of(int(unit)) for unit in (row, column)]
    rows, columns = (np.arange(box) + np.clip(first, 0, size - box) for first, _ in spans)
    inside = [(first <= pixels) & (pixels < end) for pixels, (first, end) in zip((rows, columns), spans, strict=True)]
    return np.where(np.outer(*inside)[..., None], picture[np.ix_(rows, columns)].astype(np.float32), np.nan)


def _fields_table(fields: dict[str, ReceptiveField]) -> page.Table:
    rows = [(name, str(field.size), str(field.stride), str(field.start)) for name, field in fields.items()]
    return page.Table(("layer", "receptive field", "stride", "first pixel"), rows)


def _layer_in_words(field: ReceptiveField, filters: np.ndarray, asked: Asked, images: int) -> str:
    random, shown = "" if "," in asked.filters else " drawn at random", min(asked.top, images)
    return (
        f"{len(filters)} filters{random}: {', '.join(map(str, filters))}. For each, the {shown} images of {asked.split} with its largest "
        f"outputs, cut to the unit's receptive field of {field.size} x {field.size} pixels; what is outside it is blank. Each projection "
        "is divided by its largest value; mid-grey is zero."
    )
