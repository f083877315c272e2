"""Every source becomes a dataset with the promised pixels, labels and splits, or one clear line of error."""

import functools
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from alexnet_jax.errors import UserError, run_cli
from alexnet_jax.examples import Records
from alexnet_jax.images import Resize, load_resized
from alexnet_jax.prepare import __main__ as prepare
from alexnet_jax.prepare import copies, records

ROOT = Path(__file__).parent.parent


def read(directory: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a split, in the order of their records."""
    examples = Records(tfds.builder_from_directory(directory), split)
    images, labels = zip(*(examples[i] for i in range(len(examples))), strict=True)
    return np.stack(images), np.array(labels)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def datasets(folder: Path) -> list[str]:
    """Finished, unfinished and replaced ones."""
    return [path.name for path in folder.iterdir() if path.is_dir()]


def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    return sorted(zip((image.tobytes() for image in images), labels.tolist(), strict=True))


# digits


@pytest.fixture
def digits(digits_dir) -> Path:
    return prepare.dataset_dir(digits_dir, "digits")


def test_digits_holds_every_digit_once(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    info = tfds.builder_from_directory(digits).info
    assert {split: part.num_examples for split, part in info.splits.items()} == {"train": 1257, "validation": 180, "test": 360}
    assert info.features["label"].names == list("0123456789")
    assert info.features["image"].shape == (28, 28, 1)
    splits = [read(digits, split) for split in ("train", "validation", "test")]
    expected = [
        np.asarray(Image.fromarray(np.uint8(np.rint(digit * 255 / 16))).resize((28, 28), Image.Resampling.BICUBIC))
        for digit in source.images
    ]
    assert splits[0][0].dtype == np.uint8
    assert splits[0][0].max() == 255
    everything = np.concatenate([x for x, _ in splits]), np.concatenate([y for _, y in splits])
    assert pairs(*everything) == pairs(np.stack(expected)[..., None], source.target)


def test_digits_are_stratified_and_shuffled(digits):
    counts = {split: np.bincount(read(digits, split)[1], minlength=10) for split in ("train", "validation", "test")}
    whole = sum(counts.values())
    for split, count in counts.items():
        assert np.abs(count - whole * count.sum() / 1797).max() < 1.5, split
    assert len(set(read(digits, "train")[1][:30].tolist())) >= 8


def test_digits_again_are_the_same_bytes(digits, tmp_path):
    again = prepare.prepare_digits(tmp_path)
    assert contents(again) == contents(digits)
    before = {path: path.stat().st_mtime_ns for path in again.iterdir()}
    assert prepare.prepare_digits(tmp_path) == again == prepare.dataset_dir(tmp_path, "digits")
    assert {path: path.stat().st_mtime_ns for path in again.iterdir()} == before
    with pytest.raises(UserError, match=r"digits/1\.0\.0 exists already; delete it or pass --overwrite"):
        prepare.prepare_digits(tmp_path, size=32)
    prepare.prepare_digits(tmp_path, size=32, overwrite=True)
    assert read(again, "test")[0].shape == (360, 32, 32, 1)
    assert not list(tmp_path.rglob(".replaced*"))


def test_two_processes_prepare_one_dataset(tmp_path, monkeypatch, capsys):
    """Both are threads here; the lock is on the open file, so they meet as two processes would."""
    first_is_writing = threading.Event()

    def write(self, records, original=records.Shards.write):
        first_is_writing.set()
        original(self, records)
        time.sleep(0.01)

    monkeypatch.setattr(records.Shards, "write", write)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(prepare.prepare_digits, tmp_path)
        first_is_writing.wait()
        second = pool.submit(prepare.prepare_digits, tmp_path)
        assert first.result() == second.result() == prepare.dataset_dir(tmp_path, "digits")
    assert capsys.readouterr().err.count("waiting for another process") == 1
    assert len(read(first.result(), "test")[0]) == 360


# IDX


def write_idx(path: Path, array: np.ndarray, packed: bool = False) -> None:
    data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
    path.with_name(path.name + ".gz" * packed).write_bytes(gzip.compress(data) if packed else data)


@pytest.fixture
def idx(tmp_path) -> Path:
    """90 train and 12 test images of 10x8 pixels with labels 1 to 3, the test files packed."""
    rng = np.random.default_rng(0)
    source = tmp_path / "idx"
    source.mkdir()
    write_idx(source / "train-images-idx3-ubyte", rng.integers(0, 256, (90, 10, 8), np.uint8))
    write_idx(source / "train-labels-idx1-ubyte", np.repeat(np.uint8([1, 2, 3]), (45, 30, 15)))
    write_idx(source / "t10k-images-idx3-ubyte", rng.integers(0, 256, (12, 10, 8), np.uint8), packed=True)
    write_idx(source / "t10k-labels-idx1-ubyte", np.repeat(np.uint8([1, 2, 3]), 4), packed=True)
    return source


def test_idx(idx, tmp_path):
    directory = prepare.prepare_idx(idx, "toy", tmp_path, validation=12)
    assert tfds.builder_from_directory(directory).info.features["label"].names == ["1", "2", "3"]
    (train, y_train), (held, y_held), (test, y_test) = (read(directory, split) for split in ("train", "validation", "test"))
    assert train.shape == (78, 10, 8, 1)
    assert np.bincount(y_train).tolist() == [39, 26, 13]
    assert np.bincount(y_held).tolist() == [6, 4, 2]
    images = np.frombuffer((idx / "train-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(90, 10, 8, 1)
    labels = np.repeat([0, 1, 2], (45, 30, 15))
    assert pairs(np.concatenate([train, held]), np.concatenate([y_train, y_held])) == pairs(images, labels)
    t10k = gzip.decompress((idx / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    assert pairs(test, y_test) == pairs(np.frombuffer(t10k, np.uint8).reshape(12, 10, 8, 1), np.repeat([0, 1, 2], 4))


def test_idx_resized_with_class_names(idx, tmp_path):
    directory = prepare.prepare_idx(idx, "fashion_mnist", tmp_path, size=6, validation=12)
    info = tfds.builder_from_directory(directory).info
    assert info.features["label"].names == ["Trouser", "Pullover", "Dress"]
    assert "shorter side to 6" in info.metadata["protocol"]
    t10k = np.frombuffer(gzip.decompress((idx / "t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8).reshape(12, 10, 8, 1)
    expected = np.stack([Resize(6)(image) for image in t10k])
    assert pairs(*read(directory, "test")) == pairs(expected, np.repeat([0, 1, 2], 4))


@pytest.mark.parametrize(
    ("images", "labels", "test"),
    [
        ("{}-images.idx3-ubyte", "{}-labels.idx1-ubyte", "t10k"),
        ("emnist-letters-{}-images-idx3-ubyte", "emnist-letters-{}-labels-idx1-ubyte", "test"),
        ("{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz", "t10k"),  # which the browser has unpacked
        ("{0}-images-idx3-ubyte/{0}-images-idx3-ubyte", "{0}-labels-idx1-ubyte/{0}-labels-idx1-ubyte", "t10k"),
    ],
)
def test_idx_under_the_names_that_people_have(images, labels, test, idx, tmp_path, capsys):
    source, whole = tmp_path / "theirs", prepare.prepare_idx(idx, "toy", tmp_path, validation=12)
    for split, theirs in (("train", "train"), ("t10k", test)):
        for ours, name in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
            path = next(idx.glob(f"{ours}*"))
            target = source / name.format(theirs)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    directory = prepare.prepare_idx(source, "theirs", tmp_path, validation=12)
    said = capsys.readouterr().err
    for split in ("train", "validation", "test"):
        (found, y), (expected, y_expected) = read(directory, split), read(whole, split)
        np.testing.assert_array_equal(y, y_expected)
        np.testing.assert_array_equal(found, expected.transpose(0, 2, 1, 3) if "emnist" in images else expected)
    assert ("EMNIST's pictures are stored transposed; they are set upright" in said) == ("emnist" in images)
    metadata = tfds.builder_from_directory(directory).info.metadata
    assert metadata["protocol"].startswith("transposed" if "emnist" in images else "pixels as they are")


def test_several_idx_sets_in_one_folder(idx, tmp_path):
    for path in list(idx.iterdir()):
        for prefix in ("emnist-digits", "emnist-letters"):
            (idx / f"{prefix}-{path.name}").write_bytes(path.read_bytes())
        path.unlink()
    with pytest.raises(UserError, match=r"holds 2 sets of IDX files, 'emnist-digits', 'emnist-letters'; name one in --name"):
        prepare.prepare_idx(idx, "toy", tmp_path)
    prepare.prepare_idx(idx, "emnist_letters", tmp_path, validation=12)
    write_idx(idx / "emnist-letters-train-labels.idx1-ubyte", np.repeat(np.uint8([3, 2, 1]), (45, 30, 15)))
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte and .*train-labels.idx1-ubyte hold different values; remove one"):
        prepare.prepare_idx(idx, "emnist_letters", tmp_path, validation=12, overwrite=True)


def test_a_packed_file_beside_an_unpacked_one_must_hold_the_same(idx, tmp_path):
    """What was unpacked of it does; Fashion-MNIST's download beside an unpacked MNIST does not."""
    images = idx / "train-images-idx3-ubyte"
    packed = images.with_name(images.name + ".gz")
    packed.write_bytes(gzip.compress(images.read_bytes()))
    directory = prepare.prepare_idx(idx, "toy", tmp_path, validation=12)
    write_idx(images, 255 - np.frombuffer(images.read_bytes()[16:], np.uint8).reshape(90, 10, 8), packed=True)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte and train-images-idx3-ubyte\.gz hold different values; remove one"):
        prepare.prepare_idx(idx, "toy", tmp_path, validation=12, overwrite=True)
    assert directory.exists()


def test_a_class_with_one_example_is_named(idx, tmp_path):
    write_idx(idx / "train-labels-idx1-ubyte", np.repeat(np.uint8([1, 2, 3]), (45, 44, 1)))
    with pytest.raises(UserError, match=r"1 classes have one train example only \('3'\), and one must stay"):
        prepare.prepare_idx(idx, "toy", tmp_path, validation=12)


def test_idx_mistakes(idx, tmp_path):
    images, labels = idx / "train-images-idx3-ubyte", idx / "train-labels-idx1-ubyte"
    whole_images, whole_labels = images.read_bytes(), labels.read_bytes()
    attempt = functools.partial(prepare.prepare_idx, idx, "toy", tmp_path, validation=12)
    with pytest.raises(UserError, match=r"cannot hold 2 of 90 train examples out.*--validation"):
        attempt(validation=2)
    images.write_bytes(whole_images[:-1])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte holds 7199 bytes of values where its header says \(90, 10, 8\)"):
        attempt()
    images.write_bytes(b"<html>")
    with pytest.raises(UserError, match="train-images-idx3-ubyte begins with 3c68746d, not 00000803"):
        attempt()
    images.write_bytes(whole_labels)
    with pytest.raises(UserError, match="begins with 00000801, not 00000803"):
        attempt()
    images.unlink()
    with pytest.raises(UserError, match=r"there is no .*train-images-idx3-ubyte.*--source must hold the four files"):
        attempt()
    packed = images.with_name(images.name + ".gz")
    packed.write_bytes(gzip.compress(whole_images)[:-100])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is not a whole gzip file .*download it again"):
        attempt()
    packed.write_bytes(gzip.compress(whole_images))
    write_idx(labels, np.ones(89, np.uint8))
    with pytest.raises(UserError, match="90 train images but 89 labels"):
        attempt()
    labels.write_bytes(whole_labels)
    write_idx(idx / "t10k-labels-idx1-ubyte", np.full(12, 7, np.uint8), packed=True)
    with pytest.raises(UserError, match=r"labels 1 to 3, the t10k files .* 7 to 7; they do not belong together"):
        attempt()
    write_idx(idx / "t10k-labels-idx1-ubyte", np.empty(0, np.uint8), packed=True)
    write_idx(idx / "t10k-images-idx3-ubyte", np.empty((0, 28, 28), np.uint8), packed=True)
    with pytest.raises(
        UserError, match=r"train images are of shape \(90, 10, 8\), the t10k images \(0, 28, 28\); --source must hold some of both"
    ):
        attempt()
    write_idx(images, np.empty((90, 0, 8), np.uint8), packed=True)
    with pytest.raises(UserError, match=r"train images are of shape \(90, 0, 8\)"):
        attempt()
    with pytest.raises(UserError, match="dataset name 'fashion-mnist': use letters"):
        prepare.prepare_idx(idx, "fashion-mnist", tmp_path)
    assert not (tmp_path / "toy").exists()


@pytest.mark.parametrize(
    ("shared", "said"),
    [
        (0, ""),
        (5, "5 of the 12 t10k images are train images too, and test nothing\n"),
        (12, "12 of the 12 t10k images are .*; get the t10k"),
    ],
)
def test_images_that_are_trained_on_test_nothing(shared, said, idx, tmp_path, capsys):
    train = np.frombuffer((idx / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(90, 10, 8)
    write_idx(idx / "t10k-images-idx3-ubyte", np.concatenate([train[:shared], 255 - train[shared:12]]), packed=True)
    prepare.prepare_idx(idx, "toy", tmp_path, validation=12)
    assert re.fullmatch(f"warning: .*{said}.*\n?" if said else "", capsys.readouterr().err)


def test_emnist_is_a_word(idx, tmp_path, capsys):
    prepare.prepare_idx(idx, "femnist", tmp_path, validation=12)
    assert "transposed" not in capsys.readouterr().err
    assert read(tmp_path / "femnist/1.0.0", "test")[0].shape == (12, 10, 8, 1)


def test_one_class_is_nothing_to_learn(idx, folder, tmp_path):
    for role, count in (("train", 90), ("t10k", 12)):
        write_idx(idx / f"{role}-labels-idx1-ubyte", np.full(count, 3, np.uint8), packed=role == "t10k")
    with pytest.raises(UserError, match="there is one class only, '3'"):
        prepare.prepare_idx(idx, "toy", tmp_path, validation=12, overwrite=True)
    for split in ("train", "val", "test"):
        shutil.rmtree(folder / split / "dog")
    with pytest.raises(UserError, match=r"there is one class only, 'cat', .*give the images of each class a folder"):
        prepare.prepare_folder(folder, "pets", tmp_path, size=8, workers=1)


# folders


def save(path: Path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of pictures of many sizes and kinds: 24 + 10 train, 3 + 3 val, 2 + 1 test."""
    rng = np.random.default_rng(0)
    for split, cats, dogs in (("train", 24, 10), ("val", 3, 3), ("test", 2, 1)):
        for name, count in (("cat", cats), ("dog", dogs)):
            for i in range(count):
                pixels = rng.integers(0, 256, (rng.integers(70, 100), rng.integers(70, 100), 3), np.uint8)
                save(tmp_path / "images" / split / name / f"{i}.{('png', 'JPEG')[i % 2]}", pixels)
    (tmp_path / "images/train/cat/readme.txt").write_text("no image")
    (tmp_path / "images/train/cat/._0.png").write_bytes(b"macOS")
    (tmp_path / "images/.DS_Store").write_bytes(b"macOS")
    return tmp_path / "images"


def test_a_class_folder_that_cannot_be_read(folder, monkeypatch, tmp_path):
    scandir = os.scandir

    def closed(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"cannot read .*dog: Permission denied"):
        prepare.prepare_folder(folder, "pets", tmp_path, size=64, workers=1)


def expected_images(folder: Path, split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    files = [path for path in sorted((folder / split).glob("*/[0-9]*"))]
    return np.stack([load_resized(path, Resize(size)) for path in files]), np.array([path.parent.name == "dog" for path in files]) * 1


def test_folder(folder, tmp_path):
    directory = prepare.prepare_folder(folder, "pets", tmp_path, size=64, workers=1)
    info = tfds.builder_from_directory(directory).info
    assert info.features["label"].names == ["cat", "dog"]
    assert isinstance(info.features["image"], tfds.features.Tensor)  # small images are raw by default
    for split, theirs in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert pairs(*read(directory, split)) == pairs(*expected_images(folder, theirs, 64))
    assert 2 <= read(directory, "train")[1][:17].sum() <= 8  # shuffled: cats and dogs are mixed
    assert str(tmp_path) not in "".join(path.read_text() for path in directory.glob("*.json"))


def test_folder_in_other_encodings(folder, tmp_path):
    jpeg = prepare.prepare_folder(folder, "pets", tmp_path, size=72, workers=1)
    assert tfds.builder_from_directory(jpeg).info.features["image"].encoding_format == "jpeg"  # large images are
    assert read(jpeg, "test")[0].shape == (3, 72, 72, 3)
    png = prepare.prepare_folder(folder, "pets", tmp_path, size=72, encoding="png", workers=1, overwrite=True)
    assert pairs(*read(png, "test")) == pairs(*expected_images(folder, "test", 72))


def test_corrupt_image(folder, tmp_path, capsys):
    (folder / "train/cat/3.JPEG").write_bytes((folder / "train/cat/5.JPEG").read_bytes()[:1000])
    (folder / "val/dog/1.JPEG").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"train/cat/3\.JPEG is a broken image: .*; repair or delete it, or pass --skip-corrupt"):
        prepare.prepare_folder(folder, "pets", tmp_path, size=8, workers=2)
    assert datasets(tmp_path / "pets") == []
    arguments = ["folder", "--source", str(folder), "--name", "pets", "--data-dir", str(tmp_path), "--size", "8", "--workers", "1"]
    prepare.main([*arguments, "--skip-corrupt"])
    directory = prepare.dataset_dir(tmp_path, "pets")
    listed = (directory / "left_out.txt").read_text().splitlines()
    assert [line.split(" is ")[0] for line in listed] == [
        f"not an image\t{folder}/train/cat/readme.txt",
        f"broken image\t{folder}/train/cat/3.JPEG",
        f"broken image\t{folder}/val/dog/1.JPEG",
    ]
    printed = capsys.readouterr().out
    assert "train 33, validation 5, test 3; 2 classes; 8x8x3, " in printed
    assert f"left out: 2 broken image, 1 not an image; see {directory}/left_out.txt" in printed


@pytest.mark.parametrize(
    ("link", "target", "said"),
    [
        ("val", "train", "would be in train and in validation, with one label"),
        ("train/dog/cats", "../cat", "would be in train and in train, with two labels"),
        ("train/cat/all", "..", "would be in train and in train, with two labels"),  # a loop, through which the dogs are seen
        ("test/cat/more.png", "../../train/cat/0.png", "would be in train and in test, with one label"),
    ],
)
def test_a_link_brings_no_picture_into_two_places(link, target, said, folder, tmp_path):
    shutil.rmtree(folder / link, ignore_errors=True)
    (folder / link).symlink_to(target)
    with pytest.raises(UserError, match=rf"are one file, by a link, and {said}; remove one of the two"):
        prepare.prepare_folder(folder, "pets", tmp_path, size=8, workers=1)


def test_copies_in_two_splits_or_classes_are_told(folder, tmp_path, capsys):
    shutil.copy(folder / "train/cat/3.JPEG", folder / "val/cat/copy.JPEG")
    shutil.copy(folder / "train/cat/3.JPEG", folder / "train/cat/again.JPEG")  # in one class of one split it does no harm
    shutil.copy(folder / "train/cat/5.JPEG", folder / "train/dog/5 too.JPEG")
    prepare.prepare_folder(folder, "pets", tmp_path, size=8, workers=1)
    cat, dog = f"{folder}/train/cat", f"{folder}/train/dog"
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warnings == [
        f"warning: in two splits lie copies of 1 picture, byte for byte, such as {cat}/3.JPEG (train) and {folder}/val/cat/copy.JPEG "
        "(validation); a copy tests nothing: remove one of each",
        f"warning: in two classes lie copies of 1 picture, byte for byte, such as {cat}/5.JPEG (train) and {dog}/5 too.JPEG (train); "
        "remove the one with the wrong label",
    ]


def test_a_copy_that_would_be_held_out_is_told(folder, tmp_path, capsys):
    shutil.rmtree(folder / "val")
    for i in range(40):
        shutil.copy(folder / "train/cat/3.JPEG", folder / f"train/cat/copy {i}.JPEG")
    prepare.prepare_folder(folder, "pets", tmp_path, size=8, workers=1)
    assert "warning: in two splits lie copies of 1 picture" in capsys.readouterr().err


def test_same_size_and_end_is_no_copy(tmp_path, capsys):
    for name, first in (("train", b"a"), ("test", b"b")):
        (tmp_path / name).write_bytes(first + bytes(copies.END))
    copies.tell_copies({name: [(str(tmp_path / name), 0)] for name in ("train", "test")})
    assert not capsys.readouterr().err


def test_folder_mistakes(folder, tmp_path):
    attempt = functools.partial(prepare.prepare_folder, folder, "pets", tmp_path, size=8, workers=1)
    with pytest.raises(UserError, match=r"there is no folder .*nowhere/train; --source must hold train/CLASS"):
        prepare.prepare_folder(tmp_path / "nowhere", "pets", tmp_path)
    save(folder / "val" / "ILSVRC_1.JPEG", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"val holds images directly \(ILSVRC_1\.JPEG\); sort them into one folder for each class"):
        attempt()
    (folder / "val" / "ILSVRC_1.JPEG").unlink()
    (folder / "val" / "bird").mkdir()
    (folder / "val" / "cat").rename(folder / "cat")
    with pytest.raises(UserError, match=r"folders of .*val differ from those of train: 1 missing \['cat'\], 1 unknown \['bird'\]"):
        attempt()
    (folder / "val" / "bird").rmdir()
    (folder / "val" / "cat").mkdir()
    with pytest.raises(UserError, match=r"val/cat holds no image; fill it, or delete the class from every split"):
        attempt()
    (folder / "val" / "cat").rmdir()
    (folder / "val" / "dog").rename(folder / "dog")
    with pytest.raises(UserError, match="val holds no class folders"):
        attempt()
    (folder / "valid").mkdir()
    with pytest.raises(UserError, match=r"there are .*/val and .*/valid; remove all but one"):
        attempt()
    (folder / "valid").rmdir()
    with pytest.raises(UserError, match=r"there is .*/val, so no need for --validation"):
        attempt(validation=5)
    (folder / "val").rmdir()
    (folder / "test").rename(folder / "val")
    for file in (folder / "train/dog").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"train/dog holds no image"):
        attempt()
    save(folder / "train/dog/0.png", np.zeros((8, 8, 3), np.uint8))
    (folder / "val").rename(folder / "test")
    with pytest.raises(UserError, match=r"1 classes have one train example only \('dog'\), and one must stay; add examples"):
        attempt()
    assert not (tmp_path / "pets").exists()


@pytest.mark.parametrize("where", ["train/bird", "val/bird", "test/bird", "train/readme.txt", "valid"])
def test_a_link_that_leads_nowhere_drops_no_class(where, folder, tmp_path):
    """A class, or a split, on a disk that isn't mounted."""
    (folder / where).symlink_to(tmp_path / "disk" / "bird")
    with pytest.raises(UserError, match=rf"{where} is a link that leads nowhere; mount the disk that it leads to, or remove the link"):
        prepare.prepare_folder(folder, "pets", tmp_path, size=8, workers=1)


def test_pictures_of_any_name_at_any_depth(folder, tmp_path, capsys):
    """And what is none is counted by reason, on one line each in a list."""
    cat, pixels = folder / "train/cat", np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8)
    for name, kind in (("a.jfif", "jpeg"), ("b.avif", "avif"), ("c", "webp"), ("second shoot/1/d.data", "bmp"), (".hidden/e.png", "png")):
        save(cat / name, pixels, format=kind)
    save(cat / "__MACOSX/f.png", pixels)
    (cat / os.fsdecode(b"\xff\n.txt")).write_text("no image")
    (cat / "again").symlink_to(cat)
    (folder / "labels.csv").touch()
    arguments = ["folder", "--source", str(folder), "--name", "pets", "--data-dir", str(tmp_path), "--size", "8", "--workers", "1"]
    prepare.main(arguments)
    captured = capsys.readouterr()
    assert "train 38, validation 6, test 3; " in captured.out
    assert "left out: 1 beside train, val and test, 2 not an image; see " in captured.out
    assert "again leads back to a folder above it" in captured.err
    directory = prepare.dataset_dir(tmp_path, "pets")
    assert (directory / "left_out.txt").read_text().count("\n") == 3
    assert f"not an image\t{cat}/\\udcff\\n.txt\n" in (directory / "left_out.txt").read_text()


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "IMG_1.heif", "DSC_1.HIF", "IMG_1.jpg"])
@pytest.mark.parametrize("content", [b"", b"\0\0\0\x18ftypheic", bytes(5000)], ids=["empty", "cut", "zeros"])
def test_a_broken_picture_is_an_error_whatever_its_format(name, content, folder, tmp_path):
    (folder / "train/cat" / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is .*image.*; repair or delete it, or pass --skip-corrupt"):
        prepare.prepare_folder(folder, "pets", tmp_path, size=8, workers=1)


def test_a_broken_picture_of_any_name_is_listed(folder, tmp_path):
    (folder / "train/cat" / os.fsdecode("\u574f".encode("gbk") + b".jpg")).touch()
    (folder / "train/cat" / "two\nlines.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    directory = prepare.prepare_folder(folder, "pets", tmp_path, size=8, workers=1, skip_corrupt=True)
    listed = (directory / "left_out.txt").read_text()
    assert listed.count("broken image\t") == 2
    assert "/\\udcbb\\udcb5.jpg is not an image" in listed
    assert "/two\\nlines.png is " in listed


def test_validation_is_held_out_of_a_folder(folder, tmp_path):
    (folder / "val").rename(tmp_path / "val")
    whole = pairs(*expected_images(folder, "train", 8))
    for validation, held in ((None, [2, 1]), (10, [7, 3]), (0.5, [12, 5])):
        directory = prepare.prepare_folder(folder, "pets", tmp_path, size=8, workers=1, validation=validation, overwrite=True)
        out = read(directory, "validation")
        assert np.bincount(out[1]).tolist() == held
        train = read(directory, "train")
        assert pairs(np.concatenate([train[0], out[0]]), np.concatenate([train[1], out[1]])) == whole
        assert f"; {sum(held)} of them, stratified, are" in tfds.builder_from_directory(directory).info.description
    again = prepare.prepare_folder(folder, "again", tmp_path, size=8, workers=1, validation=0.5)
    np.testing.assert_array_equal(read(again, "validation")[0], out[0])
    (tmp_path / "val").rename(folder / "validation")
    directory = prepare.prepare_folder(folder, "named", tmp_path, size=8, workers=1)
    assert len(read(directory, "validation")[0]) == 6


@pytest.mark.parametrize("amount", ["0", "1.5", "-1", "ten", "0.0", "nan"])
def test_an_amount_that_is_none(amount, capsys):
    with pytest.raises(SystemExit):
        prepare.main(["folder", "--source", "x", "--name", "x", f"--validation={amount}"])
    assert "neither a whole number above 0 nor a fraction" in capsys.readouterr().err


def tiny_folder(source: Path, *classes: str, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """A grey picture of its class's brightness for each class: 0, 10, 20, ..."""
    for split in splits:
        for i, name in enumerate(classes):
            save(source / split / name / "0.png", np.full((4, 4, 3), 10 * i, np.uint8))
    return source


def test_classes_that_are_numbers_sort_as_numbers(tmp_path):
    source = tiny_folder(tmp_path / "numbers", *map(str, range(12)))
    directory = prepare.prepare_folder(source, "numbers", tmp_path, size=4, workers=1)
    assert tfds.builder_from_directory(directory).info.features["label"].names == [str(i) for i in range(12)]
    images, labels = read(directory, "validation")
    assert (images[:, 0, 0, 0] // 10).tolist() == labels.tolist()
    mixed = prepare.prepare_folder(tiny_folder(tmp_path / "mixed", "2", "10", "b"), "mixed", tmp_path, size=4, workers=1)
    assert tfds.builder_from_directory(mixed).info.features["label"].names == ["10", "2", "b"]


def test_classes_are_the_same_in_either_form_of_unicode(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    source = tiny_folder(tmp_path / "src", decomposed, "tea ", splits=("train",))
    tiny_folder(source, composed, "tea", splits=("val",))
    directory = prepare.prepare_folder(source, "drinks", tmp_path, size=4, workers=1)
    assert tfds.builder_from_directory(directory).info.features["label"].names == [composed, "tea"]
    tiny_folder(source, composed, splits=("train",))
    with pytest.raises(UserError, match=f"two folders for class {composed}, which differ in spaces or in Unicode's form; join them"):
        prepare.prepare_folder(source, "two", tmp_path, size=4)


@pytest.mark.parametrize("name", [b"\xff", b"a\nb", "a\u2028b".encode(), b"a\rb", b"\xc2\x85", b" "])
def test_a_class_that_cannot_be_named_is_refused_first(name, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "write", lambda *_: pytest.fail("it began"))
    source = tiny_folder(tmp_path / "src", "a", os.fsdecode(name))
    with pytest.raises(UserError, match=r"src/train: the class folder '.*' needs a name in UTF-8 on one line; rename it"):
        prepare.prepare_folder(source, "x", tmp_path, size=4)


@pytest.mark.parametrize("inside", ["", "images"])
def test_a_test_folder_without_labels_is_left_out(inside, tmp_path, capsys):
    source = tiny_folder(tmp_path / "src", "a", "b")
    save(source / "test" / inside / "0.png", np.zeros((4, 4, 3), np.uint8))
    prepare.main(["folder", "--source", str(source), "--name", "x", "--data-dir", str(tmp_path), "--size", "4", "--workers", "1"])
    printed = capsys.readouterr().out
    assert "train 2, validation 2; 2 classes" in printed
    assert "left out: 1 test folder without labels; see " in printed


# TFDS


class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """20 train pictures of many sizes, 6 test pictures without labels."""

    VERSION = tfds.core.Version("2.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3))
        label = tfds.features.ClassLabel(names=["even", "odd"])
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"picture": image, "class": label}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "test": self._generate_examples(6)}

    def _generate_examples(self, count):
        for i in range(count):
            buffer = io.BytesIO()
            toy_image(i).save(buffer, "png")
            buffer.seek(0)
            yield i, {"picture": buffer, "class": i % 2 if count == 20 else -1}


def toy_image(i: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (10 + i, 14, 3), np.uint8))


def test_tfds(tmp_path):
    Toy(data_dir=tmp_path / "tfds").download_and_prepare(file_format="array_record")
    directory = prepare.prepare_tfds("toy", tmp_path / "data", source=tmp_path / "tfds", size=9, validation=6, workers=2)
    info = tfds.builder_from_directory(directory).info
    assert {split: part.num_examples for split, part in info.splits.items()} == {"train": 14, "validation": 6}  # no labels, no test split
    assert info.features["label"].names == ["even", "odd"]
    assert info.metadata["source"] == "TFDS toy/2.0.0"
    (train, y_train), (held, y_held) = read(directory, "train"), read(directory, "validation")
    assert np.bincount(y_held).tolist() == [3, 3]
    expected = np.stack([Resize(9)(np.asarray(toy_image(i))) for i in range(20)])
    assert pairs(np.concatenate([train, held]), np.concatenate([y_train, y_held])) == pairs(expected, np.arange(20) % 2)


def test_tfds_leaves_broken_images_out(tmp_path, capsys):
    class Broken(Toy, skip_registration=True):
        def _generate_examples(self, count):
            for i, example in super()._generate_examples(count):
                if i == 3:
                    example["picture"] = io.BytesIO(example["picture"].read()[:60])
                yield i, example

    Broken(data_dir=tmp_path / "tfds").download_and_prepare(file_format="array_record")
    arguments = ["tfds", "--name", "broken", "--source", str(tmp_path / "tfds"), "--data-dir", str(tmp_path / "data"), "--size", "9"]
    with pytest.raises(UserError, match=r"example \d+ of train in .* is a broken image.* pass --skip-corrupt"):
        prepare.main([*arguments, "--validation", "0.25"])
    prepare.main([*arguments, "--validation", "0.25", "--skip-corrupt", "--workers", "1"])
    printed = capsys.readouterr().out
    assert "left out: 1 broken image; see " in printed
    assert "train 14, validation 5" in printed or "train 15, validation 4" in printed


def test_tfds_declares_a_shape_that_its_pictures_do_not_have(digits, tmp_path):
    source = shutil.copytree(digits, tmp_path / "digits" / "1.0.0")
    as_png = prepare.prepare_tfds("as_png", tmp_path, source=source, encoding="png", workers=1)
    features = as_png / "features.json"
    features.write_text(features.read_text().replace('"28"', '"20"', 1))
    message = r"example \d+ of train in .*as_png.* has the shape \(28, 28, 1\), and the dataset declares \(20, 28, 1\); pass --size to"
    with pytest.raises(UserError, match=message):
        prepare.prepare_tfds("other", tmp_path, source=as_png, workers=1)
    directory = prepare.prepare_tfds("other", tmp_path, source=as_png, workers=1, size=14)
    assert read(directory, "test")[0].shape == (360, 14, 14, 1)


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_tfds_with_all_splits_and_one_shape(digits, tmp_path, encoding):
    directory = prepare.prepare_tfds("copy", tmp_path, source=digits, encoding=encoding, workers=1)
    for split in ("train", "validation", "test"):
        assert pairs(*read(directory, split)) == pairs(*read(digits, split))
    assert tfds.builder_from_directory(directory).info.metadata["protocol"] == f"pixels as they are; stored as {encoding}"


def test_tfds_mistakes(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="TFDS knows no dataset 'no_such_thing'"):
        prepare.prepare_tfds("no_such_thing", tmp_path, source=tmp_path)

    def without_a_module(*args, **kwargs):
        print("*** banner ***")
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    def without_network(*args, **kwargs):
        raise tfds.download.DownloadError("404\nNot Found")

    monkeypatch.setattr(tfds, "builder", without_network)
    with pytest.raises(UserError, match=r"TFDS cannot load cifar10: 404 Not Found$"):
        prepare.prepare_tfds("cifar10", tmp_path)
    monkeypatch.setattr(tfds, "builder", without_a_module)
    for module, packages in (("tensorflow", "tensorflow"), ("tree", "dm-tree tensorflow")):
        missing = module
        with pytest.raises(UserError, match=f"TFDS cannot build cifar10 without the module {module}: pip install {packages}$"):
            prepare.prepare_tfds("cifar10", tmp_path)
    assert capsys.readouterr().out == ""

    class Texts(Toy, skip_registration=True):
        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

        def _generate_examples(self, count):
            yield 0, {"text": "a"}

    Texts(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    with pytest.raises(UserError, match=r"TFDS texts has the features \['text'\], not one uint8 image"):
        prepare.prepare_tfds("texts", tmp_path, source=tmp_path / "texts/2.0.0")
    info = tmp_path / "texts/2.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"texts/2\.0\.0 is tfrecord, .*; give another --source"):
        prepare.prepare_tfds("texts", tmp_path, source=tmp_path / "texts/2.0.0")


# command line


def test_cli(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    prepare.main(["digits", "--data-dir", str(tmp_path), "--size", "10"])
    directory = prepare.dataset_dir(tmp_path, "digits")
    printed = capsys.readouterr().out
    assert f"{directory}: train 1,257, validation 180, test 360; 10 classes; 10x10x1, " in printed
    command = f"python -m alexnet_jax.train --config configs/digits.py --workdir runs/digits --config.data.dir={tmp_path}\n"
    assert printed.endswith(f"next: {command}")
    with pytest.raises(UserError, match="exists already; delete it or pass --overwrite"):
        prepare.main(["digits", "--data-dir", str(tmp_path), "--size", "10"])
    prepare.main(["digits", "--data-dir", str(tmp_path), "--overwrite"])
    assert contents(directory) == contents(digits)
    with pytest.raises(SystemExit):
        prepare.main(["folder", "--source", "x", "--name", "x", "--workers", "0"])
    assert "'0' is not a whole number above 0" in capsys.readouterr().err


def test_a_mistake_is_one_line():
    command = [sys.executable, "-m", "alexnet_jax.prepare", "idx", "--source", "nowhere", "--name", "mnist", "--data-dir", "nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no nowhere/train-images-idx3-ubyte")
    assert done.stderr.count("\n") == 1


def test_help_imports_nothing_heavy():
    code = "import sys, alexnet_jax.prepare; print([m for m in ('jax', 'sklearn', 'tensorflow_datasets', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_ctrl_c_is_one_line_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupt(self, chunk):
        raise KeyboardInterrupt

    monkeypatch.setattr(records.Shards, "write", interrupt)
    with pytest.raises(SystemExit) as exit:
        run_cli(functools.partial(prepare.main, ["digits", "--data-dir", str(tmp_path)]))
    assert exit.value.code == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert datasets(tmp_path / "digits") == []
