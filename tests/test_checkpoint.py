import shutil

import jax
import numpy as np
import pytest

from alexnet_jax import plateau
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import UserError
from alexnet_jax.hyper import Hyper, stack
from alexnet_jax.step import TrainState

pytestmark = pytest.mark.newest
ROW = {field: float(getattr(Hyper(), field)) for field in Hyper.__dataclass_fields__}


def state(step=3, width=4, value=0.5):
    members = stack([{**ROW, "seed": 1}, {**ROW, "seed": 2}])
    params = {"fc8": {"kernel": np.full((2, width, 3), value, np.float32), "bias": np.zeros((2, 3), np.float32)}}
    return TrainState(np.int32(step), members, params, (jax.tree.map(np.zeros_like, params), ()), plateau.init(2))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y) and x.dtype == y.dtype, a, b))


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    saved = state().replace(plateau=plateau.init(2).replace(drops=np.int32([1, 2]), scale=np.float32([0.1, 0.01])))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved, {"examples": 120, "evaluated": 2})
    with Checkpoints(tmp_path) as checkpoints:
        restored, position = checkpoints.restore(state(0, value=0))
    assert same(restored, saved)
    assert position == {"examples": 120, "evaluated": 2}


def test_nothing_saved_is_none(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state()) is None
        assert checkpoints.latest_step() is None


def test_saved_values_are_a_copy(tmp_path):
    """A step that reuses the buffers must not reach into a save that is still being written."""
    saved = state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved, {})
        saved.params["fc8"]["kernel"][:] = -1
        checkpoints.wait()
        restored, _ = checkpoints.restore(state())
    assert (restored.params["fc8"]["kernel"] == 0.5).all()


def test_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state(step, value=step), {})
        checkpoints.wait()
        assert checkpoints.latest_step() == 3
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_another_shape_is_refused_by_name(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(), {})
        checkpoints.wait()
        with pytest.raises(UserError, match=r"fc8.*kernel.* has shape \(2, 4, 3\), this run's config makes it \(2, 5, 3\)"):
            checkpoints.restore(state(width=5))


def test_a_damaged_checkpoint_is_refused_by_path(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(), {})
    shutil.rmtree(tmp_path / "checkpoints" / "3" / "state")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"checkpoints/3 can't be restored .*move it away"):
        checkpoints.restore(state())


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(1), {})
        checkpoints.wait()

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._manager, "save", full)
            with pytest.raises(UserError, match=r"No space left on device.*saved before is whole"):
                checkpoints.save(state(2), {})
        assert checkpoints.restore(state())[0].step == 1


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
