"""ImageNet in every form that it is had in becomes the same dataset, and a prepare that is killed goes on to the same bytes."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import mini_imagenet
import numpy as np
import pytest
import tensorflow_datasets as tfds
from mini_imagenet import CLASSES, make, tar_of
from ml_collections import ConfigDict
from PIL import Image

from alexnet_jax import data
from alexnet_jax.errors import UserError
from alexnet_jax.examples import Records
from alexnet_jax.images import Resize, load_resized
from alexnet_jax.prepare import __main__ as prepare
from alexnet_jax.prepare import imagenet, records
from alexnet_jax.prepare.shards import disk_errors

ROOT = Path(__file__).parent.parent
SIZE = 32


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("tars"))


def prepared(source: Path, data_dir: Path, **options) -> Path:
    options = {"size": SIZE, "encoding": "png", "workers": 1, "skip_corrupt": True, "allow_incomplete": True, **options}
    return prepare.prepare_imagenet(source, "mini", data_dir, **options)


def opened(data_dir: Path) -> data.Dataset:
    return data.load(ConfigDict({"dir": str(data_dir), "name": "mini", "prepare": "..."}))


def read(directory: Path, split: str) -> list[tuple[bytes, int]]:
    examples = Records(tfds.builder_from_directory(directory), split)
    return [(image.tobytes(), label) for image, label in (examples[i] for i in range(len(examples)))]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@functools.cache
def expected() -> dict[str, list[tuple[bytes, int]]]:
    """Sorted (pixels, label) of each split; the cut off image is left out."""
    images, held_out = mini_imagenet.pictures(8, 6, corrupt=True)
    numbers = {wnid: label for label, wnid in enumerate(CLASSES)}
    train = [(content, numbers[wnid]) for wnid, inside in images.items() for name, content in inside.items() if name != "n02012849_4.JPEG"]
    splits = {"train": train, "validation": [(content, numbers[wnid]) for wnid, content in held_out]}
    return {split: sorted((load_resized(c, Resize(SIZE)).tobytes(), y) for c, y in items) for split, items in splits.items()}


@pytest.mark.parametrize("form", ["tars", "folders", "flat", "kaggle", "tiny"])
def test_every_form_gives_the_same_examples(form, tmp_path, capsys):
    source = make(tmp_path / "source", form)
    directory = prepared(source, tmp_path)
    for split in ("train", "validation"):
        assert sorted(read(directory, split)) == expected()[split]
    dataset = opened(tmp_path)
    assert dataset.classes == tuple(CLASSES)
    cranes = ("crane (bird)", "crane (machine)") if form == "folders" else ("crane", "crane")  # TFDS's words, where nothing tells others
    assert dataset.class_words == (cranes[0], "kit fox, Vulpes macrotis", cranes[1])
    assert dataset.labels == data.class_labels(dataset.describe())
    assert dataset.labels[1] == "n02119789: kit fox, Vulpes macrotis"
    said = capsys.readouterr().err
    assert f"train: {source}" in said
    assert "3 classes" in said
    left_out = (directory / "left_out.txt").read_text().splitlines()
    tests = sum(line.startswith("folder or tar that is neither train nor validation\t") for line in left_out)
    assert tests == (form in ("kaggle", "tiny"))
    assert any(line.startswith("broken image\t") and "n02012849_4.JPEG" in line for line in left_out)
    assert str(tmp_path) not in "".join(path.read_text() for path in directory.glob("*.json"))


def test_a_folder_of_the_classes_tars(tars, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tars, source)
    with tarfile.open(source / "ILSVRC2012_img_train.tar") as train:
        train.extractall(source / "ILSVRC2012_img_train", filter="data")
    (source / "ILSVRC2012_img_train.tar").unlink()
    assert (
        contents(prepared(source, tmp_path / "a"))["mini-train.array_record-00000-of-00001"]
        == (contents(prepared(tars, tmp_path / "b"))["mini-train.array_record-00000-of-00001"])
    )


def test_tars_are_read_in_order_and_mixed_when_they_are_used(tars, tmp_path):
    """A slice of a split that is stored class by class would otherwise hold a class or two."""
    directory = prepared(tars, tmp_path)
    builder = tfds.builder_from_directory(directory)
    assert list(builder.info.metadata["by_class"]) == ["train"]
    stored = [example["label"] for example in builder.as_data_source("train")]
    assert stored == sorted(stored)
    train = opened(tmp_path).source("train")
    labels = [int(train[i]["label"]) for i in range(len(train))]
    assert labels != stored
    assert sorted(labels) == stored
    first, rest = opened(tmp_path).source("train[:9]"), opened(tmp_path).source("train[9:]")
    both = [int(part[i]["label"]) for part in (first, rest) for i in range(len(part))]
    assert both == labels
    assert len(set(both[:9])) == 3
    for split in ("train[3:9]", "train[stratified:5]"):
        part = opened(tmp_path).source(split)
        np.testing.assert_array_equal(train.gather(part.places())["image"], part.gather(np.arange(len(part)))["image"])


def test_the_same_bytes_from_any_number_of_workers(tars, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "CHUNK", 2)
    monkeypatch.setattr(records, "SHARD_RECORDS", 6)
    assert contents(prepared(tars, tmp_path / "one")) == contents(prepared(tars, tmp_path / "two", workers=2))


# what is missing


def without(source: Path, name: str) -> Path:
    path = source / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return source


@pytest.mark.parametrize(
    ("form", "missing", "message"),
    [
        ("tars", "ILSVRC2012_img_train.tar", r"has neither ILSVRC2012_img_train.tar nor a folder train/; put one.*holds ILSVRC2012_devkit"),
        ("tars", "ILSVRC2012_img_val.tar", r"has neither ILSVRC2012_img_val.tar nor a folder val/; put one of them there"),
        ("tars", "ILSVRC2012_devkit_t12.tar.gz", r"nothing tells the labels of the images in .*; put ILSVRC2012_devkit_t12.tar.gz"),
        ("flat", "ILSVRC2012_devkit_t12.tar.gz", r"nothing tells the labels of the images in .*/val; put ILSVRC2012_devkit_t12.tar.gz"),
        ("kaggle", "LOC_val_solution.csv", r"or Kaggle's LOC_val_solution.csv into "),
    ],
)
def test_what_is_missing_is_named(form, missing, message, tmp_path):
    with pytest.raises(UserError, match=message):
        prepared(without(make(tmp_path / "source", form), missing), tmp_path)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("tars", r"ILSVRC2012_img_train.tar has [\d,]+ bytes, the published file 147,897,477,120; complete the download, or pass --allow"),
        ("flat", r"there are 3 of 1,000 classes; 24 of 1,281,167 train images.*; 6 of 50,000 validation images; complete the download"),
        ("tiny", r"there are 3 of 200 classes; 24 of 100,000 train images; 6 of 10,000 validation images; complete the download"),
    ],
)
def test_less_than_the_whole_release_is_refused(form, message, tmp_path):
    with pytest.raises(UserError, match=message):
        prepared(make(tmp_path / "source", form), tmp_path, allow_incomplete=False)
    assert not (tmp_path / "mini").exists()


def test_a_class_that_is_short_is_named_when_all_was_read(tmp_path, monkeypatch):
    """And nothing has to be read again when it may be."""
    source = make(tmp_path / "source", "tars", corrupt=False)
    monkeypatch.setattr(imagenet, "ILSVRC", imagenet.Whole(3, 24, 6))
    monkeypatch.setattr(imagenet, "PUBLISHED", {name: ((source / name).stat().st_size, "") for name in imagenet.PUBLISHED})
    prepared(source, tmp_path, allow_incomplete=False)
    images, _ = mini_imagenet.pictures(8, 6, corrupt=False)
    del images["n02119789"]["n02119789_5.JPEG"]
    (source / "ILSVRC2012_img_train.tar").write_bytes(tar_of({f"{wnid}.tar": tar_of(inside) for wnid, inside in images.items()}))
    monkeypatch.setattr(imagenet, "PUBLISHED", {name: ((source / name).stat().st_size, "") for name in imagenet.PUBLISHED})
    with pytest.raises(UserError, match=r"there are 23 of 24 train images \(n02119789 has 7 of 8\); complete the download, or"):
        prepared(source, tmp_path, allow_incomplete=False, overwrite=True)
    monkeypatch.setattr(records, "worker_map", lambda workers: _no_work())
    assert len(read(prepared(source, tmp_path, overwrite=True), "train")) == 23


class _no_work:
    """In place of the worker processes: nothing is left for them."""

    def __enter__(self):
        return lambda _, items: iter([pytest.fail("an image was read again")] if list(items) else [])

    def __exit__(self, *_):
        pass


def test_tars_that_are_cut_off_or_none(tars, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tars, source)
    train = source / "ILSVRC2012_img_train.tar"
    whole = train.read_bytes()
    train.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match=r"train.tar is cut off within n\d{8}.tar, after [12] whole classes; download it again"):
        prepared(source, tmp_path)
    train.write_bytes(b"<html>" * 1000)
    with pytest.raises(UserError, match=r"ILSVRC2012_img_train.tar is no whole tar .*download it again"):
        prepared(source, tmp_path)
    shutil.copy(source / "ILSVRC2012_img_val.tar", train)
    with pytest.raises(UserError, match=r"holds ILSVRC2012_val_00000001.JPEG, not one tar n\.+tar for each class; is it the train tar"):
        prepared(source, tmp_path)
    train.write_bytes(whole)
    val = source / "ILSVRC2012_img_val.tar"
    val.write_bytes(val.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"ILSVRC2012_img_val.tar is no whole tar .*download it again"):
        prepared(source, tmp_path)
    (source / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"ILSVRC2012_devkit_t12.tar.gz is no whole devkit .*download it again"):
        prepared(source, tmp_path)


def test_names_in_tars_are_no_paths(tmp_path):
    source = make(tmp_path / "source")
    images, _ = mini_imagenet.pictures(8, 6, corrupt=False)
    content = images["n02119789"]["n02119789_0.JPEG"]
    inside = {"../../../escaped.JPEG": content, "/tmp/escaped\n.JPEG": content, "._hidden.JPEG": b"macOS", "\udcff.JPEG": b"broken"}
    (source / "ILSVRC2012_img_train.tar").write_bytes(tar_of({f"../{wnid}.tar": tar_of(inside) for wnid in images}))
    before = {path for path in tmp_path.rglob("*")}
    directory = prepared(source, tmp_path)
    assert len(read(directory, "train")) == 6
    assert not any("escaped" in path.name for path in {*tmp_path.rglob("*")} - before)
    assert "broken image\tn02119789/\\udcff.JPEG: " in (directory / "left_out.txt").read_text()


def test_validation_images_of_other_classes_are_left_out_only_if_told(tmp_path):
    """As where the whole devkit lies beside a few classes."""
    source = make(tmp_path / "source", "flat")
    shutil.rmtree(source / "train/n03126707")
    directory = prepared(source, tmp_path)
    assert len(read(directory, "validation")) == 4
    reason = "validation image of a class without training images\tILSVRC2012_val_0000000"
    assert (directory / "left_out.txt").read_text().count(reason) == 2
    with pytest.raises(UserError, match=r"is a validation image of a class without training images \(ILSVRC.*says n03126707\); complete"):
        prepared(source, tmp_path, allow_incomplete=False, overwrite=True)


def test_verify(tars, tmp_path, monkeypatch, capsys):
    from hashlib import md5

    sums = {name: (0, md5((tars / name).read_bytes()).hexdigest()) for name in imagenet.PUBLISHED}
    with pytest.raises(UserError, match=r"train.tar has the MD5 sum .*, the published file 1d675b47d978889d74fa0da5fadfb00e"):
        prepared(tars, tmp_path, verify=True)
    monkeypatch.setattr(imagenet, "PUBLISHED", sums)
    prepared(tars, tmp_path, verify=True)
    assert capsys.readouterr().err.count(": MD5 as published") == 3
    with pytest.raises(UserError, match=r"holds none of ILSVRC2012_img_train.tar, .*, whose MD5 sums are known; leave --verify out"):
        prepared(tmp_path, tmp_path, verify=True, overwrite=True)


def test_what_lies_beside_the_class_folders_is_listed(tmp_path):
    source = make(tmp_path / "source", "folders")
    (source / "val/ILSVRC2012_val_00000009.JPEG").write_bytes((next((source / "val/n02119789").iterdir())).read_bytes())
    (source / "train/others").mkdir()
    listed = (prepared(source, tmp_path) / "left_out.txt").read_text().splitlines()
    assert f"beside the class folders\t{source}/val/ILSVRC2012_val_00000009.JPEG" in listed
    assert f"beside the class folders\t{source}/train/others" in listed


def test_a_link_that_leads_nowhere_drops_no_class(tmp_path):
    source = make(tmp_path / "source", "folders")
    (source / "train/n02119789").rename(tmp_path / "moved")
    (source / "train/n02119789").symlink_to(tmp_path / "disk")
    with pytest.raises(UserError, match=r"train/n02119789 is a link that leads nowhere"):
        prepared(source, tmp_path)


def test_too_small_a_disk_is_an_error_before_it_begins(tars, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"images take about 0\.0 GB more in .*/mini, where 0\.0 GB are free; make room, choose another"):
        prepared(tars, tmp_path)
    assert not list(tmp_path.rglob("*.array_record*"))


def test_how_it_was_resized_is_remembered(tars, tmp_path):
    prepared(tars, tmp_path, resize="warp", interpolation="bilinear")
    dataset = opened(tmp_path)
    assert (dataset.resize, dataset.interpolation) == ("warp", "bilinear")
    assert {"resize": "warp", "interpolation": "bilinear"}.items() <= dataset.describe().items()
    assert "warped to 32x32 by antialiased bilinear" in dataset.builder.info.metadata["protocol"]


# killed


KILLED = """
import os, signal, sys
from pathlib import Path
from alexnet_jax.prepare import __main__ as prepare, records, shards

