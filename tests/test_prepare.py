"""Every source becomes a dataset with the promised pixels, labels and splits, or one clear line of error."""

import functools
import gzip
import io
import os
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

from alexnet_jax import data
from alexnet_jax.errors import UserError, run_cli
from alexnet_jax.prepare import __main__ as prepare
from alexnet_jax.prepare import records
from alexnet_jax.prepare.images import Resize, load_image

ROOT = Path(__file__).parent.parent


def read(directory: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a split, in the order of their records."""
    examples = data.Records(tfds.builder_from_directory(directory), split)
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

    def write(self, records, original=records._Shards.write):
        first_is_writing.set()
        original(self, records)
        time.sleep(0.01)

    monkeypatch.setattr(records._Shards, "write", write)
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
    for broken in (gzip.compress(whole_images)[:-100], whole_images):
        packed.write_bytes(broken)
        with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is not a whole gzip file .*download it again"):
            attempt()
    packed.write_bytes(gzip.compress(whole_images))
    write_idx(labels, np.ones(89, np.uint8))
    with pytest.raises(UserError, match="90 train images but 89 labels"):
        attempt()
    labels.write_bytes(whole_labels)
    write_idx(idx / "t10k-labels-idx1-ubyte", np.full(12, 7, np.uint8))
    with pytest.raises(UserError, match=r"labels 1 to 3, the t10k files .* 7 to 7; they do not belong together"):
        attempt()
    with pytest.raises(UserError, match="dataset name 'fashion-mnist': use letters"):
        prepare.prepare_idx(idx, "fashion-mnist", tmp_path)
    assert not (tmp_path / "toy").exists()


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
    return np.stack([Resize(size)(load_image(path)) for path in files]), np.array([path.parent.name == "dog" for path in files]) * 1


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
    listed = (directory / "corrupt.txt").read_text().splitlines()
    assert [line.split(" is ")[0] for line in listed] == [f"{folder}/train/cat/3.JPEG", f"{folder}/val/dog/1.JPEG"]
    printed = capsys.readouterr().out
    assert "train 33, validation 5, test 3; 2 classes; 8x8x3, " in printed
    assert f"2 broken images left out, see {directory}/corrupt.txt" in printed


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
    with pytest.raises(UserError, match=r"val/cat holds no image .*; fill it, or delete the class from every split"):
        attempt()
    (folder / "val").rename(folder / "validation")
    with pytest.raises(UserError, match=r"there is no folder .*/val; "):
        attempt()
    (folder / "val").mkdir()
    with pytest.raises(UserError, match="val holds no class folders"):
        attempt()
    assert not (tmp_path / "pets").exists()


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


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_tfds_with_all_splits_and_one_shape(digits, tmp_path, encoding):
    directory = prepare.prepare_tfds("copy", tmp_path, source=digits, encoding=encoding, workers=1)
    for split in ("train", "validation", "test"):
        assert pairs(*read(directory, split)) == pairs(*read(digits, split))
    assert tfds.builder_from_directory(directory).info.metadata["protocol"] == f"pixels as they are; stored as {encoding}"


def test_tfds_mistakes(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="TFDS knows no dataset 'no_such_thing'"):
        prepare.prepare_tfds("no_such_thing", tmp_path, source=tmp_path)

    def without_tensorflow(*args, **kwargs):
        print("*** banner ***")
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    def without_network(*args, **kwargs):
        raise tfds.download.DownloadError("404\nNot Found")

    monkeypatch.setattr(tfds, "builder", without_network)
    with pytest.raises(UserError, match=r"TFDS cannot load cifar10: 404 Not Found$"):
        prepare.prepare_tfds("cifar10", tmp_path)
    monkeypatch.setattr(tfds, "builder", without_tensorflow)
    with pytest.raises(UserError, match=r"TFDS cannot build cifar10 without the module tensorflow: pip install tensorflow$"):
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

    monkeypatch.setattr(records._Shards, "write", interrupt)
    with pytest.raises(SystemExit) as exit:
        run_cli(functools.partial(prepare.main, ["digits", "--data-dir", str(tmp_path)]))
    assert exit.value.code == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert datasets(tmp_path / "digits") == []
