"""Raw images -> a TFDS dataset of fixed-size uint8 images, in array_record files that need no TensorFlow to read.

    python -m alexnet_jax.prepare digits                                     scikit-learn's digits: nothing to download
    python -m alexnet_jax.prepare idx    --source DIR --name fashion_mnist   the IDX files of the MNIST family
    python -m alexnet_jax.prepare folder --source DIR --name imagenet        DIR/train/CLASS/*.jpg, DIR/val/CLASS/*.jpg
    python -m alexnet_jax.prepare tfds   --name cifar10                      any TFDS dataset of labelled images

The result is DATA_DIR/NAME/1.0.0 with the splits `train`, `validation` and, where the source has one, `test`; `tfds.builder_from_directory`
opens it. Its metadata holds the statistics of the training pixels that mean subtraction and PCA colour need. The shards are written here
and not by a TFDS builder, which wants TensorFlow to shuffle more than 1 GB.
"""

import argparse
import contextlib
import fcntl
import functools
import gzip
import io
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError, run_cli
from alexnet_jax.images import ImageError, load_image, resize_and_crop

VERSION = "1.0.0"
SEED = 0  # of the records' order and of the held-out examples: the same source always gives the same bytes
JPEG_QUALITY = 95
SHARD_RECORDS = 4096  # array_record's time to read one record grows with its shard: 15 us here, 115 us in a shard of 55,000
CORRUPT_LIST = "corrupt.txt"
CHUNK = 32  # images a worker takes at a time
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CLASS_NAMES = {  # IDX files hold only numbers
    "fashion_mnist": ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    "kmnist": ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"],
}


@dataclass(frozen=True)
class Plan:
    """A dataset that is about to be written: all that is known before the first image is decoded."""

    classes: Sequence[str]
    shape: tuple[int, int, int]
    splits: Mapping[str, Sequence[Any]]  # split -> items
    load: Callable[[Any], tuple[np.ndarray, int]]  # item -> (uint8 image of `shape`, label); pickled to the worker processes
    encoding: str  # raw, jpeg or png: how an image lies in its record
    source: str  # where the images came from; no path, since the dataset may move to another machine
    protocol: str  # how they came to their size


def dataset_dir(data_dir: str | Path, name: str) -> Path:
    """DATA_DIR/NAME/1.0.0, the layout of TFDS."""
    if not re.fullmatch(r"[A-Za-z]\w*", name):  # TFDS parses the shards' file names
        raise UserError(f"dataset name {name!r}: use letters, digits and underscores, a letter first")
    return Path(data_dir) / name / VERSION


# Sources: each makes a Plan


def prepare_digits(data_dir: str | Path, size: int = 28, *, overwrite: bool = False) -> Path:
    """Scikit-learn's 1,797 digits of 8x8 pixels, enlarged: uint8 (size, size, 1). Returns the dataset's directory.

    20 % test, 10 % validation, stratified. Where the dataset is already there in this size it is returned as it is: all processes of a run
    may call this at once.
    """
    target, shape = dataset_dir(data_dir, "digits"), (size, size, 1)
    if not overwrite and _image_shape(target) == shape:
        return target
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    rest, test = _hold_out(digits.target, 360)
    train, validation = _hold_out(digits.target[rest], 180)
    splits = {"train": rest[train], "validation": rest[validation], "test": test}
    plan = Plan(
        classes=[str(digit) for digit in range(10)],
        shape=shape,
        splits={split: [(images[i], int(digits.target[i])) for i in indices] for split, indices in splits.items()},
        load=functools.partial(_load_array, size),
        encoding="raw",
        source="load_digits of scikit-learn: the UCI optical recognition of handwritten digits",
        protocol=f"8x8 pixels of 0 to 16 scaled to 0-255, then enlarged to {size}x{size} by bicubic interpolation",
    )
    try:
        return _write(plan, target, overwrite=overwrite)
    except UserError:
        if not overwrite and _image_shape(target) == shape:  # another process was faster
            return target
        raise


