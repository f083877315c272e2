"""What tells ImageNet's classes and labels: ILSVRC's devkit, Kaggle's lists, Tiny ImageNet's.

The devkit's own ids, 1 to 1000, are not the labels that everyone uses, which are the places of the sorted WordNet ids: its ground truth
names a validation image's class by such an id, and is turned into WordNet ids here.
"""

import csv
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.errors import UserError

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
KAGGLE_TRUTH, KAGGLE_WORDS = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
TINY_TRUTH, TINY_WORDS = "val_annotations.txt", "words.txt"


class Labels(NamedTuple):
    """What lies beside the images, each with the file that says it, "" where none does."""

    words: dict[str, str]  # WordNet id -> words
    words_from: str
    images: dict[str, int]  # WordNet id -> training images that a whole ILSVRC has
    truth: dict[str, str]  # validation image's name without its ending -> WordNet id
    truth_from: str


def read_labels(source: Path, validation: Path | None) -> Labels:
    """From the devkit in `source`, packed or unpacked, Kaggle's lists there, or those of Tiny ImageNet there and in the validation folder.

    Raises:
      UserError: one of them can't be read.
    """
    words, truth, images, words_from, truth_from = dict[str, str](), dict[str, str](), dict[str, int](), "", ""
    for name, files in _devkits(source):
        if words:
            break
        ids, words, images = _read_meta(files[META], name)
        truth = {f"ILSVRC2012_val_{i:08d}": ids[number] for i, number in enumerate(_numbers(files[TRUTH], ids, name), 1)}
        words_from = truth_from = name
    for path in (source / KAGGLE_WORDS, source / TINY_WORDS):
        if not words and path.is_file():
            lines = (line.replace("\t", " ", 1).partition(" ") for line in _text(path).splitlines())
            words, words_from = {wnid: what.strip() for wnid, _, what in lines}, path.name
    if (path := source / KAGGLE_TRUTH).is_file():
        rows = list(csv.reader(io.StringIO(_text(path))))[1:]
        truth, truth_from = {row[0]: row[1].split()[0] for row in rows if len(row) > 1 and row[1].split()}, path.name
    if validation and (path := validation / TINY_TRUTH).is_file():
        fields = [line.split("\t") for line in _text(path).splitlines()]
        truth, truth_from = {field[0].rpartition(".")[0]: field[1] for field in fields if len(field) > 1}, path.name
    return Labels(words, words_from, images, truth, truth_from)


def _devkits(source: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The devkit's two files, of each devkit in the folder."""
    for path in (source / DEVKIT, source / DEVKIT.removesuffix(".gz")):
        if not path.is_file():
            continue
        try:
            with tarfile.open(path) as tar:
                found = {name: m for m in tar for name in (META, TRUTH) if m.isfile() and m.name.endswith(name)}
                files = {name: tar.extractfile(m).read() for name, m in found.items()}  # type: ignore[union-attr]
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{path} is no whole devkit ({str(error).splitlines()[0]}); download it again") from None
        if len(files) < 2:
            raise UserError(f"{path} lacks {META} or {TRUTH}; download it again")
        yield path.name, files
    folder = source / DEVKIT.removesuffix(".tar.gz")
    for top in (folder, source):
        if (top / META).is_file() and (top / TRUTH).is_file():
            yield top.name if top == folder else META, {name: (top / name).read_bytes() for name in (META, TRUTH)}


def _read_meta(data: bytes, name: str) -> tuple[dict[int, str], dict[str, str], dict[str, int]]:
    """ILSVRC2012_ID -> WordNet id of the 1,000 classes, which are the synsets without children; their words; their training images."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"].ravel()
        leaves = [row for row in synsets if int(row["num_children"]) == 0]
        ids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
        words = {str(row["WNID"]): str(row["words"]) for row in leaves}
        return ids, words, {str(row["WNID"]): int(row["num_train_images"]) for row in leaves}
    except Exception as error:  # scipy has many for a file that isn't MATLAB's
        raise UserError(f"{name}: {META} can't be read ({error}); download it again") from None


def _numbers(data: bytes, ids: dict[int, str], name: str) -> list[int]:
    lines: list[Any] = data.split()
    if bad := [line for line in lines if not line.isdigit() or int(line) not in ids]:
        raise UserError(f"{name}: {TRUTH} holds {bad[0].decode(errors='replace')!r}, which is no class of {META}; download it again")
    return [int(line) for line in lines]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
