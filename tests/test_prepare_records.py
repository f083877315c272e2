"""A dataset is written whole or not at all, the same bytes every time, and read back as the pixels, labels and statistics that went in."""

import functools
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from alexnet_jax import data
from alexnet_jax.errors import UserError
from alexnet_jax.examples import Records
from alexnet_jax.images import ImageError, load_image
from alexnet_jax.prepare import records
from alexnet_jax.prepare.workers import worker_map

pytestmark = pytest.mark.newest
ROOT = Path(__file__).parent.parent


def toy_plan(count: int = 60, shape: tuple[int, int, int] = (10, 12, 3), encoding: str = "raw", **changes) -> records.RawDataset:
    """`count` train and 9 validation images of coloured noise, labels 0 and 1 in halves."""
    rng = np.random.default_rng(0)

    def items(count):
        return [(rng.integers(0, (255, 120, 60)[: shape[-1]], shape, np.uint8), int(2 * i >= count)) for i in range(count)]

    fields = {"classes": ["cat", "dog"], "shape": shape, "splits": {"train": items(count), "validation": items(9)}, "load": tuple}
    return records.RawDataset(**{**fields, "encoding": encoding, "source": "a toy", "protocol": "as it is", **changes})


def read(directory: Path, split: str) -> list[tuple[np.ndarray, int]]:
    examples = Records(tfds.builder_from_directory(directory), split)
    return [examples[i] for i in range(len(examples))]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def datasets(folder: Path) -> list[str]:
    """Finished, unfinished and replaced ones."""
    return [path.name for path in folder.iterdir() if path.is_dir()]


def stored(image: np.ndarray, encoding: str) -> np.ndarray:
    """What should come back: only JPEG changes pixels."""
    if encoding != "jpeg":
        return image
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "jpeg", quality=95)
    return load_image(buffer.getvalue())[..., : image.shape[-1]]


# the format


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_what_goes_in_comes_out(tmp_path, encoding, channels):
    plan = toy_plan(40, shape=(10, 12, channels), encoding=encoding)
    directory = records.write(plan, tmp_path / "toy" / "1.0.0")
    for split, items in plan.splits.items():
        expected = sorted((stored(image, encoding).tobytes(), label) for image, label in items)
        assert sorted((image.tobytes(), label) for image, label in read(directory, split)) == expected
    builder = tfds.builder_from_directory(directory)
    assert builder.info.features["label"].names == ["cat", "dog"]
    assert builder.info.features["image"].shape == (10, 12, channels)
    assert builder.info.metadata["protocol"] == f"as it is; stored as {'JPEG of quality 95' if encoding == 'jpeg' else encoding}"
    theirs = builder.as_data_source("train")  # it is a TFDS dataset: TFDS reads it as we do
    for i, (image, label) in enumerate(read(directory, "train")):
        assert image.dtype == np.uint8
        assert image.shape == (10, 12, channels)
        np.testing.assert_array_equal(image, theirs[i]["image"])
        assert label == theirs[i]["label"]


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_of_the_training_pixels_before_jpeg(tmp_path, channels):
    plan = toy_plan(shape=(10, 12, channels), encoding="jpeg")
    directory = records.write(plan, tmp_path / "toy" / "1.0.0")
    metadata = json.loads((directory / "metadata.json").read_text())
    pixels = np.stack([image for image, _ in plan.splits["train"]]).reshape(-1, channels).astype(np.float64)
    np.testing.assert_allclose(metadata["pixel_mean"], pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(metadata["pixel_std"], np.sqrt(np.mean((pixels - pixels.mean(0)) ** 2)), rtol=1e-12)
    std, axes = np.array(metadata["pca_std"]), np.array(metadata["pca_axes"])
    assert (np.diff(std) < 0).all()
    np.testing.assert_allclose(axes @ axes.T, np.eye(channels), atol=1e-12)
    assert (axes.max(1) == np.abs(axes).max(1)).all()
    covariance = np.cov(pixels.T, bias=True).reshape(channels, channels)
    np.testing.assert_allclose(axes.T @ np.diag(std**2) @ axes, covariance, rtol=1e-9, atol=1e-6)


def test_the_same_bytes_from_any_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "CHUNK", 2)  # more chunks than the two workers have at once
    one = records.write(toy_plan(encoding="jpeg"), tmp_path / "one" / "toy" / "1.0.0")
    two = records.write(toy_plan(encoding="jpeg"), tmp_path / "two" / "toy" / "1.0.0", workers=2)
    assert contents(one) == contents(two)
    assert 10 <= sum(label for _, label in read(two, "train")[:30]) <= 20  # shuffled: cats and dogs are mixed