def prepare_idx(
    source: str | Path, name: str, data_dir: str | Path, *, size: int | None = None, validation: int = 5000, overwrite: bool = False
) -> Path:
    """The four IDX files of the MNIST family -> uint8 (H, W, 1). Returns the dataset's directory.

    The t10k files become the test split; `validation` examples of the train files, stratified, become the validation split.
    """
    target = dataset_dir(data_dir, name)
    _refuse_existing(target, overwrite)
    images, labels = _read_idx_pair(Path(source), "train")
    test_images, test_labels = _read_idx_pair(Path(source), "t10k")
    known = np.unique(labels)  # EMNIST counts from 1
    if images.shape[1:] != test_images.shape[1:] or not np.isin(test_labels, known).all():
        raise UserError(
            f"{source}: the train files hold {images.shape[1:]} pixels and labels {_range(labels)}, the t10k files {test_images.shape[1:]} "
            f"and {_range(test_labels)}; they do not belong together"
        )
    train, held_out = _hold_out(labels, validation)
    arrays = {
        "train": (images[train], labels[train]),
        "validation": (images[held_out], labels[held_out]),
        "test": (test_images, test_labels),
    }
    names = CLASS_NAMES.get(name, [])
    plan = Plan(
        classes=[names[label] if label < len(names) else str(label) for label in known],
        shape=(*((size, size) if size else images.shape[1:]), 1),
        splits={split: list(zip(x[..., None], np.searchsorted(known, y).tolist(), strict=True)) for split, (x, y) in arrays.items()},
        load=functools.partial(_load_array, size),
        encoding="raw",
        source="the IDX files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte",
        protocol=_protocol(size),
    )
    return _write(plan, target, overwrite=overwrite)


def prepare_folder(
    source: str | Path,
    name: str,
    data_dir: str | Path,
    *,
    size: int = 256,
    encoding: str | None = None,
    workers: int | None = None,
    skip_corrupt: bool = False,
    overwrite: bool = False,
) -> Path:
    """SOURCE/{train,val[,test]}/CLASS/IMAGE -> uint8 (size, size, 3). Returns the dataset's directory.

    Classes are the sorted names of train's folders. With `skip_corrupt`, images that cannot be decoded are left out and listed in the
    dataset's corrupt.txt; otherwise the first one is an error.
    """
    target, root = dataset_dir(data_dir, name), Path(source)
    _refuse_existing(target, overwrite)
    classes = _class_folders(root / "train")
    splits = {"train": _list_images(root / "train", classes), "validation": _list_images(root / "val", classes)}
    if (root / "test").is_dir():
        splits["test"] = _list_images(root / "test", classes)
    plan = Plan(
        classes=classes,
        shape=(size, size, 3),
        splits=splits,
        load=functools.partial(_load_file, size),
        encoding=encoding or _default_encoding(size),
        source="a folder of images: train/CLASS/*, val/CLASS/*" + (", test/CLASS/*" if "test" in splits else ""),
        protocol=_protocol(size),
    )
    try:
        return _write(plan, target, workers=workers or os.cpu_count() or 1, skip_corrupt=skip_corrupt, overwrite=overwrite)
    except ImageError as error:
        raise UserError(f"{error}; repair or delete it, or pass --skip-corrupt") from None


