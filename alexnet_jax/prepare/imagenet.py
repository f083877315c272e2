"""ImageNet as people have it: ILSVRC-2012's own tars, the folders unpacked of them, Kaggle's packing, Tiny ImageNet.

The tars are streamed, and nothing is unpacked: see tars.py. Their order is kept, class by class in train, since 138 GB are read only once
and a shard must be finished from what was read so far; data.py mixes such a split as it reads it. Folders are shuffled as any folder is.
"""

import functools
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.classes import words as words_of
from alexnet_jax.errors import UserError
from alexnet_jax.images import ImageError, Resize, load_resized, shown
from alexnet_jax.prepare.devkit import DEVKIT, KAGGLE_TRUTH, TINY_TRUTH, Labels, read_labels
from alexnet_jax.prepare.folders import find_pictures, reachable
from alexnet_jax.prepare.records import RawDataset, Stream, default_encoding
from alexnet_jax.prepare.shards import LeftOut, Tally
from alexnet_jax.prepare.tars import WNID, ClassTar, ClassTars, FlatTar, Picture, class_tars
from alexnet_jax.progress import Bar

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
PUBLISHED = {  # bytes, MD5
    TRAIN_TAR: (147_897_477_120, "1d675b47d978889d74fa0da5fadfb00e"),
    VAL_TAR: (6_744_924_160, "29b22e2961454d5413ddabcf34fc5622"),
    DEVKIT: (2_568_145, "fa75699e90414af021442c21a62c3abf"),
}
TOPS = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "tiny-imagenet-200")  # where train and val may lie
INCOMPLETE = "complete the download, or pass --allow-incomplete"
Items = Sequence[Any] | Stream


class Whole(NamedTuple):
    """How much a whole release has."""

    classes: int
    train: int
    validation: int


ILSVRC, TINY = Whole(1000, 1_281_167, 50_000), Whole(200, 100_000, 10_000)


def raw_imagenet(source: Path, resize: Resize, encoding: str | None, allow_incomplete: bool) -> RawDataset:
    """The train and validation images of a folder of downloads: uint8 (size, size, 3). Says on stderr what it found.

    Classes are the sorted WordNet ids.

    Raises:
      UserError: something is missing, and where it belongs; less than a whole release, unless `allow_incomplete`.
    """
    train, validation = _find(source, "train", TRAIN_TAR), _find(source, "val", VAL_TAR)
    labels = read_labels(validation.parent if validation.name == "val" and (validation / TINY_TRUTH).exists() else source, validation)
    whole = TINY if (validation / TINY_TRUTH).is_file() else ILSVRC
    tars = _class_tars(train)
    left_out: list[LeftOut] = []
    folders = {} if tars else _class_folders(train, left_out)
    classes = sorted({tar.wnid for tar in tars} or folders)
    numbers = {wnid: label for label, wnid in enumerate(classes)}
    expected = _expected(sum(labels.images.get(wnid, 0) for wnid in classes), tars)
    splits: dict[str, Items] = {
        "train": ClassTars(tars, numbers, expected) if tars else _labelled(folders, numbers, left_out),
        "validation": _validation(source, validation, numbers, labels, whole, allow_incomplete, left_out),
    }
    left_out += _tests(source)
    words = [labels.words.get(wnid, "") for wnid in classes] if labels.words else words_of(classes)
    words_from = labels.words_from or ("TFDS" if words else f"nothing ({DEVKIT} beside it would tell them)")
    print(f"train: {train}, {len(classes):,} classes; validation: {validation}; classes' words: {words_from}", file=sys.stderr)
    counts = {split: len(items) for split, items in splits.items() if isinstance(items, Sequence)}
    if not allow_incomplete:
        _require_published(source)
        _require_whole(whole, labels, classes, counts, {})
    encoding = encoding or default_encoding(resize.size)
    return RawDataset(
        classes=classes,
        shape=(resize.size, resize.size, 3),
        splits=splits,
        load=functools.partial(_load, resize),
        encoding=encoding,
        source=f"ImageNet: train from {train.name}, validation from {validation.name}",
        resize=resize,
        left_out=left_out,
        class_words=words,
        plan=_plan(classes, resize, encoding, splits, (train, validation), labels),
        check=None if allow_incomplete else functools.partial(_check, whole, labels, classes),
    )


