import numpy as np
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax import hyper
from alexnet_jax.errors import UserError

BASE = {**{field: float(getattr(hyper.Hyper(), field)) for field in hyper.FIELDS if field not in hyper.WHOLE}, "seed": 10}


def test_seeds():
    rows, names = hyper.parse_members("seeds=3", BASE)
    assert [row["seed"] for row in rows] == [10, 11, 12]
    assert names == ["seed=10", "seed=11", "seed=12"]
    assert all(row["learning_rate"] == 0.01 for row in rows)


def test_product_pairs_members_by_seed():
    rows, names = hyper.parse_members("learning_rate=[.003,.01,.03], lrn=[on,off], seeds=5", BASE)
    assert len(rows) == len(set(names)) == 30
    assert names[5] == "learning_rate=0.003 lrn=off seed=10"
    assert (rows[5]["lrn_k"], rows[5]["lrn_alpha"], rows[5]["learning_rate"]) == (1.0, 0.0, 0.003)
    assert (rows[0]["lrn_k"], rows[0]["lrn_alpha"]) == (2.0, 1e-4)
    assert [row["seed"] for row in rows[:10]] == [10, 11, 12, 13, 14] * 2


def test_rows():
    rows, names = hyper.parse_members("learning_rate=.01, seed=3; dropout=0, seed=4", BASE)
    assert [(row["learning_rate"], row["dropout"], row["seed"]) for row in rows] == [(0.01, 0.5, 3), (0.01, 0, 4)]
    assert names == ["learning_rate=0.01 seed=3", "dropout=0 seed=4"]


def test_draws_are_the_seed_unless_they_are_named():
    rows, names = hyper.parse_members("seeds=2; draws=[3,4], seed=7; draws=1, seeds=2", BASE)
    assert [(row["seed"], row["draws"]) for row in rows] == [(10, 10), (11, 11), (7, 3), (7, 4), (10, 1), (11, 1)]
    assert names[2:4] == ["draws=3 seed=7", "draws=4 seed=7"]
    for spec in ("draws=1.5, seed=0", "draws=-1, seed=0", "draws=4294967296, seed=0"):
        with pytest.raises(UserError, match="draws"):
            hyper.parse_members(spec, BASE)
    with pytest.raises(UserError, match="can't set 'draws'"):
        hyper.check_settable("draws")


def test_augment_off_switches_every_strength_off():
    rows, _ = hyper.parse_members("augment=off, seed=0", BASE)
    assert {rows[0][name] for name in hyper.AUGMENTATIONS} == {0}


def test_leaves_are_arrays_over_members():
    members, names = hyper.from_config(config_lib.load("configs/digits.py:members=4"))
    assert members.members == len(names) == 4
    assert members.seed.dtype == np.uint32
    for field in hyper.FIELDS:
        leaf = getattr(members, field)
        assert leaf.shape == (4,)
        assert leaf.dtype == (np.uint32 if field in hyper.WHOLE else np.float32)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "defines no member"),
        ("sedes=7", "did you mean seeds"),
        ("seeds=0", "at least 1"),
        ("seeds=[1,2]", "seed="),
        ("seeds=2.5", "whole numbers"),
        ("learning_rate=fast", "expected numbers"),
        ("learning_rate=-1", "outside"),
        ("dropout=1", "outside"),
        ("momentum=1.5", "outside"),
        ("lrn=maybe", "on or off"),
        ("lrn_k=0", "divide by zero"),
        ("learning_rate", "not name=value"),
        ("learning_rate=nan", "learning_rate = nan is outside"),
        ("seed=-1", r"seed = -1 is outside \[0, 4294967295\]"),
        ("seed=[4294967295,4294967296]", r"seed = 4294967296 is outside \[0, 4294967295\]"),
        ("seeds=100000000", "defines 100,000,000 members; a run has at most 100,000"),
        ("learning_rate=[1,2], seeds=60000", "defines 120,000 members"),
        ("learning_rate=1e39", "outside"),
        ("seed=" + "-" * 9000 + "1", "expected whole numbers"),
        ("seeds=2, seed=[5,6]", "sets seed twice"),
        ("lrn=[on,off], lrn_k=1", "sets lrn_k twice"),
    ],
)
def test_refuses(spec, message):
    with pytest.raises(UserError, match=message):
        hyper.parse_members(spec, BASE)


@pytest.mark.parametrize("spec", ["seed=[0,0,1]", "seeds=2; seed=1", "learning_rate=[.01,.01]", "learning_rate=[.01,.0100000000001]"])
def test_equal_members_are_refused(spec):
    config = config_lib.load("configs/digits.py", [f"ensemble.members={spec}"])
    with pytest.raises(UserError, match="twice: the same network would count as two"):
        hyper.from_config(config)


def test_members_that_differ_have_names_that_differ():
    _, names = hyper.from_config(config_lib.load("configs/digits.py", ["ensemble.members=learning_rate=[.01,.01000001,1e-5,1]"]))
    assert names == ["learning_rate=0.01", "learning_rate=0.01000001", "learning_rate=1e-05", "learning_rate=1"]