def prepare_tfds(
    name: str,
    data_dir: str | Path,
    *,
    source: str | Path | None = None,
    size: int | None = None,
    validation: int = 5000,
    encoding: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Any TFDS dataset of uint8 images with one label each -> uint8 (H, W, 1 or 3). Returns the dataset's directory.

    `source` is where TFDS keeps its data (its default: ~/tensorflow_datasets), or the directory of one finished dataset. Images of one
    fixed shape keep it unless `size` is given; others are brought to `size`, by default 256. Where there is no validation split,
    `validation` examples of train, stratified, become one.
    """
    target = dataset_dir(data_dir, re.sub(r"\W", "_", name))  # imagenet_resized/32x32 has a slash
    _refuse_existing(target, overwrite)
    builder = _tfds_builder(name, source)
    features = builder.info.features
    image_key, label_key = _image_and_label(name, features)
    height, width, channels = features[image_key].shape
    if size is None and None in (height, width):
        size = 256
    plan = Plan(
        classes=features[label_key].names or [str(label) for label in range(features[label_key].num_classes)],
        shape=(size or height, size or width, channels),
        splits=_tfds_splits(name, builder, image_key, label_key, validation),
        load=functools.partial(_load_tfds, str(builder.data_dir), image_key, label_key, size),
        encoding=encoding or _default_encoding(size or max(height, width)),
        source=f"TFDS {builder.info.full_name}",
        protocol=_protocol(size),
    )
    return _write(plan, target, workers=workers or os.cpu_count() or 1, overwrite=overwrite)


def _protocol(size: int | None) -> str:
    return f"shorter side to {size} by antialiased bicubic interpolation, then the centre {size}x{size}" if size else "pixels as they are"


def _default_encoding(size: int) -> str:
    return "raw" if size <= 64 else "jpeg"  # small images read faster raw and lose nothing; at 256 JPEG takes a sixth of the bytes


def _hold_out(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Split off `count` examples, stratified by label and always the same ones: ascending indices (kept, held out)."""
    from sklearn.model_selection import train_test_split

    try:
        kept, held_out = train_test_split(np.arange(len(labels)), test_size=count, stratify=labels, random_state=SEED)
    except ValueError as error:
        raise UserError(f"cannot hold {count} of {len(labels)} train examples out for validation ({error}); change --validation") from None
    return np.sort(kept), np.sort(held_out)


# IDX files


def _read_idx_pair(source: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, H, W) and labels uint8 (n,)."""
    images, labels = _read_idx(source / f"{split}-images-idx3-ubyte", 3), _read_idx(source / f"{split}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise UserError(f"{source}: {len(images)} {split} images but {len(labels)} labels; the files do not belong together")
    return images, labels


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """IDX: 0, 0, the type (8 is uint8), the number of dimensions; each dimension as a big-endian int32; the values. May be gzipped."""
    if not path.is_file():
        path = path.with_name(path.name + ".gz")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except FileNotFoundError:
        raise UserError(f"there is no {path} (packed or unpacked); --source must hold the four files of the MNIST family") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}); download it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    start = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) < start:
        raise UserError(f"{path} begins with {data[:4].hex() or 'nothing'}, not 000008{dimensions:02x}: it is no IDX file of its name")
    shape = tuple(np.frombuffer(data[4:start], ">i4").tolist())
    if len(data) - start != np.prod(shape):
        raise UserError(f"{path} holds {len(data) - start} bytes of values where its header says {shape}; download it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _range(labels: np.ndarray) -> str:
    return f"{labels.min()} to {labels.max()}"


def _load_array(size: int | None, item: tuple[np.ndarray, int]) -> tuple[np.ndarray, int]:
    image, label = item
    return (resize_and_crop(image, size) if size else image), label


# Folders


def _class_folders(folder: Path) -> list[str]:
    """The sorted names of the folders in it. Images that lie beside them, or no folders at all, are an error."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; --source must hold train/CLASS/*.jpg and val/CLASS/*.jpg")
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    stray = next((entry.name for entry in entries if entry.is_file() and entry.name.lower().endswith(EXTENSIONS)), None)
    if stray:
        raise UserError(f"{folder} holds images directly ({stray}); sort them into one folder for each class, {folder}/CLASS/{stray}")
    classes = sorted(entry.name for entry in entries if entry.is_dir())
    if not classes:
        raise UserError(f"{folder} holds no class folders; --source must hold train/CLASS/*.jpg and val/CLASS/*.jpg")
    return classes


def _list_images(folder: Path, classes: list[str]) -> list[tuple[str, int]]:
    """(path, label) of each image of a split, sorted. Its class folders must be those of train, and none empty."""
    found = _class_folders(folder)
    if found != classes:
        missing, extra = sorted(set(classes) - set(found)), sorted(set(found) - set(classes))
        differences = f"{len(missing)} missing {missing[:3]}, {len(extra)} unknown {extra[:3]}"
        raise UserError(f"the class folders of {folder} differ from those of train: {differences}; make them the same")
    images = []
    for label, name in enumerate(classes):
        # A leading dot is macOS's shadow of a file: ._photo.jpg is no image.
        paths = [e.path for e in os.scandir(folder / name) if e.name.lower().endswith(EXTENSIONS) and not e.name.startswith(".")]
        if not paths:
            raise UserError(f"{folder / name} holds no image ({' '.join(EXTENSIONS)}); fill it, or delete the class from every split")
        images += [(path, label) for path in sorted(paths)]
    return images


