"""Classes by their names: what a network answers is matched with what a dataset holds by name, never by position alone.

    read(Path("names.txt"), 2)                      # --classes FILE: ("cat", "dog")
    places(("cat", "dog"), ("dog", "cat"))          # [1, 0]: where each class of a dataset stands among a network's
    places(unnamed(2), ("dog", "cat"))              # None: class 0 and class 1 may be anything
    imagenet()                                      # ("n01440764", "n01443537", ...), in the order that everyone trains with
    words(("n02119789",))                           # ("kit fox, Vulpes macrotis",)

`run` and `evaluate` match with it, `weights` and `evaluate` read names with it, `weights` and `prepare` ask it for words.
"""

import codecs
import functools
import json
import re
import unicodedata
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError

IMAGENET_CLASSES = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_WORDNET_ID = re.compile(r"n\d{8}(?=[\s,:]|$)")


def unnamed(count: int) -> tuple[str, ...]:
    """What classes are called whose names came with no weights."""
    return tuple(f"class {number}" for number in range(count))


def imagenet() -> tuple[str, ...]:
    """The WordNet ids of ILSVRC-2012's classes, sorted: label 0 is n01440764, a tench. TFDS ships them."""
    text = (resources.files("tensorflow_datasets") / "datasets" / "imagenet2012" / "labels.txt").read_text(encoding="utf-8")
    return tuple(sorted(text.split()))


def words(names: Iterable[str]) -> tuple[str, ...]:
    """What those of the names mean that are WordNet ids of ILSVRC-2012, "" for others; nothing where none is. TFDS ships the words."""
    from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST

    known = dict(zip(imagenet(), IMAGENET_LABELS_LIST, strict=True))
    found = tuple(known.get(name, "") for name in names)
    return found if any(found) else ()


def places(network: tuple[str, ...], dataset: tuple[str, ...]) -> np.ndarray | None:
    """Where each class of a dataset stands among a network's, int (classes,); None where they aren't the same names."""
    ours, theirs = ([unicodedata.normalize("NFC", name) for name in names] for names in (network, dataset))
    if sorted(ours) != sorted(theirs) or len(set(ours)) != len(ours):
        return None
    where = {name: place for place, name in enumerate(ours)}
    return np.array([where[name] for name in theirs])


def read(path: Path, count: int) -> tuple[str, ...]:
    """The names of a network's `count` classes, in its order, from a file.

    It has one name a line, or is JSON: a list, a map of numbers to names, or of names to numbers. Where a name comes with more, as in
    Caffe's and Keras' files of ImageNet, which have words behind the WordNet id, the id is the name.

    Raises:
      UserError: it can't be read, is none of these, or names another number of classes, or two alike.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell writes
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8; write one class name a line, or a JSON list or map") from None
    names = _from_json(path, text) if text.lstrip()[:1] in ("{", "[") else _from_lines(path, text)
    if len(names) != count:
        raise UserError(f"{path} names {len(names)} classes, the network has {count}")
    composed = [unicodedata.normalize("NFC", name) for name in names]  # as `places` compares them
    for number, name in enumerate(composed):
        if (first := composed.index(name)) < number:
            raise UserError(f"{path} names both class {first} and class {number} {name!r}; classes are told apart by their names")
    return tuple(names)


def _from_lines(path: Path, text: str) -> list[str]:
    lines = text.rstrip().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or _CONTROL.search(line):  # a tab is a table's
            raise UserError(f"{path}, line {number}: {line[:40]!r} is not a class name; write one name a line, or a JSON list or map")
    names = [line.strip() for line in lines]
    ids = [match.group() for name in names if (match := _WORDNET_ID.match(name))]
    return ids if len(ids) == len(names) else names


def _from_json(path: Path, text: str) -> list[str]:
    try:
        value = json.loads(text, object_pairs_hook=functools.partial(_map, path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} begins like JSON and isn't ({error}); write one class name a line, or a JSON list or map") from None
    if isinstance(value, dict):
        value = _by_number(path, value)
    for number, entry in enumerate(value):
        if isinstance(entry, list) and any(isinstance(part, int | float) for part in entry[1:]):  # whose number may be another one
            raise UserError(
                f"{path}: class {number} is {json.dumps(entry)[:40]}, a name with a number; write a list of names, or a map to numbers"
            )
    names = [entry[0] if isinstance(entry, list) and entry else entry for entry in value]
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or _CONTROL.search(name):
            raise UserError(f"{path}: class {number} is {json.dumps(name)[:40]} and not a name; write a list of names, or a map of them")
    return names


def _map(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise UserError(f"{path} is a JSON map that has {twice!r} twice; leave one of them out")
    return value


def _by_number(path: Path, value: dict[str, Any]) -> list[Any]:
    """The names of a map, of numbers to names or of names to numbers, in the order of its numbers, which are 0, 1, 2 ..."""
    if value and all(isinstance(number, int) for number in value.values()):
        numbered = {number: name for name, number in value.items()}
    else:
        numbered = {int(key): name for key, name in value.items() if key.isascii() and key.isdecimal()}
    if len(numbered) != len(value) or sorted(numbered) != list(range(len(value))):
        raise UserError(f"{path} is a JSON map, but not of the numbers 0 to {max(0, len(value) - 1)} to names, or of names to them")
    return [numbered[number] for number in range(len(value))]
