"""Folders of pictures: one for each class, in one folder for each split."""

import functools
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.images import Resize, is_image, load_resized, shown
from alexnet_jax.prepare.copies import refuse_links, tell_copies
from alexnet_jax.prepare.holdout import hold_out
from alexnet_jax.prepare.records import RawDataset, default_encoding
from alexnet_jax.prepare.shards import LeftOut

# What a file so named holds is said to be a picture: it is an error if it can't be decoded. Other files are looked into.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".hif"),
    *(".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
)
VALIDATION = ("val", "validation", "valid")  # names of the folder
LAYOUT = "--source must hold train/CLASS/*.jpg and, if there is one, val/CLASS/*.jpg"


class Found(NamedTuple):
    """What lies below a folder."""

    images: list[str]  # sorted paths
    left_out: list[LeftOut]


def find_pictures(folder: str | Path) -> Found:
    """Every picture below a folder, at any depth, whatever its name's ending. Hidden files and folders and `__MACOSX` aren't looked at.

    `prepare folder` and `predict` look for pictures so. Raises UserError where a folder can't be read.
    """
    found = Found([], [])
    for entry in _files(folder, set()):
        if not entry.is_file() and os.path.exists(entry.path):  # a pipe or the like; a dangling link is an error when it is read
            found.left_out.append(LeftOut("not a file", shown(entry.path)))
        elif entry.name.lower().endswith(EXTENSIONS) or is_image(entry.path):
            found.images.append(entry.path)
        else:
            found.left_out.append(LeftOut("not an image", shown(entry.path)))
    found.images.sort()
    found.left_out.sort()
    return found


def raw_folder(source: Path, resize: Resize, encoding: str | None, validation: int | float | None) -> RawDataset:
    """SOURCE/train/CLASS/**, SOURCE/val/CLASS/** and SOURCE/test/CLASS/**: uint8 (size, size, 3).

    Classes are the names of train's folders, sorted; names that are all whole numbers sort as numbers. Where there is no val, `validation`
    examples of train become that split. A test folder without classes is left out. Raises UserError where it can't be understood, or where
    links bring one file into two splits or two classes.
    """
    entries = reachable(source) if source.is_dir() else []
    left_out: list[LeftOut] = []
    classes = _class_folders(source / "train")
    splits = {"train": _labelled(source / "train", classes, left_out)}
    held = [name for name in VALIDATION if (source / name).is_dir()]
    if len(held) > 1 or (held and validation is not None):
        what = " and ".join(f"{source / name}" for name in held)
        raise UserError(f"there is {what}, so no need for --validation" if len(held) == 1 else f"there are {what}; remove all but one")
    described = "a folder of images: train/CLASS/*"
    if held:
        splits["validation"] = _labelled(source / held[0], classes, left_out)
        described += f", {held[0]}/CLASS/*"
    else:
        train = splits["train"]
        kept, out = hold_out(np.array([label for _, label in train]), validation, list(classes))
        splits = {"train": [train[i] for i in kept], "validation": [train[i] for i in out]}
        described += f"; {len(out)} of them, stratified, are the validation split"
    if (source / "test").is_dir():
        if _has_classes(source / "test", classes):
            splits["test"] = _labelled(source / "test", classes, left_out)
            described += ", test/CLASS/*"
        else:
            left_out.append(LeftOut("test folder without labels", shown(source / "test")))
    refuse_links(splits)
    tell_copies(splits)
    others = sorted({entry.name for entry in entries} - {"train", "test", *held})
    left_out += [LeftOut("beside train, val and test", shown(source / name)) for name in others]
    return RawDataset(
        classes=list(classes),
        shape=(resize.size, resize.size, 3),
        splits=splits,
        load=functools.partial(_load_file, resize),
        encoding=encoding or default_encoding(resize.size),
        source=described,
        resize=resize,
        left_out=left_out,
    )


def _load_file(resize: Resize, item: tuple[str, int]) -> tuple[np.ndarray, int]:
    path, label = item
    return load_resized(path, resize), label


# Classes