def _load_file(size: int, item: tuple[str, int]) -> tuple[np.ndarray, int]:
    path, label = item
    return resize_and_crop(load_image(path), size), label


# TFDS datasets


def _tfds_builder(name: str, source: str | Path | None) -> Any:
    """The builder of a finished dataset that can be read without TensorFlow."""
    import tensorflow_datasets as tfds

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints banners; its progress goes to stderr
            if source and (Path(source) / "dataset_info.json").is_file():
                builder = tfds.builder_from_directory(source)
            else:
                builder = tfds.builder(name, data_dir=source)
                builder.download_and_prepare(file_format="array_record")
            builder.as_data_source()
    except tfds.core.registered.DatasetNotFoundError:
        raise UserError(f"TFDS knows no dataset {name!r}, nor does {source or '~/tensorflow_datasets'} hold it; check --name") from None
    except ImportError as error:
        modules = " ".join(sorted({"tensorflow", error.name or "tensorflow"}))
        raise UserError(f"TFDS cannot build {name} without the module {error.name}: pip install {modules}") from None
    except NotImplementedError:
        found = builder.info.file_format.value
        raise UserError(f"{builder.data_dir} is {found}, which TFDS cannot read at random; give another --source to build anew") from None
    except Exception as error:  # TFDS has one for each of: no network, a wrong checksum or configuration, files to be fetched by hand
        raise UserError(f"TFDS cannot load {name}: {' '.join(str(error).split())[:300]}") from error
    return builder


def _image_and_label(name: str, features: Any) -> tuple[str, str]:
    """The keys of the one uint8 image and the one class label of an example."""
    from tensorflow_datasets import features as kinds

    images = [k for k, f in features.items() if isinstance(f, kinds.Image | kinds.Tensor) and len(f.shape) == 3 and f.np_dtype == np.uint8]
    labels = [k for k, f in features.items() if isinstance(f, kinds.ClassLabel)]
    image = "image" if "image" in images else ", ".join(images)
    label = "label" if "label" in labels else ", ".join(labels)
    if image not in images or label not in labels or features[image].shape[-1] not in (1, 3):
        raise UserError(f"TFDS {name} has the features {list(features)}, not one uint8 image of 1 or 3 channels and one class label")
    return image, label


def _tfds_splits(name: str, builder: Any, image_key: str, label_key: str, validation: int) -> dict[str, list[tuple[str, int]]]:
    """Our splits, each a list of (split of the source, index in it)."""
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    if "train" not in sizes:
        raise UserError(f"TFDS {name} has the splits {list(sizes)} and no train split")
    whole = {split: [(split, i) for i in range(sizes[split])] for split in ("train", "validation", "test") if sizes.get(split)}
    if "validation" not in whole:
        source = _tfds_source(str(builder.data_dir), image_key, "train")
        kept, held_out = _hold_out(np.array([source[i][label_key] for i in range(len(source))]), validation)
        whole = {**whole, "train": [("train", int(i)) for i in kept], "validation": [("train", int(i)) for i in held_out]}
    if "test" in whole and _tfds_source(str(builder.data_dir), image_key, "test")[0][label_key] < 0:
        print(f"the test split of {name} has no labels and is left out", file=sys.stderr)  # imagenet2012
        del whole["test"]
    return whole


