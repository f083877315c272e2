"""Raw images that others keep: scikit-learn's digits, and whatever TFDS has."""

import contextlib
import functools
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_jax.errors import UserError, missing_package
from alexnet_jax.images import ImageError, Resize, load_image
from alexnet_jax.prepare.holdout import hold_out
from alexnet_jax.prepare.records import RawDataset, default_encoding

# Scikit-learn's digits


def raw_digits(size: int) -> RawDataset:
    """1,797 digits of 8x8 pixels, enlarged: uint8 (size, size, 1). 20 % test, 10 % validation, stratified."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    classes = [str(digit) for digit in range(10)]
    rest, test = hold_out(digits.target, 360, classes)
    train, validation = hold_out(digits.target[rest], 180, classes)
    splits = {"train": rest[train], "validation": rest[validation], "test": test}
    return RawDataset(
        classes=classes,
        shape=(size, size, 1),
        splits={split: [(images[i], int(digits.target[i])) for i in indices] for split, indices in splits.items()},
        load=functools.partial(_enlarge, size),
        encoding="raw",
        source="load_digits of scikit-learn: the UCI optical recognition of handwritten digits",
        resize=Resize(size),
        protocol=f"8x8 pixels of 0 to 16 scaled to 0-255, then enlarged to {size}x{size} by bicubic interpolation",
    )


def _enlarge(size: int, item: tuple[np.ndarray, int]) -> tuple[np.ndarray, int]:
    """By Pillow, whose rounding is that of the digits in docs/results."""
    image, label = item
    return np.asarray(Image.fromarray(image[..., 0]).resize((size, size), Image.Resampling.BICUBIC))[..., None], label


# TFDS datasets


def raw_tfds(
    name: str, source: str | Path | None, resize: Resize | None, always: bool, validation: int | float, encoding: str | None
) -> RawDataset:
    """A TFDS dataset of uint8 images with one label each: uint8 (H, W, 1 or 3). Where no split is `validation`, it is held out of train.

    Images of one fixed shape are brought to another only if `always`.
    """
    builder = _tfds_builder(name, source)
    features = builder.info.features
    image_key, label_key = _image_and_label(name, features)
    height, width, channels = features[image_key].shape
    if not always and None not in (height, width):
        resize = None
    classes = features[label_key].names or [str(label) for label in range(features[label_key].num_classes)]
    return RawDataset(
        classes=classes,
        shape=(*((resize.size, resize.size) if resize else (height, width)), channels),
        splits=_tfds_splits(name, builder, image_key, label_key, classes, validation),
        load=functools.partial(_load_tfds, str(builder.data_dir), image_key, label_key, resize),
        encoding=encoding or default_encoding(resize.size if resize else max(height, width)),
        source=f"TFDS {builder.info.full_name}",
        resize=resize,
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
        packages = " ".join(sorted({"tensorflow", missing_package(error) or "tensorflow"}))
        raise UserError(f"TFDS cannot build {name} without the module {error.name}: pip install {packages}") from None
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


def _tfds_splits(
    name: str, builder: Any, image_key: str, label_key: str, classes: list[str], validation: int | float
) -> dict[str, list[tuple[str, int]]]:
    """Our splits, each a list of (split of the source, index in it)."""
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    if "train" not in sizes:
        raise UserError(f"TFDS {name} has the splits {list(sizes)} and no train split")
    whole = {split: [(split, i) for i in range(sizes[split])] for split in ("train", "validation", "test") if sizes.get(split)}
    if "validation" not in whole:
        source = _tfds_source(str(builder.data_dir), image_key, "train")
        kept, held_out = hold_out(np.array([source[i][label_key] for i in range(len(source))]), validation, classes)
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


def _load_tfds(directory: str, image_key: str, label_key: str, resize: Resize | None, item: tuple[str, int]) -> tuple[np.ndarray, int]:
    split, index = item
    source = _tfds_source(directory, image_key, split)
    example = source[index]
    image, declared = example[image_key], source.dataset_info.features[image_key].shape
    if isinstance(image, bytes):
        try:
            image = load_image(image)[..., : declared[-1]]  # a grey image comes as three equal channels
        except ImageError as error:
            raise ImageError(f"example {index} of {split} in {directory}: {error}") from None
    if resize is None and image.shape != declared:
        where = f"example {index} of {split} in {directory}"
        raise ImageError(f"{where} has the shape {image.shape}, and the dataset declares {declared}; pass --size to bring all to one")
    return (resize(image) if resize else image), example[label_key]
