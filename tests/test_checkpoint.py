import json
import random
import resource
import time

import jax
import numpy as np
import pytest

from alexnet_jax import checkpoint
from alexnet_jax.checkpoint import Checkpoints, Damaged, chosen, restore, steps
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


def save(workdir, *saves):
    """Save `trees(step, value=step)` with each record, one after the other."""
    with Checkpoints(workdir) as checkpoints:
        for step, record in saves:
            checkpoints.save(step, trees(step, value=step), record)
            checkpoints.wait()


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    saved = trees()
    saved["training"]["plateau"] = plateau.init(2).replace(drops=np.int32([1, 2]), scale=np.float32([0.1, 0.01]))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, saved, {"commands": 120, "evaluated": 2})
    found = restore(tmp_path, 3, trees(0, value=0))
    assert same(found.trees, saved)
    assert (found.step, found.record["commands"], found.record["evaluated"]) == (3, 120, 2)
    alone = restore(tmp_path, 3, {"networks": trees(0, value=0)["networks"]})
    assert same(alone.trees, {"networks": saved["networks"]})


def test_nothing_saved_is_said(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
    assert steps(tmp_path) == []
    with pytest.raises(UserError, match="has no checkpoint yet"):
        chosen(tmp_path, "last")


def test_saved_values_are_a_copy(tmp_path):
    """A step that reuses the buffers must not reach into a save that is still being written."""
    saved = trees()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, saved, {})
        saved["networks"].params["fc8"]["kernel"][:] = -1
        checkpoints.wait()
    assert (restore(tmp_path, 3, trees()).trees["networks"].params["fc8"]["kernel"] == 0.5).all()


def test_the_last_two_the_best_and_those_that_were_asked_for_are_kept(tmp_path):
    accuracies = {1: 0.5, 2: 0.9, 3: None, 4: 0.6, 5: 0.9, 6: None, 7: 0.7}
    save(tmp_path, *((step, {"accuracy": accuracy, "asked": step == 4}) for step, accuracy in accuracies.items()))
    assert steps(tmp_path) == [2, 4, 6, 7]  # of the two best the first
    assert (chosen(tmp_path, "best"), chosen(tmp_path, "last"), chosen(tmp_path, "4")) == (2, 7, 4)
    with pytest.raises(UserError, match="has no checkpoint of step 5; it has 2, 4, 6, 7, also named last and best"):
        chosen(tmp_path, "5")
    save(tmp_path, (8, {"accuracy": None}))  # what an earlier process was asked to keep is kept by the next
    assert steps(tmp_path) == [2, 4, 7, 8]


def test_a_save_of_the_same_step_takes_the_place_of_the_earlier_one(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, trees(value=1), {"evaluated": 0})
        checkpoints.save(3, trees(value=2), {"evaluated": 3})
    found = restore(tmp_path, 3, trees())
    assert (found.trees["networks"].params["fc8"]["kernel"] == 2).all()
    assert found.record["evaluated"] == 3
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_a_replacement_that_a_kill_cut_off_is_undone(tmp_path):
    save(tmp_path, (3, {"evaluated": 7}))
    (tmp_path / "checkpoints" / "3").rename(tmp_path / "checkpoints" / "replaced-3")
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 3
    assert restore(tmp_path, 3, trees()).record["evaluated"] == 7
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]  # what was torn is gone


def test_another_shape_is_refused_by_name(tmp_path):
    save(tmp_path, (3, {}))
    with pytest.raises(UserError, match=r"fc8.*kernel.* has shape \(2, 4, 3\), this run's config makes it \(2, 5, 3\)"):
        restore(tmp_path, 3, trees(width=5))


def test_arrays_of_another_version_are_no_damage(tmp_path):
    """A run that goes on sets damaged checkpoints aside; one that it can't know is left where it is."""
    save(tmp_path, (3, {}))
    known = trees()["training"]
    for template, words in (
        (known | {"new": np.zeros(2)}, r"has no training\['new'\]"),
        ({}, r"has training.*, which this one doesn't know"),
    ):
        with pytest.raises(UserError, match=rf"{words}: another version of this project made it") as caught:
            restore(tmp_path, 3, {"training": template})
        assert not isinstance(caught.value, Damaged)


