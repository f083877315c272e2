"""PyTorch's .pth files, read without PyTorch; what they say is never run.

Such a file holds a pickle, which is the tree of what was saved, and storages, which are the plain numbers of the tensors. `torch.save`
packs both into a zip archive; before PyTorch 1.6 it wrote one after the other. `formats.read_torchvision` reads both forms here:

    tree = read(Path("checkpoint.pth"))                     # {"epoch": 90, "state_dict": {"features.0.weight": Stored(...), ...}, ...}
    tree["state_dict"]["features.0.weight"].array()         # float32 (64, 3, 11, 11): only now are its numbers read

A pickle is a program. Here it may call only what rebuilds a tensor (`_CALLED`). The plain data that training scripts keep beside the
weights (`_SKIPPED`) becomes an object that does nothing, and a file that names anything else is refused.
"""

import dataclasses
import io
import pickle
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from alexnet_jax.errors import UserError

_DTYPES = {
    **{"HalfStorage": np.float16, "BFloat16Storage": ml_dtypes.bfloat16, "FloatStorage": np.float32, "DoubleStorage": np.float64},
    **{"LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8},
    "BoolStorage": np.bool_,
}
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Settings, paths, rates and counts, which scripts keep beside the weights. They are not read.
_SKIPPED = {
    *("argparse.Namespace", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    *("collections.defaultdict", "collections.Counter", "builtins.dict", "builtins.set", "__builtin__.dict", "__builtin__.set"),
    *("_codecs.encode", "numpy.dtype", "numpy.ndarray", "datetime.datetime", "datetime.timedelta", "torch.Size", "torch.device"),
    "torch.Tensor",
    *(f"{module}.{name}" for module in ("numpy.core.multiarray", "numpy._core.multiarray") for name in ("scalar", "_reconstruct")),
    *(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int64", "int32", "uint8", "bool")),
    *(f"{module}.utilities.parsing.AttributeDict" for module in ("pytorch_lightning", "lightning.pytorch")),
    *(f"{module}.utilities.data.AttributeDict" for module in ("lightning_fabric", "lightning.fabric")),
}
_RESAVE = 'torch.save(torch.load(FILE, weights_only=False)["state_dict"], NEW)'


class _Damaged(Exception):
    """The file contradicts itself."""


class _Unknown(Exception):
    """The file is whole, and says of a tensor what isn't known here."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """The numbers of one or more tensors, where they lie."""

    key: str
    dtype: np.dtype
    size: int  # elements
    read: Callable[[int, int], bytes] = dataclasses.field(repr=False, compare=False)  # (first byte, number of bytes)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor whose numbers are still in the file. Two are equal that are the same view of the same storage."""

    storage: Storage
    offset: int  # in elements, like the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return self.storage.dtype

    def array(self) -> np.ndarray:
        """A copy of its numbers.

        Raises:
          UserError: the file is cut off there.
        """
        size = self.dtype.itemsize
        if self.span == 0:
            return np.empty(self.shape, self.dtype)
        flat = np.frombuffer(self.storage.read(self.offset * size, self.span * size), self.dtype)
        return np.lib.stride_tricks.as_strided(flat, self.shape, [step * size for step in self.strides], writeable=False).copy()

    @property
    def span(self) -> int:
        """From its first element in the storage to its last, in elements."""
        if 0 in self.shape:
            return 0
        return 1 + sum((count - 1) * step for count, step in zip(self.shape, self.strides, strict=True))

    def __setstate__(self, state: Any) -> None:
        """What files older than PyTorch 0.4 say of a Parameter beside its numbers. It isn't read."""


def read(path: Path) -> Any:
    """The tree that was saved: dicts, lists, plain values, and a `Stored` for every tensor.

    Raises:
      UserError: not a PyTorch file, one that is cut off, or one that holds anything that would have to be run.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start == b"PK\3\4":
                return _read_zip(path, file)
            if start[:1] == b"\x80":
                return _read_legacy(path, file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except _Unknown as error:
        raise UserError(f"{path} holds {error}") from None
    except Exception as error:  # a damaged pickle or archive raises whatever it likes
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged or not a whole PyTorch file ({str(error) or type(error).__name__}); get it again") from None
    if tarfile.is_tarfile(path):
        raise UserError(f"{path} is in the form of PyTorch before 0.1.10, which takes PyTorch to read; save it again there: {_RESAVE}")
    raise UserError(f"{path} is not a PyTorch file: it is neither a zip archive nor a pickle, as torch.save writes them")


def _read_zip(path: Path, file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        trees = [name for name in sizes if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(trees) != 1:
            raise UserError(f"{path} is a zip archive, but none that torch.save wrote: it holds {len(trees)} files data.pkl, and not one")
        top = trees[0].removesuffix("data.pkl")
        if top + "constants.pkl" in sizes:
            raise UserError(
                f"{path} is a TorchScript program, which is never run here; "
                "save its weights with PyTorch: torch.save(torch.jit.load(FILE).state_dict(), NEW)"
            )
        order = archive.read(top + "byteorder").decode() if top + "byteorder" in sizes else "little"
        if order not in ("little", "big"):
            raise _Damaged(f"its byte order is {order!r}")
        tree = io.BytesIO(archive.read(trees[0]))

    def storage(key: str, dtype: np.dtype, size: int) -> Storage:
        name, length = f"{top}data/{key}", size * dtype.itemsize
        if sizes.get(name, -1) < length:
            raise _Damaged(f"its storage {key} has {sizes.get(name, 0):,} bytes, the tensors in it take {length:,}")

        def numbers(first: int, count: int) -> bytes:
            try:
                with zipfile.ZipFile(path) as archive, archive.open(name) as record:
                    record.seek(first)
                    return _native(record.read(count), dtype, order)
            except (zipfile.BadZipFile, EOFError) as error:
                raise UserError(f"{path} is damaged in its storage {key} ({error}); get it again") from None

        return Storage(key, dtype, size, numbers)

    return _Tree(tree, path, storage).load()


def _read_legacy(path: Path, file: IO[bytes]) -> Any:
    def no_storage(key: str, dtype: np.dtype, size: int) -> Storage:
        raise _Damaged("a tensor in its header")

    def header() -> Any:
        return _Tree(file, path, no_storage).load()

    if (header(), header()) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise UserError(f"{path} is a pickle, but none that torch.save wrote")
    order = "little" if header()["little_endian"] else "big"
    starts = dict[str, int]()  # of the storages, which lie behind the tree, each behind its size
    needed = dict[str, Storage]()

    def storage(key: str, dtype: np.dtype, size: int) -> Storage:
        def numbers(first: int, count: int) -> bytes:
            with path.open("rb") as again:
                again.seek(starts[key] + first)
                return _native(again.read(count), dtype, order)

        return needed.setdefault(key, Storage(key, dtype, size, numbers))

    tree, end = _Tree(file, path, storage).load(), path.stat().st_size
    for key in header():
        size, start = int.from_bytes(file.read(8), order), file.tell()  # type: ignore[arg-type]
        after = start + size * needed[key].dtype.itemsize
        if size < needed[key].size or after > end:
            raise _Damaged(f"its storage {key} is cut off")
        starts[key] = start
        file.seek(after)
    if missing := needed.keys() - starts.keys():
        raise _Damaged(f"it lacks the storage {min(missing)}")
    return tree


def _native(data: bytes, dtype: np.dtype, order: str) -> bytes:
    if order == sys.byteorder or dtype.itemsize == 1:
        return data
    return np.frombuffer(data, f"u{dtype.itemsize}").byteswap().tobytes()


class _Tree(pickle.Unpickler):
    """An unpickler that knows the few names by which a state dict is put together."""

    def __init__(self, file: IO[bytes], path: Path, storage: Callable[[str, np.dtype, int], Storage]):
        super().__init__(file, encoding="latin1")  # of Python 2's strings
        self._path, self._storage = path, storage

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _SKIPPED:
            return _Nothing
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        if full in _CALLED:
            return _CALLED[full]
        raise UserError(
            f"{self._path} holds more than weights, a pickled {full!a}: a whole module, or code of a training script, which is never run "
            "here; if you trust the file, load it with PyTorch and save the weights alone: torch.save(model.state_dict(), NEW)"
        )

    def persistent_load(self, entry: Any) -> Storage:
        kind, dtype, key, _, size, *view = entry
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(size, int) or size < 0:
            raise _Damaged(f"it names a storage that is none: {entry!a:.80}")
        if any(view):  # a part of another storage, by files older than PyTorch 0.4
            raise UserError(
                f"{self._path} shares storages as PyTorch before 0.4 did, which takes PyTorch to read; save it again: {_RESAVE}"
            )
        return self._storage(str(key), dtype, size)


class _Nothing:
    """What stands in the tree for plain data that isn't read. It takes whatever a pickle does to an object, and keeps none of it."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


def _rebuild_tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *rest: Any) -> Stored:
    """A view of a storage, that doesn't reach beyond it. Behind it come whether it has gradients, its hooks, and what else it is."""
    if any(rest[2:]):  # {"neg": True}: its numbers are those of the storage with another sign
        raise _Unknown(f"a tensor with the properties {rest[2:]!a:.80}; save its plain numbers with PyTorch: tensor.resolve_neg()")
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers) or len(shape) != len(strides):
        raise _Damaged(f"it describes a tensor that is none, of shape {shape!a:.80}")
    tensor = Stored(storage, offset, tuple(shape), tuple(strides))
    if offset + tensor.span > storage.size:
        raise _Damaged(f"a tensor of shape {tuple(shape)} reaches beyond its storage {storage.key} of {storage.size:,} numbers")
    return tensor


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _rebuild_with_attributes(rebuild: Any, _type: Any, arguments: tuple, _attributes: Any) -> Any:
    if rebuild not in (_rebuild_tensor, _rebuild_parameter):
        raise _Damaged("it puts together something else than a tensor")
    return rebuild(*arguments)


_CALLED = {  # what a pickle may call
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,  # until PyTorch 0.4
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.nn.parameter.Parameter": _rebuild_parameter,  # until PyTorch 0.4
    "torch._tensor._rebuild_from_type_v2": _rebuild_with_attributes,
}
