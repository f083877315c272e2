"""Writes what the layers of a run's networks put out for every image of a split, for whatever else is to be done with it.

    python -m alexnet_jax.features --run runs/digits --split test --layers conv5..fc7 --out features.safetensors
    python -m alexnet_jax.features --run runs/digits --split 'train[:2000]' --layers fc7 --member 0 --dtype float16 --out features.npz

The file holds:

    conv1 ... fc8    (members, examples, height, width, filters) or (members, examples, units): the layers' outputs, after their ReLUs;
                     fc8 are the logits
    label, index     int32 (examples,): the class, and the place in the whole split, also where a part is asked for
    members, classes, outputs, about, digest    the networks' names, the names of the labels and of fc8's outputs, what this is, and the
                     SHA-256 of the parameters and of the dataset's description: arrays in an npz, metadata in a safetensors file

The networks are those of evaluation: the centre crop, no dropout. Memory holds a batch. A command that was stopped goes on where it was,
with the file OUT.part. experiments.probe and experiments.similarity call `batches`:

    for batch in batches(subject, dataset.source("test"), ["fc7"], 500):
        batch["fc7"]    # (M, B, units)
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError, run_cli, say
from alexnet_jax.progress import ImageBar

if TYPE_CHECKING:
    from alexnet_jax.data import Dataset
    from alexnet_jax.examples import Examples
    from alexnet_jax.subject import Subject

FORMATS = (".safetensors", ".npz")
DTYPES = ("float32", "float16")
_CODES = {"float32": "F32", "float16": "F16", "int32": "I32"}  # of safetensors


def batches(
    subject: "Subject", source: "Examples", layers: list[str], batch_size: int | None = None, largest: int | None = None, position: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the outputs of some layers, float32 (M, B, ...), batch by batch, with `label`, `index` (the place in the whole split) and
    `image` (B, ...).

    With `largest`, maps of more than so many places in height and width are averaged down to so many.

    Raises:
      UserError: the devices can't share `batch_size` evenly.
    """
    import jax
    import jax.numpy as jnp

    from alexnet_jax import data, parallel, turns
    from alexnet_jax.augment import evaluation_view
    from alexnet_jax.model.forward import layer_outputs

    model, stats = subject.model, subject.run.stats

    def of_member(params: Any, hyper: Any, images: jax.Array) -> dict[str, jax.Array]:
        views = jax.vmap(lambda image: evaluation_view(image, hyper, stats, model.arch.input_size))(images)
        outputs = layer_outputs(model, params, views, hyper)
        return {layer: _averaged(outputs[layer].astype(jnp.float32), largest) for layer in layers}

    if batch_size is not None:
        parallel.check_batch_size(batch_size, "--batch-size")
    batch_size = parallel.even(min(batch_size or subject.run.config.eval.batch_size, len(source)))  # a larger one would be padding
    in_turn = turns.plan(len(subject.members), subject.run.config.train.members_per_program)
    networks = [turns.place(tree, in_turn) for tree in (subject.params, subject.hyper)]
    program = turns.predictor(jax.vmap(of_member, in_axes=(0, 0, None)), in_turn, *networks)
    threads, places = subject.run.config.data.threads, source.places()
    for batch in data.eval_batches(source, batch_size=batch_size, threads=threads, position=position):
        count = int(batch["mask"].sum())  # padding is at the end
        outputs = {layer: x[:, :count] for layer, x in program(batch["image"]).items()}
        index = places[batch["index"][:count]]
        yield outputs | {"image": batch["image"][:count], "label": batch["label"][:count], "index": index}


def _averaged(x: Any, largest: int | None) -> Any:
    """Maps (B, height, width, filters) averaged over nearly equal cells to at most `largest` x `largest` places."""
    if largest is None or x.ndim < 4 or x.shape[1] <= largest:
        return x
    cells = np.zeros((largest, x.shape[1]), np.float32)
    for cell, places in zip(cells, np.array_split(np.arange(x.shape[1]), largest), strict=True):
        cell[places] = 1 / len(places)
    import jax.numpy as jnp

    return jnp.einsum("ih,bhwc,jw->bijc", cells, x, cells)


