"""The IDX files of the MNIST family: MNIST, Fashion-MNIST, KMNIST, EMNIST."""

import functools
import gzip
import re
import sys
import zlib
from pathlib import Path

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.images import Resize, shown
from alexnet_jax.prepare.holdout import hold_out
from alexnet_jax.prepare.records import RawDataset

CLASS_NAMES = {  # IDX files hold only numbers
    "fashion_mnist": ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    "kmnist": ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"],
}
# As they are downloaded, as 7-Zip and Kaggle name them (train-images.idx3-ubyte), and EMNIST's (emnist-letters-test-images-idx3-ubyte).
FILE_NAME = re.compile(r"(?P<set>.*?)[-_.]?(?P<split>train|t10k|test)[-_.](?P<what>images[-_.]idx3|labels[-_.]idx1)[-_.]ubyte(\.gz)?", re.I)


def raw_idx(source: Path, name: str, resize: Resize | None, validation: int | float) -> RawDataset:
    """The four files of the MNIST family: uint8 (H, W, 1). The t10k or test files are the test split; validation is held out of train.

    EMNIST's pictures are stored transposed, and set upright.
    """
    prefix, files = _find_files(source, name)
    images, labels = _read_pair(source, files, "train")
    test_images, test_labels = _read_pair(source, files, "t10k")
    if not images.size or not test_images.size:
        raise UserError(
            f"{source}: the train images are of shape {images.shape}, the t10k images {test_images.shape}; --source must hold some of both"
        )
    known = np.unique(labels)  # EMNIST's letters count from 1
    if images.shape[1:] != test_images.shape[1:] or not np.isin(test_labels, known).all():
        raise UserError(
            f"{source}: the train files hold {images.shape[1:]} pixels and labels {_range(labels)}, the t10k files {test_images.shape[1:]} "
            f"and {_range(test_labels)}; they do not belong together"
        )
    trained = {image.tobytes() for image in images}
    if shared := sum(image.tobytes() in trained for image in test_images):
        told = f"{shared:,} of the {len(test_images):,} t10k images are train images too, and test nothing"
        print(f"warning: {source}: {told}{'; get the t10k files again' if shared == len(test_images) else ''}", file=sys.stderr)
    protocol = resize.protocol() if resize else "pixels as they are"
    if re.search(r"(?<![a-z])emnist", f"{prefix} {name}".lower()):
        images, test_images = images.transpose(0, 2, 1), test_images.transpose(0, 2, 1)
        protocol = f"transposed, since EMNIST's files hold them so; {protocol}"
        print(f"{source}: EMNIST's pictures are stored transposed; they are set upright", file=sys.stderr)
    names = CLASS_NAMES.get(name, [])
    classes = [names[label] if label < len(names) else str(label) for label in known]
    labels, test_labels = np.searchsorted(known, labels), np.searchsorted(known, test_labels)
    train, held_out = hold_out(labels, validation, classes)
    arrays = {
        "train": (images[train], labels[train]),
        "validation": (images[held_out], labels[held_out]),
        "test": (test_images, test_labels),
    }
    return RawDataset(
        classes=classes,
        shape=(*((resize.size, resize.size) if resize else images.shape[1:]), 1),
        splits={split: list(zip(x[..., None], y.tolist(), strict=True)) for split, (x, y) in arrays.items()},
        load=functools.partial(load_array, resize),
        encoding="raw",
        source="the IDX files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte",
        resize=resize,
        protocol=protocol,
    )


def load_array(resize: Resize | None, item: tuple[np.ndarray, int]) -> tuple[np.ndarray, int]:
    """An image that is in memory already, uint8 (H, W, C), and its label."""
    image, label = item
    return (resize(image) if resize else image), label


def _find_files(source: Path, name: str) -> tuple[str, dict[str, list[Path]]]:
    """The files of one set: its prefix, such as `emnist-letters`, and role -> files. Roles are `train-images-idx3` and so on.

    Kaggle unpacks each file into a folder of the file's name.
    """
    sets: dict[str, dict[str, list[Path]]] = {}
    for path in [*sorted(source.glob("*")), *sorted(source.glob("*ubyte*/*"))]:
        if (match := FILE_NAME.fullmatch(path.name)) and path.is_file():
            split = "train" if match["split"].lower() == "train" else "t10k"
            role = f"{split}-{re.sub(r'[-_.]', '-', match['what'].lower())}"
            sets.setdefault(match["set"].lower(), {}).setdefault(role, []).append(path)
    wanted = [prefix for prefix in sets if re.sub(r"\W", "_", prefix) == name.lower()]
    if len(sets) > 1 and len(wanted) != 1:
        listed = ", ".join(repr(prefix) for prefix in sorted(sets))
        raise UserError(f"{source} holds {len(sets)} sets of IDX files, {listed}; name one in --name, or move it into its own folder")
    prefix = wanted[0] if wanted else next(iter(sets), "")
    return prefix, sets.get(prefix, {})


def _read_pair(source: Path, files: dict[str, list[Path]], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, H, W) and labels uint8 (n,)."""
    images, labels = _read_role(source, files, f"{split}-images-idx3"), _read_role(source, files, f"{split}-labels-idx1")
    if len(images) != len(labels):
        raise UserError(f"{source}: {len(images)} {split} images but {len(labels)} labels; the files do not belong together")
    return images, labels


def _read_role(source: Path, files: dict[str, list[Path]], role: str) -> np.ndarray:
    paths = files.get(role, [])
    if not paths:
        raise UserError(f"there is no {source}/{role}-ubyte (packed or unpacked); --source must hold the four files of the MNIST family")
    values = [_read_idx(path, int(role[-1])) for path in paths]
    if different := [path for path, other in zip(paths, values, strict=True) if not np.array_equal(other, values[0])]:
        raise UserError(f"{paths[0]} and {different[0].relative_to(source)} hold different values; remove one of them")
    return values[0]


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """IDX: 0, 0, the type (8 is uint8), the number of dimensions; each dimension as a big-endian int32; the values. May be gzipped.

    The first bytes tell whether it is, since browsers unpack what they download and leave its name.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}); download it again") from None
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror}") from None
    start = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) < start:
        raise UserError(f"{path} begins with {data[:4].hex() or 'nothing'}, not 000008{dimensions:02x}: it is no IDX file of its name")
    shape = tuple(np.frombuffer(data[4:start], ">i4").tolist())
    if len(data) - start != np.prod(shape):
        raise UserError(f"{path} holds {len(data) - start} bytes of values where its header says {shape}; download it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _range(labels: np.ndarray) -> str:
    return f"{labels.min()} to {labels.max()}"