def verify(source: Path) -> None:
    """Hold the MD5 sums of ILSVRC's own files in a folder against the published ones.

    Raises:
      UserError: one differs, or there is none.
    """
    paths = [source / name for name in PUBLISHED if (source / name).is_file()]
    if not paths:
        raise UserError(f"{source} holds none of {', '.join(PUBLISHED)}, whose MD5 sums are known; leave --verify out")
    done, total = 0, sum(path.stat().st_size for path in paths)
    with Bar(total, "|{bar}| {desc} [{elapsed}<{remaining}]", every=10) as bar:
        for path in paths:
            digest = hashlib.md5(usedforsecurity=False)
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
                    done += len(block)
                    bar.to(done, f"verifying {path.name}: {done / max(total, 1):.0%}")
            if digest.hexdigest() != (published := PUBLISHED[path.name][1]):
                raise UserError(f"{path} has the MD5 sum {digest.hexdigest()}, the published file {published}; download it again")
            bar.say(f"{path.name}: MD5 as published")


def _load(resize: Resize, item: Picture | tuple[str, int]) -> tuple[np.ndarray, int]:
    if not isinstance(item, Picture):
        path, label = item
        return load_resized(path, resize), label
    try:
        return load_resized(item.data, resize), item.label
    except ImageError as error:
        raise ImageError(f"{item.name}: {error}") from None


# What lies in the folder


def _find(source: Path, folder: str, tar: str) -> Path:
    """The tar, or the folder."""
    places = [source / tar, *(source / top / folder for top in TOPS), source / tar.removesuffix(".tar")]
    found = next((path for path in places if path.exists()), None)
    if found is None:
        there = sorted(entry.name for entry in source.iterdir() if not entry.name.startswith("."))[:8] if source.is_dir() else None
        holds = f"it holds {', '.join(map(shown, there)) or 'nothing'}" if there is not None else "it is no folder"
        raise UserError(f"{source} has neither {tar} nor a folder {folder}/; put one of them there ({holds})")
    return found


def _class_tars(train: Path) -> list[ClassTar]:
    """Of the train tar, or of a folder of the 1,000 tars in it; none for a folder of folders."""
    if train.is_file():
        return class_tars(train)
    tars = sorted(train.glob("n*.tar"))
    return [ClassTar(path.stem, path, 0, path.stat().st_size) for path in tars if WNID.fullmatch(path.stem)]


def _class_folders(folder: Path, left_out: list[LeftOut]) -> dict[str, Path]:
    entries = sorted(Path(entry.path) for entry in reachable(folder))
    found = {entry.name: entry for entry in entries if WNID.fullmatch(entry.name) and entry.is_dir()}
    if not found:
        raise UserError(f"{folder} holds no folders of WordNet ids (n01440764, ...); for other classes use: prepare folder")
    left_out += [LeftOut("beside the class folders", shown(entry)) for entry in entries if entry.name not in found]
    return found


def _labelled(folders: dict[str, Path], numbers: dict[str, int], left_out: list[LeftOut]) -> list[tuple[str, int]]:
    images = []
    for wnid, label in numbers.items():
        pictures = find_pictures(folders[wnid]) if wnid in folders else None
        if pictures:
            images += [(path, label) for path in pictures.images]
            left_out += pictures.left_out
    return images


def _validation(
    source: Path, path: Path, numbers: dict[str, int], labels: Labels, whole: Whole, lenient: bool, left_out: list[LeftOut]
) -> Items:
    if path.is_dir() and any(WNID.fullmatch(entry.name) for entry in path.iterdir()):
        folders = _class_folders(path, left_out)
        if (unknown := sorted(folders.keys() - numbers.keys())) and not lenient:
            raise UserError(f"{path} has {len(unknown)} classes that train lacks ({', '.join(unknown[:3])}); {INCOMPLETE}")
        left_out += [LeftOut("validation class without training images", shown(folders[wnid])) for wnid in unknown]
        return _labelled(folders, numbers, left_out)
    if not labels.truth:
        raise UserError(f"nothing tells the labels of the images in {path}; put {DEVKIT} (2.5 MB) or Kaggle's {KAGGLE_TRUTH} into {source}")
    label = functools.partial(_label, numbers, labels, lenient)
    if path.is_file():
        return FlatTar(path, label, min(whole.validation, len(labels.truth)))
    pictures, images = find_pictures(path), []
    left_out += pictures.left_out
    for picture in pictures.images:
        found = label(os.path.basename(picture))
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            images.append((picture, found))
    return images


