"""Where raw images come from: each source makes a `RawDataset`, before any image is decoded."""

import contextlib
import functools
import gzip
import io
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.prepare.images import ImageError, load_image, resize_and_crop
from alexnet_jax.prepare.records import SEED, RawDataset

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CLASS_NAMES = {  # IDX files hold only numbers
    "fashion_mnist": ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    "kmnist": ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"],
}


# Scikit-learn's digits


def raw_digits(size: int) -> RawDataset:
    """1,797 digits of 8x8 pixels, enlarged: uint8 (size, size, 1). 20 % test, 10 % validation, stratified."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    rest, test = _hold_out(digits.target, 360)
    train, validation = _hold_out(digits.target[rest], 180)
    splits = {"train": rest[train], "validation": rest[validation], "test": test}
    return RawDataset(
        classes=[str(digit) for digit in range(10)],
        shape=(size, size, 1),
        splits={split: [(images[i], int(digits.target[i])) for i in indices] for split, indices in splits.items()},
        load=functools.partial(_load_array, size),
        encoding="raw",
        source="load_digits of scikit-learn: the UCI optical recognition of handwritten digits",
        protocol=f"8x8 pixels of 0 to 16 scaled to 0-255, then enlarged to {size}x{size} by bicubic interpolation",
    )


# IDX files


def raw_idx(source: Path, name: str, size: int | None, validation: int) -> RawDataset:
    """The four files of the MNIST family: uint8 (H, W, 1). The t10k files are the test split; validation is held out of train."""
    images, labels = _read_idx_pair(source, "train")
    test_images, test_labels = _read_idx_pair(source, "t10k")
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
    return RawDataset(
        classes=[names[label] if label < len(names) else str(label) for label in known],
        shape=(*((size, size) if size else images.shape[1:]), 1),
        splits={split: list(zip(x[..., None], np.searchsorted(known, y).tolist(), strict=True)) for split, (x, y) in arrays.items()},
        load=functools.partial(_load_array, size),
        encoding="raw",
        source="the IDX files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte",
        protocol=_protocol(size),
    )


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


# Folders


def raw_folder(source: Path, size: int, encoding: str | None) -> RawDataset:
    """SOURCE/{train,val[,test]}/CLASS/IMAGE: uint8 (size, size, 3). Classes are the sorted names of train's folders."""
    classes = _class_folders(source / "train")
    splits = {"train": _list_images(source / "train", classes), "validation": _list_images(source / "val", classes)}
    if (source / "test").is_dir():
        splits["test"] = _list_images(source / "test", classes)
    return RawDataset(
        classes=classes,
        shape=(size, size, 3),
        splits=splits,
        load=functools.partial(_load_file, size),
        encoding=encoding or _default_encoding(size),
        source="a folder of images: train/CLASS/*, val/CLASS/*" + (", test/CLASS/*" if "test" in splits else ""),
        protocol=_protocol(size),
    )


def _class_folders(folder: Path) -> list[str]:
    """The sorted names of the folders in it. Images that lie beside them, or no folders at all, are an error."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; --source must hold train/CLASS/*.jpg and val/CLASS/*.jpg")
    entries = [entry for entry in _entries(folder) if not entry.name.startswith(".")]
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
        paths = [e.path for e in _entries(folder / name) if e.name.lower().endswith(EXTENSIONS) and not e.name.startswith(".")]
        if not paths:
            raise UserError(f"{folder / name} holds no image ({' '.join(EXTENSIONS)}); fill it, or delete the class from every split")
        images += [(path, label) for path in sorted(paths)]
    return images


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        return list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from None


def _load_file(size: int, item: tuple[str, int]) -> tuple[np.ndarray, int]:
    path, label = item
    return resize_and_crop(load_image(path), size), label


# TFDS datasets


def raw_tfds(name: str, source: str | Path | None, size: int | None, validation: int, encoding: str | None) -> RawDataset:
    """A TFDS dataset of uint8 images with one label each: uint8 (H, W, 1 or 3). Where no split is `validation`, it is held out of train."""
    builder = _tfds_builder(name, source)
    features = builder.info.features
    image_key, label_key = _image_and_label(name, features)
    height, width, channels = features[image_key].shape
    if size is None and None in (height, width):
        size = 256
    return RawDataset(
        classes=features[label_key].names or [str(label) for label in range(features[label_key].num_classes)],
        shape=(size or height, size or width, channels),
        splits=_tfds_splits(name, builder, image_key, label_key, validation),
        load=functools.partial(_load_tfds, str(builder.data_dir), image_key, label_key, size),
        encoding=encoding or _default_encoding(size or max(height, width)),
        source=f"TFDS {builder.info.full_name}",
        protocol=_protocol(size),
    )


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


# What they share


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


def _load_array(size: int | None, item: tuple[np.ndarray, int]) -> tuple[np.ndarray, int]:
    image, label = item
    return (resize_and_crop(image, size) if size else image), label