@functools.cache
def _tfds_source(directory: str, image_key: str, split: str) -> Any:
    """A split, opened once in each process. An encoded image comes as its bytes: `load_image` knows colour modes that TFDS does not."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(directory)
    encoded = isinstance(builder.info.features[image_key], tfds.features.Image)
    return builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()} if encoded else None)


def _load_tfds(directory: str, image_key: str, label_key: str, size: int | None, item: tuple[str, int]) -> tuple[np.ndarray, int]:
    split, index = item
    source = _tfds_source(directory, image_key, split)
    example = source[index]
    image = example[image_key]
    if isinstance(image, bytes):
        channels = source.dataset_info.features[image_key].shape[-1]
        try:
            image = load_image(image)[..., :channels]  # a grey image comes as three equal channels
        except ImageError as error:
            raise ImageError(f"example {index} of {split} in {directory}: {error}") from None
    return (resize_and_crop(image, size) if size else image), example[label_key]


# Encoding, in parallel


@dataclass
class Moments:
    """Sums over pixels, in integers, so that they are exact whatever the order: number, per-channel sum (C,), products (C, C)."""

    count: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))
    products: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))

    @classmethod
    def of(cls, image: np.ndarray) -> "Moments":
        pixels = np.ascontiguousarray(image.reshape(-1, image.shape[-1]).T).astype(np.int64)
        # einsum and not a matrix product: exact, as fast at this shape, and no BLAS threads in every worker.
        return cls(pixels.shape[1], pixels.sum(1), np.einsum("ip,jp->ij", pixels, pixels))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    def statistics(self) -> dict[str, Any]:
        """On the 0-255 scale: mean (C,), the standard deviation of all pixels about it, and the principal axes for PCA colour.

        `pca_std` holds the square roots of the covariance's eigenvalues, descending (the 2012 code uses these; the paper's text says
        eigenvalues); row i of `pca_axes` is the unit eigenvector of `pca_std[i]`, its largest component positive.
        """
        mean = self.total / self.count
        covariance = self.products / self.count - np.outer(mean, mean)
        variances, columns = np.linalg.eigh(covariance)
        axes = columns.T[::-1]
        axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1))
        return {
            "pixel_mean": mean.tolist(),
            "pixel_std": float(np.sqrt(np.trace(covariance) / len(mean))),
            "pca_std": np.sqrt(variances[::-1].clip(0)).tolist(),
            "pca_axes": axes.tolist(),
        }


@dataclass
class Chunk:
    """What a worker makes of some items."""

    records: list[bytes]
    moments: Moments
    corrupt: list[str]  # the messages of the images left out


def _encode_chunk(load: Callable[[Any], tuple[np.ndarray, int]], encoding: str, skip_corrupt: bool, items: Sequence[Any]) -> Chunk:
    chunk = Chunk([], Moments(), [])
    for item in items:
        try:
            image, label = load(item)
        except ImageError as error:
            if not skip_corrupt:
                raise
            chunk.corrupt.append(str(error))
        else:
            chunk.records.append(_record(_encode_image(image, encoding), label))
            chunk.moments += Moments.of(image)
    return chunk


def _encode_image(image: np.ndarray, encoding: str) -> bytes:
    if encoding == "raw":
        return image.tobytes()
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(buffer, encoding, quality=JPEG_QUALITY)
    return buffer.getvalue()


def _record(image: bytes, label: int) -> bytes:
    """The tf.Example that TFDS's Features would make, always with the same bytes."""
    from tensorflow_datasets.proto import tf_example_pb2 as example
    from tensorflow_datasets.proto import tf_feature_pb2 as proto

    feature = {
        "image": proto.Feature(bytes_list=proto.BytesList(value=[image])),
        "label": proto.Feature(int64_list=proto.Int64List(value=[label])),
    }
    return example.Example(features=proto.Features(feature=feature)).SerializeToString(deterministic=True)


MapInOrder = Callable[[Callable[[Any], Chunk], Iterable[Any]], Iterator[Chunk]]


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[MapInOrder]:
    """A `map` over worker processes that keeps the order and holds few results. Not threads: one GIL feeds no more than some ten cores."""
    if workers == 1:
        yield map
        return

    def map_in_order(function: Callable[[Any], Chunk], items: Iterable[Any]) -> Iterator[Chunk]:
        pending: deque = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) == 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise UserError(f"one of {workers} workers was killed, probably for want of memory; try fewer --workers") from None

    # spawn: a fork would copy locks that the array_record writer's threads hold.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield map_in_order
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    def exit_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()  # or a killed parent would leave its workers waiting for ever


# Writing


