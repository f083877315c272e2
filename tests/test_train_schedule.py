"""When things happen: numbers that no run can have are refused."""

import re

import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError
from alexnet_jax.train.schedule import make_timeline


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=1e30", "train.epochs is 1e+30; it must be positive, and at most 2,147,483,647"),
        ("train.epochs=1e9", "1e+09 epochs are 19,640,625,000 steps; a run has at most 2,147,483,647"),
        ("optimizer.warmup_epochs=1e9", "1e+09 epochs are 19,640,625,000 steps"),
        ("plateau.cooldown=4294967296", "plateau.cooldown is 4294967296; it must be 0 or more, and at most 2,147,483,647"),
        ("data.threads=1e9", "data.threads is 1000000000; it must be 0 or more, and at most 1,000"),
        ("train.epochs=nan", "train.epochs is nan; it must be positive, and finite"),
    ],
)
def test_numbers_that_no_run_can_have(override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_timeline(config_lib.load("configs/digits.py", [override]), 1257)