def test_digests_tell_splits_apart_that_look_alike(tmp_path, monkeypatch):
    """Other labels on the same pictures, or the same records in another order: the counts and the statistics are the same."""
    monkeypatch.setattr(records, "SHARD_RECORDS", 17)
    plan = toy_plan()

    def described(name, **splits):
        records.write(toy_plan(splits={**plan.splits, **splits}), tmp_path / name / "toy" / "1.0.0")
        return data.load(ConfigDict({"dir": str(tmp_path / name), "name": "toy", "prepare": "..."})).describe()

    first = described("first")
    assert described("again") == first
    assert set(first["digests"]) == {"train", "validation"}
    turned = {
        "train": [(image, 1 - label) for image, label in plan.splits["train"]],
        "validation": plan.splits["validation"][::-1],
    }
    for split, items in turned.items():
        other = described(split, **{split: items})
        assert [name for name in first if first[name] != other[name]] == ["digests"]
        assert [name for name in first["digests"] if first["digests"][name] != other["digests"][name]] == [split]


def test_shards_split_at_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SHARD_RECORDS", 17)
    plan = toy_plan()
    directory = records.write(plan, tmp_path / "toy" / "1.0.0")
    builder = tfds.builder_from_directory(directory)
    assert builder.info.splits["train"].shard_lengths == [17, 17, 17, 9]
    assert builder.info.splits["train"].num_bytes == sum(len(record) for record in builder.as_data_source("train").data_source)
    assert sorted(path.name for path in directory.glob("toy-train*")) == [f"toy-train.array_record-0000{i}-of-00004" for i in range(4)]
    order = np.random.default_rng(0).permutation(60)
    for (image, label), i in zip(read(directory, "train"), order, strict=True):
        np.testing.assert_array_equal(image, plan.splits["train"][i][0])
        assert label == plan.splits["train"][i][1]


def test_threads_read_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SHARD_RECORDS", 50)
    directory = records.write(toy_plan(200, encoding="png"), tmp_path / "toy" / "1.0.0")
    expected = read(directory, "train")
    examples = Records(tfds.builder_from_directory(directory), "train")  # no shard is open yet
    order = np.random.default_rng(1).integers(0, 200, 4000).tolist()
    with ThreadPoolExecutor(8) as pool:
        for i, (image, label) in zip(order, pool.map(examples.__getitem__, order), strict=True):
            np.testing.assert_array_equal(image, expected[i][0])
            assert label == expected[i][1]


# broken records


def opened(data_dir: Path) -> data.Dataset:
    return data.load(ConfigDict({"dir": str(data_dir), "name": "toy", "prepare": "..."}))


def cannot_read(index: int, reason: str):
    return pytest.raises(
        UserError, match=rf"^dataset toy, split train: example {index} can't be read \({reason}.*\); prepare the dataset again$"
    )


def test_a_damaged_shard_is_named(tmp_path):
    directory = records.write(toy_plan(), tmp_path / "toy" / "1.0.0")
    (shard,) = directory.glob("toy-train*")
    whole, third = shard.read_bytes(), read(directory, "train")[3][0]
    at = whole.index(third.tobytes()[:50])
    shard.write_bytes(whole[:at] + b"damage" + whole[at + 6 :])
    examples = opened(tmp_path).source("train")
    with cannot_read(3, "Corrupted"):
        examples[3]
    assert examples[4]["image"].shape == (10, 12, 3)
    shard.write_bytes(whole[:-1000])
    with cannot_read(4, ""):
        opened(tmp_path).source("train")[4]
    shard.unlink()
    with cannot_read(4, ".*No such file"):
        opened(tmp_path).source("train")[4]


