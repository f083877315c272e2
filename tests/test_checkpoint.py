import shutil

import jax
import numpy as np
import pytest

from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import UserError
from alexnet_jax.hyper import Hyper, stack
from alexnet_jax.state import Networks
from alexnet_jax.train import plateau

pytestmark = pytest.mark.newest
ROW = {field: float(getattr(Hyper(), field)) for field in Hyper.__dataclass_fields__}


def trees(step=3, width=4, value=0.5):
    members = stack([{**ROW, "seed": 1}, {**ROW, "seed": 2}])
    params = {"fc8": {"kernel": np.full((2, width, 3), value, np.float32), "bias": np.zeros((2, 3), np.float32)}}
    opt_state = (jax.tree.map(np.zeros_like, params), ())
    return {"networks": Networks(np.int32(step), params, members), "training": {"opt_state": opt_state, "plateau": plateau.init(2)}}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y) and x.dtype == y.dtype, a, b))


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    saved = trees()
    saved["training"]["plateau"] = plateau.init(2).replace(drops=np.int32([1, 2]), scale=np.float32([0.1, 0.01]))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, saved, {"examples": 120, "evaluated": 2})
    with Checkpoints(tmp_path) as checkpoints:
        restored, position = checkpoints.restore(trees(0, value=0))
        alone, _ = checkpoints.restore({"networks": trees(0, value=0)["networks"]})
    assert same(restored, saved)
    assert same(alone, {"networks": saved["networks"]})
    assert position == {"examples": 120, "evaluated": 2}


def test_nothing_saved_is_none(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(trees()) is None
        assert checkpoints.latest_step() is None


def test_saved_values_are_a_copy(tmp_path):
    """A step that reuses the buffers must not reach into a save that is still being written."""
    saved = trees()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, saved, {})
        saved["networks"].params["fc8"]["kernel"][:] = -1
        checkpoints.wait()
        restored, _ = checkpoints.restore(trees())
    assert (restored["networks"].params["fc8"]["kernel"] == 0.5).all()


def test_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, trees(step, value=step), {})
        checkpoints.wait()
        assert checkpoints.latest_step() == 3
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_another_shape_is_refused_by_name(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, trees(), {})
        checkpoints.wait()
        with pytest.raises(UserError, match=r"fc8.*kernel.* has shape \(2, 4, 3\), this run's config makes it \(2, 5, 3\)"):
            checkpoints.restore(trees(width=5))


def test_a_damaged_checkpoint_is_refused_by_path(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, trees(), {})
    shutil.rmtree(tmp_path / "checkpoints" / "3" / "networks")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"checkpoints/3 can't be restored .*move it away"):
        checkpoints.restore(trees())


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, trees(1), {})
        checkpoints.wait()

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._manager, "save", full)
            with pytest.raises(UserError, match=r"No space left on device.*saved before is whole"):
                checkpoints.save(2, trees(2), {})
        assert checkpoints.restore(trees())[0]["networks"].step == 1


@pytest.mark.parametrize(("first", "seen"), [(None, "cannot write a checkpoint"), (UserError("the log can't be written"), "the log can't")])
def test_a_save_that_fails_in_the_background_hides_no_other_error(tmp_path, monkeypatch, first, seen):
    def full():
        raise OSError(28, "No space left on device")

    def leave():
        with Checkpoints(tmp_path) as checkpoints:
            monkeypatch.setattr(checkpoints._manager, "close", full)
            if first:
                raise first

    with pytest.raises(UserError, match=seen):
        leave()
