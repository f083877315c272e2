import dataclasses
import shutil
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from alexnet_jax import config as config_lib
from alexnet_jax import data
from alexnet_jax.errors import UserError
from alexnet_jax.runlog import RunLog
from alexnet_jax.train.setup import replayed_elsewhere, seen_in_training, validate


@pytest.fixture(scope="module")
def digits(digits_dir):
    return data.load(config_lib.load("configs/digits.py", [f"data.dir={digits_dir}"]).data)


def take(batches, count):
    return [next(batches) for _ in range(count)]


def train_batches(digits, **changes):
    return data.train_batches(digits.source("train"), **{"batch_size": 40, "seed": 0, "position": 0, "threads": 2, **changes})


def joined(batches, field):
    return np.concatenate([batch[field] for batch in batches])


def test_dataset_knows_itself(digits):
    assert digits.split_sizes == {"train": 1257, "validation": 180, "test": 360}
    assert digits.image_shape == (28, 28, 1)
    assert digits.classes == tuple("0123456789")
    images = np.stack([digits.source("train")[i]["image"] for i in range(1257)]).astype(float)
    np.testing.assert_allclose(digits.stats.mean, [images.mean()], rtol=1e-5)
    np.testing.assert_allclose(digits.stats.std, images.std(), rtol=1e-5)


def test_a_split_can_be_cut(digits):
    whole, first = digits.source("train"), digits.source("train[:200]")
    assert len(first) == 200
    assert np.array_equal(first[199]["image"], whole[199]["image"])
    assert len(digits.source("train[50%:]")) in (628, 629)


def test_a_package_that_tfds_misses_is_named_as_pip_knows_it(digits_dir, monkeypatch):
    """The module of dm-tree is `tree`; TFDS imports it when it reads the shape of an image."""

    def without_tree(feature):
        raise ModuleNotFoundError("No module named 'tree'", name="tree")

    monkeypatch.setattr(tfds.features.Tensor, "shape", property(without_tree))
    with pytest.raises(UserError, match=r"^the package dm-tree, which alexnet_jax needs, is not installed in .*run `pip install -e \.`"):
        data.load(config_lib.load("configs/digits.py", [f"data.dir={digits_dir}"]).data)


def test_a_stratified_part_has_every_class_and_lies_in_a_larger_one(digits):
    whole = digits.source("train").gather(np.arange(1257))
    parts = [digits.source(f"train[stratified:{count}]").gather(np.arange(count)) for count in (50, 400, 1257)]
    shares = np.bincount(whole["label"]) / 1257
    for part in parts:
        assert np.abs(np.bincount(part["label"]) - len(part["label"]) * shares).max() <= 1
    images = [[image.tobytes() for image in part["image"]] for part in parts]
    assert images[1][:50] == images[0]
    assert images[2][:400] == images[1]
    assert sorted(images[2]) == sorted(image.tobytes() for image in whole["image"])
    first = [np.flatnonzero(whole["label"] == label)[0] for label in range(10)]
    assert {whole["image"][i].tobytes() for i in first} <= set(images[0])  # of each class its first ones


def test_a_digest_tells_datasets_of_one_name_apart_but_not_the_means_of_runs(digits):
    def with_stats(**changed):
        return dataclasses.replace(digits, stats=digits.stats._replace(**changed))

    assert with_stats(mean=digits.stats.mean + 1).digest == digits.digest
    others = [with_stats(std=digits.stats.std + 1), dataclasses.replace(digits, classes=digits.classes[::-1])]
    assert len({digits.digest, *(other.digest for other in others)}) == 3


@pytest.mark.parametrize("split", ["train", "train[100:105]", "train[99%:]", "train[stratified:50]"])
def test_a_part_knows_its_places_in_the_whole_split(digits, split):
    part, whole = digits.source(split), digits.source("train")
    for field, values in part.gather(np.arange(len(part))).items():
        np.testing.assert_array_equal(whole.gather(part.places())[field], values)


@pytest.mark.parametrize(
    ("one", "other"),
    [("train", "train[:100]"), ("train[stratified:500]", "train[90%:]"), ("train[:90%]", "train[90%:]"), ("train", "validation")],
)
def test_parts_know_how_many_examples_they_share(digits, one, other):
    sources = [digits.source(split) for split in (one, other)]
    images = [{image.tobytes() for image in source.gather(np.arange(len(source)))["image"]} for source in sources]
    assert sources[0].shared_with(sources[1]) == len(images[0] & images[1])