def write(self, chunk, original=shards.Shards.write, chunks=[0]):
    original(self, chunk)
    chunks[0] += 1
    if chunks[0] == int(sys.argv[1]):
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))

if __name__ == "__main__":
    records.CHUNK, records.SHARD_RECORDS, shards.Shards.write = 2, 6, write
    prepare.main(sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("form", "kill"),
    [
        ("tars", "SIGKILL"),
        ("kaggle", "SIGINT"),
        pytest.param("tars", "SIGINT", marks=pytest.mark.slow),
        pytest.param("kaggle", "SIGKILL", marks=pytest.mark.slow),
    ],
)
def test_a_killed_prepare_goes_on_to_the_same_bytes(form, kill, tmp_path, monkeypatch):
    """At a chunk of its own each time, until none is left: 12 of train in 4 shards, 3 of validation."""
    source, script = make(tmp_path / "source", form), tmp_path / "killed.py"
    script.write_text(KILLED)
    options = ["imagenet", "--source", str(source), "--name", "mini", "--size", str(SIZE), "--encoding", "png", "--workers", "1"]
    command = [*options, "--skip-corrupt", "--allow-incomplete", "--data-dir"]
    monkeypatch.setattr(records, "CHUNK", 2)
    monkeypatch.setattr(records, "SHARD_RECORDS", 6)
    undisturbed = contents(prepared(source, tmp_path / "undisturbed"))
    assert sum("train" in name for name in undisturbed) == 4
    for at in (2, 4, 5, 8):
        process = subprocess.run(
            [sys.executable, script, str(at), kill, *command, str(tmp_path / "killed")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=100,
        )
        if process.returncode == 0:
            break
        assert not prepare.dataset_dir(tmp_path / "killed", "mini").exists()
        assert process.returncode in (-signal.SIGKILL, 1, 130, -signal.SIGINT)
    directory = (
        prepared(source, tmp_path / "killed", overwrite=True) if process.returncode else prepare.dataset_dir(tmp_path / "killed", "mini")
    )
    assert contents(directory) == undisturbed


def interrupted(source: Path, data_dir: Path, monkeypatch, **options) -> Path:
    """Stopped after two shards; returns the unfinished directory."""
    finish, done = records.Shards.finish, []

    def stop(self, *args):
        finish(self, *args)
        done.append(self)
        if len(done) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(records.Shards, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            prepared(source, data_dir, **options)
    return data_dir / "mini" / ".incomplete-1.0.0"


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(records, "CHUNK", 2)
    monkeypatch.setattr(records, "SHARD_RECORDS", 6)


def test_what_is_finished_is_not_read_again(tars, tmp_path, monkeypatch, small_shards, capsys):
    undisturbed = contents(prepared(tars, tmp_path / "undisturbed"))
    folder = interrupted(tars, tmp_path / "a", monkeypatch)
    assert capsys.readouterr().err.endswith("what is finished is kept: the same command goes on from there\n")
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("mini-*")}
    assert len(times) == 2
    directory = prepared(tars, tmp_path / "a", workers=2)
    assert contents(directory) == undisturbed
    for name, time in times.items():
        assert (directory / f"{name}-of-00004").stat().st_mtime_ns == time


def test_pictures_that_changed_since_a_kill_are_not_mixed_with_what_they_were(tmp_path, monkeypatch, small_shards):
    """Under the same names."""
    source = make(tmp_path / "source", "folders")
    interrupted(source, tmp_path / "a", monkeypatch)
    for number, path in enumerate(sorted(source.glob("train/*/*"))):
        path.write_bytes(mini_imagenet.encode(Image.fromarray(mini_imagenet.photograph(1, number))))
    assert contents(prepared(source, tmp_path / "a")) == contents(prepared(source, tmp_path / "b"))


@pytest.mark.parametrize("damage", ["shard", "journal", "source", "size"])
def test_what_was_finished_of_something_else_is_not_taken(damage, tars, tmp_path, monkeypatch, small_shards):
    source = tmp_path / "source"
    shutil.copytree(tars, source)
    folder = interrupted(source, tmp_path / "a", monkeypatch)
    options = {"size": 16} if damage == "size" else {}
    if damage == "shard":
        next(folder.glob("mini-*00001")).write_bytes(b"cut off")
    elif damage == "journal":
        journal = folder / ".journal.jsonl"
        journal.write_bytes(journal.read_bytes()[:-30])
    elif damage == "source":
        os.utime(source / "ILSVRC2012_img_train.tar", ns=(1, 1))
    assert contents(prepared(source, tmp_path / "a", **options)) == contents(prepared(source, tmp_path / "b", **options))


def test_broken_images_of_an_earlier_try_are_an_error_without_skip_corrupt(tars, tmp_path, monkeypatch, small_shards):
    interrupted(tars, tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"n02012849/n02012849_4.JPEG: .*; repair or delete it, or pass --skip-corrupt"):
        prepared(tars, tmp_path, skip_corrupt=False)


def test_full_disk_keeps_what_is_finished(tars, tmp_path, monkeypatch, small_shards):
    writes, write = [], records.Shards.write

    def full(self, chunk):
        writes.append(chunk)
        if len(writes) == 5:
            with disk_errors(self.stem):
                raise OSError(28, "No space left on device")
        write(self, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(records.Shards, "write", full)
        with pytest.raises(UserError, match=r"cannot write .*: No space left on device; make room"):
            prepared(tars, tmp_path / "a")
    assert len(list((tmp_path / "a").rglob("mini-train*"))) == 2
    assert contents(prepared(tars, tmp_path / "a")) == contents(prepared(tars, tmp_path / "b"))


@pytest.mark.slow
def test_the_full_network_trains_on_it_and_answers_in_words(tmp_path, capsys):
    """Prepare from the tars, two steps of the one-tower network, evaluate, predict."""
    from alexnet_jax import evaluate, predict
    from alexnet_jax import train as _  # noqa: F401
    from alexnet_jax.train.__main__ import main as train

    source = make(tmp_path / "source", train=8, validation=4)
    command = ["imagenet", "--source", str(source), "--name", "imagenet", "--data-dir", str(tmp_path), "--workers", "2"]
    prepare.main([*command, "--skip-corrupt", "--allow-incomplete"])
    assert "train 23, validation 4; 3 classes; 256x256x3, " in capsys.readouterr().out
    run, overrides = str(tmp_path / "run"), [f"--config.data.dir={tmp_path}", "--config.train.batch_size=12", "--config.eval.batch_size=4"]
    train(["--config", "configs/imagenet.py", "--workdir", run, *overrides, "--config.train.epochs=1.05"])
    capsys.readouterr()
    evaluate.main(["--run", run, "--split", "validation"])
    assert "4" in capsys.readouterr().out
    picture = tmp_path / "fox.jpg"
    picture.write_bytes(mini_imagenet.pictures(1, 1, corrupt=False)[0]["n02119789"]["n02119789_0.JPEG"])
    assert predict.main(["--run", run, str(picture)]) == 0
    assert "n02119789: kit fox, Vulpes macrotis" in capsys.readouterr().out