def _write(plan: Plan, target: Path, *, workers: int = 1, skip_corrupt: bool = False, overwrite: bool = False) -> Path:
    """Encode and write every split, in a fixed shuffled order that mixes the classes in each shard."""
    encode = functools.partial(_encode_chunk, plan.load, plan.encoding, skip_corrupt)
    with _building(target, overwrite) as folder, _pool(workers) as map_in_order:
        infos, statistics, corrupt = [], {}, []
        for split, items in plan.splits.items():
            order = np.random.default_rng(SEED).permutation(len(items)).tolist()
            chunks = ([items[i] for i in order[start : start + CHUNK]] for start in range(0, len(order), CHUNK))
            moments, shards = Moments(), _Shards(folder, target.parent.name, split)
            with _progress(split, len(items)) as advance:
                for chunk in map_in_order(encode, chunks):
                    shards.write(chunk.records)
                    moments += chunk.moments
                    corrupt += chunk.corrupt
                    advance(len(chunk.records) + len(chunk.corrupt))
            infos.append(shards.close())
            if split == "train":
                statistics = moments.statistics()
        _write_metadata(plan, folder, infos, statistics, corrupt)
    return target


def _write_metadata(plan: Plan, folder: Path, infos: list[Any], statistics: dict[str, Any], corrupt: list[str]) -> None:
    import tensorflow_datasets as tfds

    stored = f"JPEG of quality {JPEG_QUALITY}" if plan.encoding == "jpeg" else plan.encoding
    with _disk_errors(folder):
        if corrupt:
            (folder / CORRUPT_LIST).write_text("\n".join(corrupt) + "\n")
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=_features(plan),
            split_infos=infos,
            version=VERSION,
            check_data=False,  # it would read with TensorFlow
            description=plan.source,
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(**statistics, source=plan.source, protocol=f"{plan.protocol}; stored as {stored}"),
        )


def _features(plan: Plan) -> Any:
    import tensorflow_datasets as tfds

    if plan.encoding == "raw":  # as bytes: by default TFDS would make each pixel an int64
        image = tfds.features.Tensor(shape=plan.shape, dtype=np.uint8, encoding="bytes")
    else:
        image = tfds.features.Image(shape=plan.shape, encoding_format=plan.encoding)
    return tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(names=list(plan.classes))})


class _Shards:
    """Writes one split's records to NAME-SPLIT.array_record-00000-of-00002 and so on, SHARD_RECORDS in each."""

    def __init__(self, folder: Path, name: str, split: str):
        self.split, self.stem = split, folder / f"{name}-{split}.array_record"
        self.writer: Any = None
        self.lengths: list[int] = []  # records in each shard
        self.bytes = 0

    def write(self, records: list[bytes]) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        with _disk_errors(self.stem):
            for record in records:
                if self.writer is None:
                    # Uncompressed: JPEG and PNG are compressed, and raw pixels of 256x256 read three times as fast.
                    self.writer = ArrayRecordWriter(f"{self.stem}-{len(self.lengths):05d}", "group_size:1,uncompressed")
                    self.lengths.append(0)
                self.writer.write(record)
                self.lengths[-1] += 1
                self.bytes += len(record)
                if self.lengths[-1] == SHARD_RECORDS:
                    self.writer.close()
                    self.writer = None

    def close(self) -> Any:
        """Give the shards their final names, now that their number is known; returns the tfds.core.SplitInfo."""
        import tensorflow_datasets as tfds

        if not self.lengths:
            raise UserError(f"no image of the {self.split} split could be decoded; nothing is written")
        with _disk_errors(self.stem):
            if self.writer is not None:
                self.writer.close()
            for shard in range(len(self.lengths)):
                os.rename(f"{self.stem}-{shard:05d}", f"{self.stem}-{shard:05d}-of-{len(self.lengths):05d}")
        return tfds.core.SplitInfo(name=self.split, shard_lengths=self.lengths, num_bytes=self.bytes)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError("write() failed: No space left on device; ...")
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        raise UserError(f"cannot write {path}: {reason}; make room or choose another --data-dir") from None


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists already; delete it or pass --overwrite")