def class_name(folder: str, where: object) -> str:
    """A folder's name as a class's: in Unicode's composed form (NFC), in which macOS doesn't write it, without spaces at its ends.

    Raises:
      UserError: it isn't UTF-8, is empty or has a line break: the list of classes has one a line.
    """
    name = unicodedata.normalize("NFC", folder).strip()
    if not name or len(name.splitlines()) > 1 or name.splitlines()[0] != name or any("\ud800" <= c <= "\udfff" for c in name):
        raise UserError(f"{where}: the class folder {shown(folder)!r} needs a name in UTF-8 on one line; rename it")
    return name


def sort_classes(names: Iterable[str]) -> list[str]:
    """As text; as numbers where all are whole numbers, so that class 2 comes before 10 and is label 2 among 0, 1, 2, ..."""
    names = sorted(names)
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def _class_folders(folder: Path) -> dict[str, str]:
    """Class -> name of its folder, sorted. Images that lie beside the folders, or no folders at all, are an error."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {shown(folder)}; {LAYOUT}")
    entries = reachable(folder)
    stray = next((entry.name for entry in entries if entry.is_file() and entry.name.lower().endswith(EXTENSIONS)), None)
    if stray:
        raise UserError(
            f"{shown(folder)} holds images directly ({shown(stray)}); sort them into one folder for each class, "
            f"{shown(folder)}/CLASS/{shown(stray)}"
        )
    folders: dict[str, str] = {}
    for entry in sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: entry.name):
        name = class_name(entry.name, shown(folder))
        if name in folders:
            raise UserError(f"{shown(folder)} holds two folders for class {name}, which differ in spaces or in Unicode's form; join them")
        folders[name] = entry.name
    if not folders:
        raise UserError(f"{shown(folder)} holds no class folders; {LAYOUT}")
    return {name: folders[name] for name in sort_classes(folders)}


def _labelled(folder: Path, classes: dict[str, str], left_out: list[LeftOut]) -> list[tuple[str, int]]:
    """(path, label) of each picture of a split, sorted. Its class folders must be those of train, and none empty."""
    found = _class_folders(folder)
    if found.keys() != classes.keys():
        missing, extra = sorted(classes.keys() - found.keys()), sorted(found.keys() - classes.keys())
        differences = f"{len(missing)} missing {missing[:3]}, {len(extra)} unknown {extra[:3]}"
        raise UserError(f"the class folders of {shown(folder)} differ from those of train: {differences}; make them the same")
    images = []
    for label, name in enumerate(classes):
        pictures = find_pictures(folder / found[name])
        if not pictures.images:
            raise UserError(f"{shown(folder / name)} holds no image; fill it, or delete the class from every split")
        images += [(path, label) for path in pictures.images]
        left_out += pictures.left_out
    left_out += [LeftOut("beside the class folders", shown(entry.path)) for entry in _entries(folder) if not entry.is_dir()]
    return images


def _has_classes(folder: Path, classes: dict[str, str]) -> bool:
    """Whether a test folder is sorted into classes; one folder of another name is a folder of pictures without labels."""
    folders = [unicodedata.normalize("NFC", entry.name).strip() for entry in reachable(folder) if entry.is_dir()]
    return len(folders) > 1 or any(name in classes for name in folders)


# Reading folders


def reachable(folder: str | Path) -> list[os.DirEntry]:
    """What a folder of folders holds. A link that leads nowhere is refused: a class or a split may lie on a disk that isn't mounted."""
    entries = _entries(folder)
    if lost := next((entry.path for entry in entries if entry.is_symlink() and not os.path.exists(entry.path)), None):
        raise UserError(f"{shown(lost)} is a link that leads nowhere; mount the disk that it leads to, or remove the link")
    return entries


def _files(folder: str | Path, above: set[tuple[int, int]]) -> Iterator[os.DirEntry]:
    """All that is no folder, at any depth. Links are followed, but not into a folder that they lie in."""
    status = os.stat(folder)
    if (identity := (status.st_dev, status.st_ino)) in above:
        print(f"{shown(folder)} leads back to a folder above it and isn't looked into again", file=sys.stderr)
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _files(entry.path, above | {identity})
        else:
            yield entry


def _entries(folder: str | Path) -> list[os.DirEntry]:
    """What a folder holds: without hidden entries, such as macOS's ._photo.jpg, and the `__MACOSX` that its archives bring."""
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError as error:
        raise UserError(f"cannot read {shown(folder)}: {error.strerror}") from None
