"""Photographs become tiles: each pixel in one tile, each tile in one split, and a dataset that `prepare folder` reads."""

import shutil

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import config as config_lib
from alexnet_jax import data
from alexnet_jax.errors import UserError
from alexnet_jax.prepare.__main__ import main as prepare
from alexnet_jax.train.setup import validate
from experiments.tiles import cut, main


def test_every_whole_tile_is_in_one_split():
    photograph = np.arange(45 * 62 * 3).reshape(45, 62, 3)
    splits = cut(photograph, 10, np.random.default_rng(0))
    assert {split: len(tiles) for split, tiles in splits.items()} == {"val": 2, "test": 2, "train": 20}
    tiles = {place: tile for split in splits.values() for place, tile in split.items()}
    assert len(tiles) == 24
    put_back = np.concatenate([np.concatenate([tiles[f"{row}-{column}"] for column in range(6)], 1) for row in range(4)])
    np.testing.assert_array_equal(put_back, photograph[:40, :60])
    with pytest.raises(UserError, match="25x14 pixels give 2 tiles of 10 pixels; at least 3 are needed"):
        cut(np.zeros((14, 25, 3)), 10, np.random.default_rng(0))


def photographs(folder, *names):
    folder.mkdir()
    for i, name in enumerate(names):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (120, 200, 3), np.uint8)).save(folder / name)
    return str(folder)


def test_prepare_reads_the_tiles(tmp_path, capsys):
    source = photographs(tmp_path / "photos", "lake.png", "wood.jpg")
    main([source, "--tiles", "4", "--out", str(tmp_path / "tiles")])
    assert "2 photographs: 40 tiles in train, 4 tiles in val, 4 tiles in test" in capsys.readouterr().out  # 4 rows, 6 columns
    config = config_lib.load("configs/photographs.py", [f"data.dir={tmp_path}"])
    prepare([*config.data.prepare.replace("--source tiles", f"--source {tmp_path}/tiles").split()[3:], "--data-dir", str(tmp_path)])
    dataset = data.load(config.data)
    assert (dataset.classes, len(dataset.source(config.data.test_split))) == (("lake", "wood"), 4)
    validate(config, dataset)  # the config is for these tiles
    with pytest.raises(UserError, match="tiles exists already"):
        main([source, "--out", str(tmp_path / "tiles")])


def test_two_photographs_of_one_name_are_refused(tmp_path):
    sources = [photographs(tmp_path / "a", "lake.png"), photographs(tmp_path / "b", "Lake.png")]
    with pytest.raises(UserError, match="two photographs have the same name"):
        main([*sources, "--out", str(tmp_path / "tiles")])


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["lake.png"], [], "there is one photograph; each is a class, so at least two are needed"),
        (["lake.png", "wood.png"], ["--tiles", "7"], "lake.png: 200x120 pixels would be enlarged 2.33 times, 2 at most make sense"),
    ],
)
def test_photographs_that_make_no_dataset_are_refused(tmp_path, names, options, message):
    source = photographs(tmp_path / "photos", *names)
    with pytest.raises(UserError, match=message):
        main([source, "--tiles", "4", *options, "--out", str(tmp_path / "tiles")])


def test_a_failure_leaves_no_part_of_a_dataset(tmp_path):
    source = tmp_path / "photos"
    photographs(source, "lake.png", "sand.png", "wood.png")
    (source / "wood.png").write_bytes((source / "wood.png").read_bytes()[:9000])
    with pytest.raises(UserError, match=r"wood\.png is a broken image"):
        main([str(source), "--tiles", "4", "--out", str(tmp_path / "tiles")])
    shutil.copy(source / "lake.png", source / "wood.png")
    with pytest.raises(UserError, match=r"lake\.png and .*wood\.png are the same picture"):
        main([str(source), "--tiles", "4", "--out", str(tmp_path / "tiles")])
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_what_is_named_as_a_hidden_file_is_a_class_that_prepare_finds(tmp_path):
    source = photographs(tmp_path / "photos", ".lake.png", "wood.png")
    main([f"{source}/.lake.png", f"{source}/wood.png", "--tiles", "3", "--out", str(tmp_path / "tiles")])
    assert sorted(path.name for path in (tmp_path / "tiles" / "train").iterdir()) == ["lake", "wood"]