@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_a_broken_image_is_named(tmp_path, monkeypatch, encoding):
    encode = records._encode_image
    monkeypatch.setattr(records, "_encode_image", lambda image, encoding: encode(image, encoding)[:-150])
    records.write(toy_plan(encoding=encoding), tmp_path / "toy" / "1.0.0")
    with cannot_read(59, {"raw": "cannot reshape", "png": ".*truncated", "jpeg": "Premature end"}[encoding]):
        opened(tmp_path).source("train")[59]


def test_a_record_of_another_kind_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_record", lambda image, label: image)
    records.write(toy_plan(), tmp_path / "toy" / "1.0.0")
    with cannot_read(0, ".*pars"):
        opened(tmp_path).source("train")[0]


# images that cannot be decoded


def fail(label: int | None, item):
    if item[1] == label or label is None:
        raise ImageError("cat.jpg is broken")
    return item


def test_corrupt_images_are_an_error_or_listed(tmp_path):
    target = tmp_path / "toy" / "1.0.0"
    with pytest.raises(ImageError, match=r"cat\.jpg is broken"):
        records.write(toy_plan(load=functools.partial(fail, 0)), target)
    assert datasets(target.parent) == []
    with pytest.raises(UserError, match="no image of the train split could be decoded; nothing is written"):
        records.write(toy_plan(load=functools.partial(fail, None)), target, skip_corrupt=True)
    assert datasets(target.parent) == []
    records.write(toy_plan(load=functools.partial(fail, 0)), target, skip_corrupt=True)
    assert [label for _, label in read(target, "train")] == [1] * 30
    assert (target / "left_out.txt").read_text() == "broken image\tcat.jpg is broken\n" * 35  # 30 of train, 5 of validation


def test_a_killed_worker_is_reported():
    with pytest.raises(UserError, match=r"one of 2 workers was killed.*fewer --workers"), worker_map(2) as map_in_order:
        list(map_in_order(os._exit, [1]))


# whole or not at all

SLOW = """
import sys, time
from pathlib import Path
import numpy as np
from alexnet_jax.prepare import records

def load(i):
    return np.full((4, 4, 1), i, np.uint8), 0

def write(self, chunk, original=records.Shards.write):
    original(self, chunk)
    print("wrote", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    records.Shards.write = write
    records.write(records.RawDataset(["all", "none"], (4, 4, 1), {"train": range(100)}, load, "raw", "", ""), Path(sys.argv[1]), workers=2)
"""


def test_kill_leaves_nothing_that_opens(tmp_path):
    script, target = tmp_path / "slow.py", tmp_path / "toy" / "1.0.0"
    script.write_text(SLOW)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, script, target], stdout=subprocess.PIPE, env=environment)
    assert process.stdout.readline() == b"wrote\n"
    workers = [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(workers) >= 2
    assert not target.exists()
    assert list(target.parent.glob(".incomplete*/*"))
    records.write(toy_plan(), target)
    assert len(read(target, "train")) == 60
    assert datasets(target.parent) == ["1.0.0"]
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_failed_overwrite_keeps_the_old_dataset(tmp_path, monkeypatch):
    target = tmp_path / "toy" / "1.0.0"
    before = contents(records.write(toy_plan(), target))
    monkeypatch.setattr(records.Moments, "statistics", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        records.write(toy_plan(70), target, overwrite=True)
    assert contents(target) == before
    assert datasets(target.parent) == ["1.0.0"]
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"toy/1\.0\.0 exists already; delete it or pass --overwrite"):
        records.write(toy_plan(70), target)
    records.write(toy_plan(70), target, overwrite=True)
    assert len(read(target, "train")) == 70
    assert datasets(target.parent) == ["1.0.0"]


def test_full_disk(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*toy-train.*: .*File too large; make room or choose another --data-dir"):
            records.write(toy_plan(400), tmp_path / "toy" / "1.0.0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert datasets(tmp_path / "toy") == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/toy.*: Not a directory"):
        records.write(toy_plan(), tmp_path / "file" / "toy" / "1.0.0")