def _label(numbers: dict[str, int], labels: Labels, lenient: bool, name: str) -> int | LeftOut:
    """A validation image's label by its name."""
    wnid = labels.truth.get(name.rpartition(".")[0])
    if wnid in numbers:
        return numbers[wnid]
    reason = "validation image without a label" if wnid is None else "validation image of a class without training images"
    if lenient:
        return LeftOut(reason, shown(name))
    raise UserError(f"{shown(name)} is a {reason} ({labels.truth_from} says {wnid or 'nothing of it'}); {INCOMPLETE}")


def _tests(source: Path) -> list[LeftOut]:
    """Test images, whose labels are not public, and tars that are none of the two."""
    places = [*(source / top / "test" for top in TOPS), *sorted(source.glob("*.tar"))]
    known = (TRAIN_TAR, VAL_TAR, DEVKIT.removesuffix(".gz"))
    found = [path for path in places if path.exists() and path.name not in known]
    return [LeftOut("folder or tar that is neither train nor validation", shown(path)) for path in found]


# Whether it is all there


def _expected(images: int, tars: list[ClassTar]) -> int:
    """For the progress: as many as the devkit says, or a guess where there is none. An image takes about 110 kB."""
    return images or max(1, sum(tar.size for tar in tars) // 110_000)


def _require_published(source: Path) -> None:
    for name in (TRAIN_TAR, VAL_TAR):
        path, size = source / name, PUBLISHED[name][0]
        if path.is_file() and path.stat().st_size != size:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes, the published file {size:,}; {INCOMPLETE}")


def _require_whole(whole: Whole, labels: Labels, classes: list[str], counts: Mapping[str, int], found: Mapping[str, int]) -> None:
    """`counts` of images by split, as far as they are known; `found` training images of each class, the same."""
    short = []
    if len(classes) != whole.classes:
        missing = sorted(labels.images.keys() - set(classes))
        named = f" (missing {', '.join(missing[:3])}{', ...' * (len(missing) > 3)})" if missing else ""
        short.append(f"{len(classes):,} of {whole.classes:,} classes{named}")
    for split, count in counts.items():
        if count != getattr(whole, split):
            less = [f"{w} has {found[w]:,} of {n:,}" for w, n in labels.images.items() if w in found and found[w] < n]
            named = f" ({', '.join(less[:3])}{', ...' * (len(less) > 3)})" if less and split == "train" else ""
            short.append(f"{count:,} of {getattr(whole, split):,} {split} images{named}")
    if short:
        raise UserError(f"there are {'; '.join(short)}; {INCOMPLETE}")


def _check(whole: Whole, labels: Labels, classes: list[str], tallies: Mapping[str, Tally]) -> None:
    """After all was read. Broken images that were left out are there."""
    counts = {split: sum(tally.labels.values()) + len(tally.left_out) for split, tally in tallies.items()}
    _require_whole(whole, labels, classes, counts, {wnid: tallies["train"].labels[label] for label, wnid in enumerate(classes)})


def _plan(classes: list[str], resize: Resize, encoding: str, splits: dict[str, Items], sources: tuple[Path, Path], labels: Labels) -> str:
    """All that decides about the dataset's bytes: the options, and which files these are."""
    files: list[list[Any]] = []
    for path, items in zip(sources, splits.values(), strict=True):
        if isinstance(items, Sequence):
            digest = hashlib.sha256("\0".join(_identity(name, label) for name, label in items).encode("utf-8", "surrogateescape"))
            files.append([str(path.resolve()), digest.hexdigest()])
        else:
            tars = sorted(path.glob("n*.tar")) if path.is_dir() else [path]
            files += [[str(tar.resolve()), tar.stat().st_size, tar.stat().st_mtime_ns] for tar in tars]
    truth = hashlib.sha256(json.dumps([labels.truth, labels.words], sort_keys=True).encode()).hexdigest()
    return json.dumps([classes, list(resize), encoding, files, truth, "digests"])  # of the shards, which a journal once lacked


def _identity(path: str, label: int) -> str:
    """Of a picture: another one under its name has another size or time."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror}") from None
    return f"{path}\0{label}\0{status.st_size}\0{status.st_mtime_ns}"