@pytest.mark.parametrize(
    ("split", "hint"),
    [
        ("valid", "validation"),
        ("train[:0]", "1,257"),
        ("train[2:1", "train"),
        ("train[a:]", "10%"),
        ("train[:2]+validation", "is not a part of a split"),
        ("train[stratified:0]", "stratified:2000"),
        ("train[stratified:1258]", "more examples than train of dataset digits has: 1,257"),
    ],
)
def test_a_split_that_is_none(digits, split, hint):
    with pytest.raises(UserError, match=hint):
        digits.source(split)


def test_batches_are_as_contracted(digits):
    batch = next(train_batches(digits))
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()} == {
        "image": ((40, 28, 28, 1), np.uint8),
        "label": ((40,), np.int32),
        "index": ((40,), np.uint32),
    }


def test_an_epoch_holds_every_example_once_and_the_next_is_shuffled_anew(digits):
    images = joined(take(train_batches(digits), 63), "image")
    distinct = {digits.source("train")[i]["image"].tobytes() for i in range(1257)}
    for epoch in (images[:1257], images[1257:2514]):
        assert {image.tobytes() for image in epoch} == distinct
    assert not np.array_equal(images[:40], images[1257:1297])


def test_a_stream_can_be_entered_anywhere(digits):
    whole = take(train_batches(digits), 40)
    for position in (40, 31 * 40, 35 * 40):
        entered = next(train_batches(digits, position=position))
        for field, leaf in entered.items():
            assert np.array_equal(leaf, whole[position // 40][field])


def test_stream_does_not_depend_on_batch_size_or_processes(digits):
    by_40, by_20 = take(train_batches(digits), 2), take(train_batches(digits, batch_size=20), 4)
    assert np.array_equal(joined(by_40, "image"), joined(by_20, "image"))
    shares = [next(train_batches(digits, process=(i, 2))) for i in range(2)]
    assert [len(share["label"]) for share in shares] == [20, 20]
    order = np.argsort(joined(shares, "index"))
    assert np.array_equal(joined(shares, "label")[order], by_40[0]["label"])


def test_the_order_is_the_same_everywhere():
    """A run may be resumed with another version of any library."""

    class Numbers:
        example_bytes = 4

        def __len__(self):
            return 10

        def gather(self, indices):
            return {"label": indices}

    (batch,) = take(data.train_batches(Numbers(), batch_size=20, seed=0, position=0, threads=1), 1)
    assert batch["label"].tolist() == [0, 8, 9, 3, 7, 5, 1, 2, 6, 4, 3, 7, 4, 2, 9, 8, 1, 6, 5, 0]


def test_another_seed_is_another_order(digits):
    assert not np.array_equal(next(train_batches(digits))["label"], next(train_batches(digits, seed=1))["label"])


@pytest.mark.parametrize("batch_size", [7, 64, 180, 400])
def test_evaluation_sees_every_example_once(digits, batch_size):
    source = digits.source("validation")
    batches = list(data.eval_batches(source, batch_size=batch_size, threads=2))
    assert {len(batch["label"]) for batch in batches} == {batch_size}
    mask = joined(batches, "mask")
    assert np.array_equal(joined(batches, "index")[mask], np.arange(180))
    assert np.array_equal(joined(batches, "label")[mask], [source[i]["label"] for i in range(180)])
    assert not mask[180:].any()


def test_evaluation_processes_share_the_split_and_keep_step(digits):
    shares = [list(data.eval_batches(digits.source("validation"), batch_size=64, threads=2, process=(i, 2))) for i in range(2)]
    assert [len(share) for share in shares] == [3, 3]
    seen = np.concatenate([joined(share, "index")[joined(share, "mask")] for share in shares])
    assert sorted(seen) == list(range(180))


def test_missing_dataset_names_the_command(tmp_path):
    section = config_lib.load("configs/fashion_mnist.py", [f"data.dir={tmp_path}"]).data
    with pytest.raises(UserError, match=r"prepare idx --source DIR --name fashion_mnist --data-dir"):
        data.load(section)


def test_missing_split_names_the_splits(digits):
    with pytest.raises(UserError, match="no split 'val'; it has"):
        digits.source("val")


def test_not_a_dataset(tmp_path):
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    section = config_lib.load("configs/digits.py", [f"data.dir={tmp_path}"]).data
    with pytest.raises(UserError, match=r"delete it and run: python -m alexnet_jax\.prepare digits"):
        data.load(section)


def test_a_dataset_that_was_copied_in_part(digits_dir, tmp_path):
    shutil.copytree(digits_dir / "digits", tmp_path / "digits")
    (info,) = tmp_path.rglob("dataset_info.json")
    info.write_text(info.read_text()[:200])
    section = config_lib.load("configs/digits.py", [f"data.dir={tmp_path}"]).data
    with pytest.raises(UserError, match=r"delete it and run: python -m alexnet_jax\.prepare digits"):
        data.load(section)


def test_large_batches_are_not_read_far_ahead(digits, monkeypatch):
    """At most READ_AHEAD bytes of batches, and never fewer than two."""
    made = []
    source = digits.source("train")
    gather = source.gather
    monkeypatch.setattr(source, "gather", lambda indices: made.append(len(indices)) or gather(indices))
    monkeypatch.setattr(data, "READ_AHEAD", 3 * 40 * source.example_bytes)
    batches = data.train_batches(source, batch_size=40, seed=0, position=0, threads=8)
    next(batches)
    time.sleep(0.5)
    assert len(made) <= 1 + 3


def test_a_variants_own_mean_takes_the_place_of_the_datasets(digits_dir, digits):
    section = config_lib.load("configs/digits.py", [f"data.dir={digits_dir}", "model.pixel_mean=(33,)"])
    stats = data.load(section.data, section.model.pixel_mean).stats
    assert stats.mean.tolist() == [33]
    assert stats.std == digits.stats.std


def test_classes_are_shown_with_their_words():
    assert data.class_labels({"classes": ["n1", "n2"], "class_words": ["crane", ""]}) == ("n1: crane", "n2")
    assert data.class_labels({"classes": ["0", "1"]}) == ("0", "1")
    assert data.short_labels(["n1", "n2", "red, round"], ["n1: kit fox, Vulpes", "n2", "red, round"]) == ("kit fox", "n2", "red, round")


def test_what_could_not_be_chosen_before_is_not_part_of_the_description(digits):
    """Or runs that began before could not go on."""
    assert set(dataclasses.replace(digits, digests={}).describe()) == {"name", "classes", "image_shape", "split_sizes", "stats"}
    assert dataclasses.replace(digits, resize="warp").describe()["resize"] == "warp"


@pytest.mark.parametrize(
    ("classes", "warning"),
    [
        (("0", "1", "10", "2"), "the classes of dataset x are numbers in the order of text, so that label 2 is class 10"),
        (("0", "1", "2", "10"), ""),
        (("10", "2", "a"), ""),
        (("0", "1", "2"), ""),
    ],
)
def test_numbers_in_the_order_of_text_are_warned_of(classes, warning, capsys):
    data._warn_of_order("x", classes)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {warning}") if warning else said == ""


def test_a_split_that_is_trained_on_too_is_told(digits):
    config = config_lib.load("configs/digits.py:members=1", ["data.train_split=train[:1000]", "data.validation_split=train[900:]"])
    (warning,) = seen_in_training(validate(config, digits))
    assert warning.startswith(
        "100 of the 357 images of data.validation_split=train[900:] are trained on too (data.train_split=train[:1000])"
    )


def test_a_run_that_is_replayed_at_other_epochs_is_told(digits, tmp_path):
    with RunLog(tmp_path, 20) as log:
        log.event("start", 0, members=1, member_names=["a"], steps=20, steps_per_epoch=1257 / 64, devices="1 cpu", images=1257)
    notes = []
    for batch_size in (64, 32):
        config = config_lib.load("configs/digits.py", [f"plateau.mode=replay:{tmp_path}", f"train.batch_size={batch_size}"])
        notes.append(replayed_elsewhere(validate(config, digits)))
    assert notes[0] == []
    assert notes[1][0].startswith(f"{tmp_path} has 19.6406 steps in an epoch and this run 39.2812: plateau.mode=replay repeats its changes")