@contextlib.contextmanager
def _building(target: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary directory beside `target` that takes its place when all went well, so that a killed run leaves nothing half done there.

    A lock, which the system frees when its holder dies, keeps a second process from the same dataset: it waits, then finds it finished.
    """
    folder, replaced = target.with_name(f".incomplete-{VERSION}"), target.with_name(f".replaced-{VERSION}")
    with contextlib.ExitStack() as stack:
        with _disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(target.with_name(".lock"), "w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process that prepares {target}", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
        _refuse_existing(target, overwrite)
        with _disk_errors(target):
            for stale in (folder, replaced):
                shutil.rmtree(stale, ignore_errors=True)
            folder.mkdir()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder
        with _disk_errors(target):
            if target.exists():
                target.rename(replaced)
            folder.rename(target)
            shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def _progress(split: str, total: int) -> Iterator[Callable[[int], Any]]:
    """A bar on a terminal, a line every ten seconds elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=split, unit=" images") as bar:
            yield bar.update
        return
    start = said = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal said, done
        done, now = done + count, time.monotonic()
        if now - said >= 10:
            print(
                f"{split}: {done:,} of {total:,} images ({done / total:.0%}), {done / (now - start):,.0f} images/s",
                file=sys.stderr,
                flush=True,
            )
            said = now

    yield advance


# Command line


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    if args.command == "digits":
        _refuse_existing(dataset_dir(args.data_dir, "digits"), args.overwrite)
        directory = prepare_digits(args.data_dir, args.size, overwrite=args.overwrite)
    else:
        options = {key: value for key, value in vars(args).items() if key != "command"}
        prepare: dict[str, Callable[..., Path]] = {"idx": prepare_idx, "folder": prepare_folder, "tfds": prepare_tfds}
        directory = prepare[args.command](**options)
    print(_summary(directory))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alexnet_jax.prepare", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    digits = commands.add_parser("digits", help="scikit-learn's digits: nothing to download")
    idx = commands.add_parser("idx", help="the IDX files of the MNIST family, packed or unpacked")
    folder = commands.add_parser("folder", help="images in train/CLASS/ and val/CLASS/, optionally test/CLASS/")
    tfds = commands.add_parser("tfds", help="any TFDS dataset of labelled images; most need TensorFlow to be built")
    idx.add_argument("--source", required=True, help="directory of {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]")
    folder.add_argument("--source", required=True, help="directory that holds train/ and val/")
    tfds.add_argument(
        "--source", help="where TFDS keeps its data (default ~/tensorflow_datasets), or the directory of one finished dataset"
    )
    idx.add_argument("--name", required=True, help="of the dataset; fashion_mnist and kmnist have class names")
    folder.add_argument("--name", required=True, help="of the dataset")
    tfds.add_argument("--name", required=True, help="of the TFDS dataset, such as cifar10 or imagenet_resized/64x64")
    digits.add_argument("--size", type=_positive, default=28, help="pixels (default 28)")
    idx.add_argument("--size", type=_positive, help="pixels (default: as they are)")
    folder.add_argument("--size", type=_positive, default=256, help="pixels (default 256)")
    tfds.add_argument("--size", type=_positive, help="pixels (default: as they are if all have one shape, else 256)")
    for command in (idx, tfds):
        command.add_argument("--validation", type=_positive, default=5000, help="examples to hold out of train (default 5000)")
    for command in (folder, tfds):
        command.add_argument(
            "--encoding", choices=("raw", "jpeg", "png"), help="of the stored images (default: raw up to 64 pixels, else jpeg)"
        )
        command.add_argument("--workers", type=_positive, help="processes (default: one for each core)")
    folder.add_argument("--skip-corrupt", action="store_true", help=f"leave broken images out and list them in {CORRUPT_LIST}")
    for command in (digits, idx, folder, tfds):
        command.add_argument("--data-dir", default="data", help="where datasets lie (default data)")
        command.add_argument("--overwrite", action="store_true", help="replace an existing dataset of that name")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _image_shape(directory: Path) -> tuple[int, int, int] | None:
    """The image shape of a finished dataset, None where there is none."""
    import tensorflow_datasets as tfds

    finished = (directory / "features.json").exists()
    return tfds.builder_from_directory(directory).info.features["image"].shape if finished else None


def _summary(directory: Path) -> str:
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(directory).info
    splits = ", ".join(f"{split} {info.splits[split].num_examples:,}" for split in ("train", "validation", "test") if split in info.splits)
    height, width, channels = info.features["image"].shape
    text = f"{directory}: {splits}; {info.features['label'].num_classes} classes; {height}x{width}x{channels}, {info.dataset_size}"
    listed = directory / CORRUPT_LIST
    return text + (f"\n{len(listed.read_text().splitlines())} broken images left out, see {listed}" if listed.exists() else "")


if __name__ == "__main__":
    run_cli(main)
