"""The five kinds of dataset that can be prepared."""

import os
import re
from pathlib import Path

from alexnet_jax.errors import UserError
from alexnet_jax.images import ImageError, Resize
from alexnet_jax.prepare.folders import raw_folder
from alexnet_jax.prepare.idx import raw_idx
from alexnet_jax.prepare.imagenet import raw_imagenet
from alexnet_jax.prepare.imagenet import verify as verify_sums
from alexnet_jax.prepare.records import LEFT_OUT_LIST, RawDataset, write
from alexnet_jax.prepare.shards import VERSION, refuse_existing
from alexnet_jax.prepare.sources import raw_digits, raw_tfds


def dataset_dir(data_dir: str | Path, name: str) -> Path:
    """DATA_DIR/NAME/1.0.0, the layout of TFDS."""
    if not re.fullmatch(r"[A-Za-z]\w*", name):  # TFDS parses the shards' file names
        raise UserError(f"dataset name {name!r}: use letters, digits and underscores, a letter first")
    return Path(data_dir) / name / VERSION


def prepare_digits(data_dir: str | Path, size: int = 28, *, overwrite: bool = False) -> Path:
    """Scikit-learn's 1,797 digits of 8x8 pixels, enlarged: uint8 (size, size, 1). Returns the dataset's directory.

    20 % test, 10 % validation, stratified. Where the dataset is already there in this size it is returned as it is: all processes of a run
    may call this at once.
    """
    target = dataset_dir(data_dir, "digits")
    try:
        refuse_existing(target, overwrite)
        return write(raw_digits(size), target, overwrite=overwrite)
    except UserError:
        if not overwrite and _image_shape(target) == (size, size, 1):  # it was there, or another process was faster
            return target
        raise


def prepare_idx(
    source: str | Path,
    name: str,
    data_dir: str | Path,
    *,
    size: int | None = None,
    resize: str = "shorter-side",
    interpolation: str = "bicubic",
    validation: int | float = 5000,
    overwrite: bool = False,
) -> Path:
    """The four IDX files of the MNIST family -> uint8 (H, W, 1). Returns the dataset's directory.

    The t10k files become the test split; `validation` examples of the train files, a count or a fraction, stratified, become the validation
    split.
    """
    target = dataset_dir(data_dir, name)
    refuse_existing(target, overwrite)
    how = Resize(size, resize, interpolation) if size else None
    return write(raw_idx(Path(source), name, how, validation), target, overwrite=overwrite)


def prepare_folder(
    source: str | Path,
    name: str,
    data_dir: str | Path,
    *,
    size: int = 256,
    resize: str = "shorter-side",
    interpolation: str = "bicubic",
    validation: int | float | None = None,
    encoding: str | None = None,
    workers: int | None = None,
    skip_corrupt: bool = False,
    overwrite: bool = False,
) -> Path:
    """SOURCE/{train,val,test}/CLASS/... -> uint8 (size, size, 3). Returns the dataset's directory.

    Classes are the sorted names of train's folders. Where there is no val, `validation` examples of train, a count or a fraction (default:
    a tenth), become that split. What isn't taken is listed in the dataset's LEFT_OUT_LIST: files that are no images, and with
    `skip_corrupt` images that cannot be decoded; otherwise the first of these is an error.
    """
    target = dataset_dir(data_dir, name)
    refuse_existing(target, overwrite)
    raw = raw_folder(Path(source), Resize(size, resize, interpolation), encoding, validation)
    return _write_images(raw, target, workers, skip_corrupt, overwrite)


def prepare_tfds(
    name: str,
    data_dir: str | Path,
    *,
    source: str | Path | None = None,
    size: int | None = None,
    resize: str = "shorter-side",
    interpolation: str = "bicubic",
    validation: int | float = 5000,
    encoding: str | None = None,
    workers: int | None = None,
    skip_corrupt: bool = False,
    overwrite: bool = False,
) -> Path:
    """Any TFDS dataset of uint8 images with one label each -> uint8 (H, W, 1 or 3). Returns the dataset's directory.

    `source` is where TFDS keeps its data (its default: ~/tensorflow_datasets), or the directory of one finished dataset. Images of one
    fixed shape keep it unless `size` is given; others are brought to `size`, by default 256. Where there is no validation split,
    `validation` examples of train, stratified, become one.
    """
    target = dataset_dir(data_dir, re.sub(r"\W", "_", name))  # imagenet_resized/32x32 has a slash
    refuse_existing(target, overwrite)
    raw = raw_tfds(name, source, Resize(size or 256, resize, interpolation), size is not None, validation, encoding)
    return _write_images(raw, target, workers, skip_corrupt, overwrite)


def prepare_imagenet(
    source: str | Path,
    name: str,
    data_dir: str | Path,
    *,
    size: int = 256,
    resize: str = "shorter-side",
    interpolation: str = "bicubic",
    encoding: str | None = None,
    workers: int | None = None,
    skip_corrupt: bool = False,
    allow_incomplete: bool = False,
    verify: bool = False,
    overwrite: bool = False,
) -> Path:
    """ILSVRC-2012's tars, their folders, Kaggle's or Tiny ImageNet's -> uint8 (size, size, 3). Returns the dataset's directory.

    After a kill the same call goes on behind the last finished shard. With `verify` the MD5 sums of the tars are checked first.
    """
    target = dataset_dir(data_dir, name)
    refuse_existing(target, overwrite)
    if verify:
        verify_sums(Path(source))
    raw = raw_imagenet(Path(source), Resize(size, resize, interpolation), encoding, allow_incomplete)
    return _write_images(raw, target, workers, skip_corrupt, overwrite)


def _write_images(raw: RawDataset, target: Path, workers: int | None, skip_corrupt: bool, overwrite: bool) -> Path:
    """`write`, of images that may be broken."""
    try:
        return write(raw, target, workers=workers or os.cpu_count() or 1, skip_corrupt=skip_corrupt, overwrite=overwrite)
    except ImageError as error:
        raise UserError(f"{error}; repair or delete it, or pass --skip-corrupt to leave it out and list it in {LEFT_OUT_LIST}") from None


def _image_shape(directory: Path) -> tuple[int, int, int] | None:
    """The image shape of a finished dataset, None where there is none."""
    import tensorflow_datasets as tfds

    finished = (directory / "features.json").exists()
    return tfds.builder_from_directory(directory).info.features["image"].shape if finished else None