def test_no_flipped_bit_and_no_cut_is_restored_as_other_numbers(tmp_path):
    """Every file of a checkpoint, flipped, cut, emptied, deleted, zeroed: what comes back is what was saved, or an error that names it."""
    save(tmp_path, (3, {"evaluated": 2}))
    where, dice = tmp_path / "checkpoints" / "3", random.Random(0)
    whole, errors = restore(tmp_path, 3, trees()), []
    for path in [path for path in where.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        cut = [None, b"", data[: len(data) // 2], bytes(len(data))]
        for damaged in [*cut, *(flipped(data, dice) for _ in range(3))] if data else [None]:
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            try:
                found = restore(tmp_path, 3, trees())
            except Damaged as error:
                errors.append(str(error))
            else:
                assert same(found.trees, whole.trees), path
                assert found.record == whole.record, path
            path.write_bytes(data)
    assert len(errors) > 20
    assert all(str(where) in error and "\n" not in error for error in errors)


def flipped(data, dice):
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]


def test_a_flipped_number_of_the_record_is_caught(tmp_path):
    save(tmp_path, (3, {"evaluated": 2}))
    path = tmp_path / "checkpoints" / "3" / "record" / "metadata"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "evaluated": 3}))
    with pytest.raises(Damaged, match=r"checkpoints/3 is damaged \(its record .* move it away"):
        restore(tmp_path, 3, trees())


def test_a_damaged_checkpoint_is_set_aside(tmp_path):
    save(tmp_path, (2, {}), (3, {}))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.set_aside(3).name == "damaged-3"
        assert checkpoints.latest_step() == 2
        checkpoints.save(3, trees(), {})
    assert steps(tmp_path) == [2, 3]
    assert (tmp_path / "checkpoints" / "damaged-3").exists()


def test_a_save_is_told_when_it_is_on_disk(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, trees(), {})
        saved = checkpoints.wait()
        assert (saved.step, saved.path) == (3, tmp_path / "checkpoints" / "3")
        assert saved.bytes > 100
        assert saved.seconds > 0
        assert checkpoints.poll() is None


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, trees(1), {})
        checkpoints.wait()

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._manager, "save", full)
            with pytest.raises(checkpoint.DiskError, match=r"No space left on device; .* MB are free\).*saved before is whole"):
                checkpoints.save(2, trees(2), {})
    assert restore(tmp_path, 1, trees()).trees["networks"].step == 1


def test_the_systems_words_are_taken_from_an_error_that_fills_pages():
    pages = "INTERNAL: Error writing key '/a/b/c' [source locations]: [OS error 28: ENOSPC No space left on device]\nmore\n"
    assert checkpoint._reason(ValueError(pages)) == "No space left on device"
    assert checkpoint._reason(ValueError("first\nsecond")) == "first"


def test_a_save_that_the_disk_refuses_in_the_background_is_never_called_saved(tmp_path, capfd):
    """The threads of a save fail one after the other, some after the save seems to have ended; this limit stops them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_until_it_is_told(checkpoints, step, made):
        checkpoints.save(step, made, {})
        while (saved := checkpoints.poll()) is None:
            time.sleep(0.001)
        return saved

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, trees(1), {})
        assert checkpoints.wait().step == 1
        for step in range(2, 6):
            made = trees(step, value=np.random.default_rng(step).random((2, 4000, 3), np.float32), width=4000)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            try:
                with pytest.raises(checkpoint.DiskError, match="cannot write a checkpoint"):
                    save_until_it_is_told(checkpoints, step, made)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        checkpoints.save(6, trees(6), {})
        assert checkpoints.wait().step == 6
    assert steps(tmp_path) == [1, 6]
    assert "Traceback" not in capfd.readouterr().err


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
