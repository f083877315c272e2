"""Tars of pictures, read once, in order, without unpacking: a train tar of one tar for each class, a flat tar of validation images.

Each is a stream of records.py: `after(place)` goes on behind a place where an earlier read stopped. Names in a tar are looked at and shown,
and never used as paths.
"""

import contextlib
import functools
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.errors import UserError
from alexnet_jax.images import shown
from alexnet_jax.prepare.shards import LeftOut

WNID = re.compile(r"n\d{8}")


class Picture(NamedTuple):
    """An encoded picture out of a tar."""

    name: str  # to be shown
    data: bytes
    label: int


class ClassTar(NamedTuple):
    """A class's tar, which lies in a file, perhaps within a larger tar."""

    wnid: str
    path: Path
    offset: int
    size: int


def class_tars(path: Path) -> list[ClassTar]:
    """The tars of classes in a train tar, in their order there. Only their headers are read.

    Raises:
      UserError: it is cut off, is no tar, or holds something else.
    """
    found: list[ClassTar] = []
    with _reading(path), tarfile.open(path, "r:") as outer:
        for member in outer:
            if member.isdir():
                continue
            name = member.name.rpartition("/")[2].removesuffix(".tar")
            if not WNID.fullmatch(name) or not member.isfile():
                raise UserError(f"{path} holds {shown(member.name)}, not one tar n........tar for each class; is it the train tar?")
            if member.offset_data + member.size > path.stat().st_size:
                raise UserError(f"{path} is cut off within {name}.tar, after {len(found):,} whole classes; download it again")
            found.append(ClassTar(name, path, member.offset_data, member.size))
    return found


class ClassTars:
    """The pictures of the classes' tars, one class after the other. A place is [tar, pictures read of it]."""

    by_class = True

    def __init__(self, tars: list[ClassTar], labels: dict[str, int], expected: int):
        self._tars, self._labels, self._expected = tars, labels, expected

    def __len__(self) -> int:
        return self._expected

    def after(self, place: Any) -> Iterator[tuple[Any, Any]]:
        first, read = place or (0, 0)
        for number in range(first, len(self._tars)):
            tar = self._tars[number]
            with _reading(tar.path, f"{tar.wnid}.tar"), open(tar.path, "rb") as file:
                file.seek(tar.offset)
                pictures = _pictures(_Window(file, tar.size), tar.wnid, functools.partial(self._label, tar.wnid), read)
                for count, picture in enumerate(pictures, read + 1):
                    yield (number, count), picture
            read = 0

    def _label(self, wnid: str, name: str) -> int:
        return self._labels[wnid]


class FlatTar:
    """A tar of pictures whose labels their names tell. A place is how many were read."""

    by_class = False

    def __init__(self, path: Path, label: Callable[[str], int | LeftOut], expected: int):
        self._path, self._label, self._expected = path, label, expected

    def __len__(self) -> int:
        return self._expected

    def after(self, place: Any) -> Iterator[tuple[Any, Any]]:
        with _reading(self._path), open(self._path, "rb") as file:
            window = _Window(file, self._path.stat().st_size)
            yield from enumerate(_pictures(window, self._path.name, self._label, place or 0), (place or 0) + 1)


def _pictures(file: io.RawIOBase, where: str, label: Callable[[str], int | LeftOut], skip: int) -> Iterator[Picture | LeftOut]:
    """The files of a tar but its first `skip`, whose headers alone are read, and its hidden ones."""
    with tarfile.open(fileobj=io.BufferedReader(file, 1 << 20), mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # which it would keep, for 50,000 files
            name = member.name.rpartition("/")[2]
            if member.isdir() or name.startswith("."):
                continue
            if skip:
                skip -= 1
                continue
            found = label(name) if member.isfile() else LeftOut("not a file", shown(f"{where}/{name}"))
            if isinstance(found, LeftOut):
                yield found
                continue
            content = tar.extractfile(member)
            assert content is not None
            yield Picture(shown(f"{where}/{name}"), content.read(), found)


@contextlib.contextmanager
def _reading(path: Path, part: str = "") -> Iterator[None]:
    where = f"{path}: {part}" if part else f"{path}"
    try:
        yield
    except tarfile.TarError as error:
        raise UserError(f"{where} is no whole tar ({error}); download it again") from None
    except OSError as error:
        raise UserError(f"cannot read {where}: {error.strerror or error}") from None


class _Window(io.RawIOBase):
    """The `size` bytes of a file from where it stands, as a file."""

    def __init__(self, file: io.BufferedReader, size: int):
        self._file, self._start, self._size, self._at = file, file.tell(), size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        self._file.seek(self._start + self._at)
        count = self._file.readinto(view)
        self._at += count
        return count
