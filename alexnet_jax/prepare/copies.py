"""Files that lie in two splits or two classes of a folder of pictures, by links or as copies. folders.py calls it:

refuse_links({"train": [("src/train/cat/1.jpg", 0), ...], "validation": [...]})    # UserError: "... are one file, by a link, ..."
tell_copies(splits)    # on stderr: "warning: in two splits lie copies of 2 pictures, ..."
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from alexnet_jax.errors import UserError
from alexnet_jax.images import shown

END = 4096  # bytes at the end of a file that are compared first; of pictures with the same size nearly all differ there

Splits = Mapping[str, Sequence[tuple[str, int]]]  # split -> (path, label) of each picture


def refuse_links(splits: Splits) -> None:
    """Refuse a file that links bring into two splits or two classes: what is tested would be trained on, or have two labels."""
    seen: dict[str, tuple[str, str, int]] = {}
    for split, images in splits.items():
        for path, label in images:
            first, *place = seen.setdefault(os.path.realpath(path), (path, split, label))
            if place != [split, label]:
                raise UserError(
                    f"{shown(first)} and {shown(path)} are one file, by a link, and would be in {place[0]} and in {split}, "
                    f"{'with one label' if place[1] == label else 'with two labels'}; remove one of the two"
                )


def tell_copies(splits: Splits) -> None:
    """Warn of pictures with the same bytes in two splits or in two classes. It is no error: published datasets have them too.

    Only files of the same size are read, and first their ends alone.
    """
    places = {path: (split, label) for split, images in splits.items() for path, label in images}
    groups: list[list[str]] = [list(places)]
    for key in (os.path.getsize, _end, _digest):
        groups = [same for group in groups for same in _alike(group, places, key)]
    for part, name, why in (
        (0, "splits", "a copy tests nothing: remove one of each"),
        (1, "classes", "remove the one with the wrong label"),
    ):
        twice = [group for group in groups if len({places[path][part] for path in group}) > 1]
        if twice:
            first = twice[0][0]
            other = next(path for path in twice[0] if places[path][part] != places[first][part])
            such = f"{shown(first)} ({places[first][0]}) and {shown(other)} ({places[other][0]})"
            count = f"{len(twice):,} picture{'' if len(twice) == 1 else 's'}"
            print(f"warning: in two {name} lie copies of {count}, byte for byte, such as {such}; {why}", file=sys.stderr)


def _alike(paths: Iterable[str], places: Mapping[str, tuple[str, int]], key: Callable[[str], object]) -> list[list[str]]:
    """The groups of paths with the same key that lie in more than one split or class."""
    groups: dict[object, list[str]] = {}
    for path in paths:
        try:
            groups.setdefault(key(path), []).append(path)
        except OSError:
            continue  # it is an error of its own when the picture is read
    return [group for group in groups.values() if len({places[path] for path in group}) > 1]


def _end(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(-min(END, os.path.getsize(path)), os.SEEK_END)
        return file.read()


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
