"""The comparison of both forms of resampling, on a picture."""

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.errors import UserError
from experiments import resampling


def test_a_table_and_a_figure_of_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(resampling, "STORED", 40)
    monkeypatch.setattr(resampling, "SIZE", 31)
    picture = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)).save(picture)
    resampling.main(["--out", str(tmp_path / "out"), "--degrees", "4", str(picture)])
    header, *rows = capsys.readouterr().out.splitlines()[1:-1]
    assert header.split() == ["degrees", "noise.png"]
    found = {float(degrees): float(distance) for degrees, distance in map(str.split, rows)}
    assert list(found) == list(resampling.ANGLES)
    assert found[0] == 0
    assert 0 < found[1] < found[10] < found[30]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"resampling.png", "resampling.svg", "result.txt"}


def test_an_angle_beyond_the_forms(tmp_path):
    with pytest.raises(UserError, match="--degrees 31: shear turns by at most 30 degrees"):
        resampling.main(["--out", str(tmp_path), "--degrees", "31"])
