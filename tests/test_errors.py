"""The hint at the end of an error about an unknown name."""

import errno

import pytest

from alexnet_jax.errors import FEW, LISTED, LONGEST, UserError, cannot_write, did_you_mean, version

FIELDS = ("train.batch_size", "train.epochs", "eval.batch_size", "optimizer.rule", *(f"data.field{i}" for i in range(FEW)))


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("lnr", ("augment", "lrn"), "; did you mean lrn? Known: augment, lrn"),
        ("size", ("augment", "lrn"), "; known: augment, lrn"),
        ("size", (), "; known: none"),
        ("tran.batch_size", FIELDS, "; did you mean train.batch_size?"),
        ("evel.batch_size", FIELDS, "; did you mean eval.batch_size?"),
        ("batch_size", FIELDS, "; did you mean train.batch_size?"),
        ("model.rule", FIELDS, "; did you mean optimizer.rule?"),
        ("configs/nothing_like_it.py", ("a/b.py",), "; known: a/b.py"),  # the same ending is not the same field
    ],
)
def test_hint_names_the_nearest_or_the_known(name, known, hint):
    assert did_you_mean(name, known) == hint


def test_a_long_list_is_cut():
    hint = did_you_mean("?", map(str, range(100)))
    assert hint.startswith("; known: 0, 1, ")
    assert hint.endswith(f" {LISTED - 1}, ...")


def test_an_error_is_one_line_whatever_somebody_typed():
    assert str(UserError("no\nfile \ud800\0")) == r"no\nfile \ud800\x00"
    assert len(str(UserError("x" * 10**6))) == LONGEST + 5


def test_a_package_that_is_not_installed_is_one_line():
    with pytest.raises(UserError, match=r"no_such_package is not installed in .*; in .* run `pip install -e .`"):
        version("no_such_package")


def test_what_cannot_be_written_is_said_with_the_free_space_where_it_is_full(tmp_path):
    full, forbidden = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EACCES, "Permission denied")
    found = str(cannot_write(tmp_path / "not" / "yet", full, "make room"))
    assert found.startswith(f"cannot write {tmp_path}/not/yet: No space left on device (")
    assert found.endswith(" MB are free); make room")
    assert str(cannot_write(tmp_path, forbidden, "x")) == f"cannot write {tmp_path}: Permission denied; x"