class Store:
    """A file in the layout of safetensors whose arrays are written row by row, and that can be opened again.

    Args:
      path: the file. While it grows it is called PATH.part.
      shapes: of its arrays; axis 1 of those with more than one axis are the examples.
      dtype: of the features.
      about: the metadata. A part that was written with another is refused.

    Raises:
      UserError: the part is of other features, or can't be written.
    """

    def __init__(self, path: Path, shapes: dict[str, tuple[int, ...]], dtype: str, about: dict[str, str]) -> None:
        from alexnet_jax.runlog import writing

        self.path, self.part, self.about = path, path.with_name(f"{path.name}.part"), about
        types = {name: "int32" if name in ("label", "index") else dtype for name in shapes}
        header: dict[str, Any] = {"__metadata__": about}
        end = 0
        for name, shape in shapes.items():
            start, end = end, end + int(np.prod(shape)) * np.dtype(types[name]).itemsize
            header[name] = {"dtype": _CODES[types[name]], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        first = (len(text).to_bytes(8, "little") + text).ljust(-(-(8 + len(text)) // 64) * 64)  # arrays begin at a multiple of 64
        first = (len(first) - 8).to_bytes(8, "little") + first[8:]
        new = not self.part.exists()
        with writing(self.part):
            if not new:
                with self.part.open("rb") as file:
                    if file.read(len(first)) != first:
                        raise UserError(f"{self.part} holds other features, or of another run; delete it, or choose another --out")
            else:
                with self.part.open("wb") as file:
                    file.write(first)
                    file.truncate(len(first) + end)
        self.arrays = {
            name: np.memmap(self.part, types[name], "r+", len(first) + header[name]["data_offsets"][0], shape)
            for name, shape in shapes.items()
        }
        if new:
            self.arrays["index"][:] = -1
        self.done = int((self.arrays["index"] >= 0).sum())  # examples that are written: those that have an index

    def write(self, batch: dict[str, np.ndarray]) -> None:
        """Write the examples of a batch behind those that are written.

        Raises:
          UserError: a value doesn't fit into the type.
        """
        rows = slice(self.done, self.done + len(batch["index"]))
        for name, array in self.arrays.items():
            if name in ("label", "index"):
                continue
            with np.errstate(over="ignore"):
                array[:, rows] = batch[name]
            if array.dtype == np.float16 and np.isinf(array[:, rows]).any() and np.isfinite(batch[name]).all():
                raise UserError(f"{name} has values up to {np.abs(batch[name]).max():.3g}, float16 ends at 65504; use --dtype float32")
        self.arrays["label"][rows] = batch["label"]
        self.arrays["index"][rows] = batch["index"]  # last: only now the examples count as written
        self.done = rows.stop

    def finish(self) -> None:
        """Give the file its name, and its form if that is npz."""
        from alexnet_jax.runlog import writing

        with writing(self.path):
            for array in self.arrays.values():
                array.flush()
            if self.path.suffix == ".npz":
                lists = {name: np.array(json.loads(self.about[name])) for name in ("members", "classes", "outputs")}
                np.savez(self.path, about=self.about["about"], digest=self.about["digest"], **lists, **self.arrays)  # type: ignore[arg-type]
                self.part.unlink()
            else:
                os.replace(self.part, self.path)


def _digest(subject: "Subject", dataset: "Dataset") -> str:
    """Tells networks and datasets apart that have the same names: a run trained anew in its place, a dataset prepared anew."""
    import jax

    digest = hashlib.sha256(dataset.digest.encode())
    for leaf in jax.tree.leaves((subject.params, subject.hyper, subject.run.stats)):
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m alexnet_jax.features", description="Write the outputs of layers for every image of a split."
    )
    parser.add_argument("--run", required=True, type=config_lib.path, metavar="DIR", help="a run directory")
    parser.add_argument("--split", default="test", help="a split of the run's dataset, or a slice, such as train[:2000] (default: test)")
    parser.add_argument("--layers", default="conv1..fc8", metavar="LAYERS", help="one layer, or a range (default: conv1..fc8)")
    parser.add_argument("--member", default="all", metavar="NAME_OR_INDEX", help="one network (default: all)")
    parser.add_argument(
        "--step", default="last", metavar="N", help="the checkpoint: last (default), best by validation accuracy, or a step"
    )
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the features (default: float32)")
    parser.add_argument(
        "--data-dir", type=config_lib.path, metavar="DIR", help="the directory of the dataset (default: the config's data.dir)"
    )
    parser.add_argument(
        "--batch-size", type=config_lib.positive, metavar="N", help="images in a batch (default: the config's eval.batch_size)"
    )
    parser.add_argument("--out", required=True, type=config_lib.path, metavar="FILE", help="a file that ends in .safetensors or .npz")
    args = parser.parse_args(argv)
    if args.out.suffix not in FORMATS:
        raise UserError(f"--out {args.out}: the name must end in {' or '.join(FORMATS)}")
    if args.out.exists():
        raise UserError(f"{args.out} exists; delete it, or choose another --out")

    from alexnet_jax import parallel
    from alexnet_jax.runlog import check_place
    from alexnet_jax.subject import ENSEMBLE, layer_range, open_dataset, open_networks

    check_place(args.out)
    parallel.start()
    layers = layer_range(args.layers)
    subject = open_networks(args.run, ENSEMBLE if args.member == "all" else args.member, args.step)
    dataset = open_dataset(subject, args.data_dir)
    source = dataset.source(args.split)
    shapes = {layer: (len(subject.members), len(source), *subject.shapes[layer]) for layer in layers}
    networks = f"{len(subject.members)} networks of {args.run} at step {int(subject.run.state.step):,}"
    about = {
        "members": json.dumps(subject.members),
        "classes": json.dumps(dataset.classes),
        "outputs": json.dumps(subject.run.classes),
        "about": f"Outputs of {', '.join(layers)} after their activations (fc8: logits), of {networks}, for {dataset.name}, {args.split}: "
        f"centre crop of {subject.model.arch.input_size} pixels, no dropout. Axes: member, example, then height, width, filter or unit.",
        "digest": _digest(subject, dataset),
    }
    store = Store(args.out, {**shapes, "label": (len(source),), "index": (len(source),)}, args.dtype, about)
    done = store.done
    if done:
        say(f"going on after {done:,} of {len(source):,} images")
    if done < len(source):
        with ImageBar(len(source), args.split, every=30, done=done) as bar:
            for batch in batches(subject, source, layers, args.batch_size, position=done):
                store.write(batch)
                bar.add(len(batch["index"]))
    store.finish()
    say(about["about"])
    say(f"{args.out} ({args.out.stat().st_size / 1e6:,.1f} MB)")


if __name__ == "__main__":
    run_cli(main)
