"""What a run takes of the memory, and what it is told where that is too much."""

import jax
import numpy as np
import pytest

from alexnet_jax import history, host, memory, parallel, run
from alexnet_jax import network as network_lib
from alexnet_jax.errors import UserError
from alexnet_jax.train import loop, setup
from alexnet_jax.turns import Turns

NEEDS = memory.Needs(Turns(7, 7), parameters=100, optimizer=100, activations=7000)


def test_state_is_counted_before_anything_is_compiled(tiny_config):
    setup = network_lib.build(tiny_config(members=3), (28, 28, 1), 10)
    state = setup.abstract_state()
    needs = memory.of_state(state, Turns(3, 3))
    assert needs.parameters == 4 * sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    assert needs.optimizer == needs.parameters  # one velocity for each
    assert needs.activations == 0


def test_what_fits_is_said_by_number():
    memory.check(NEEDS, 7200)
    with pytest.raises(UserError, match=r"7 members: parameters 100 B, .*7\.2 kB, but the device has 7 kB; .*members_per_program=6"):
        memory.check(NEEDS, 7000)
    with pytest.raises(UserError, match="members_per_program=2"):
        memory.check(NEEDS, 2300)
    with pytest.raises(UserError, match=r"lower train\.batch_size"):
        memory.check(NEEDS, 1000)
    with pytest.raises(UserError, match="fewer members"):
        memory.check(NEEDS, 200)


def test_the_proposal_counts_what_one_of_the_turn_takes():
    with pytest.raises(UserError, match=r"activations of 4 at once 7 kB.*members_per_program=2"):
        memory.check(NEEDS._replace(turns=Turns(7, 4)), 4000)


def test_a_container_or_a_job_may_leave_less_than_the_host_has(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/v1\n0::/job/step\n")
    root = tmp_path / "fs"
    for name, limit in (("job", "1000"), ("job/step", "max")):
        (root / name).mkdir(parents=True)
        for file, content in (("max", limit), ("current", "600"), ("stat", "anon 400\ninactive_file 100\n")):
            (root / name / f"memory.{file}").write_text(content)
    assert host._left_of_cgroups(own, root) == 500
    assert host._left_of_cgroups(own, tmp_path / "nowhere") == host._left_of_cgroups(tmp_path / "none", root) == float("inf")


@pytest.mark.slow
def test_a_run_says_what_it_takes_and_stops_where_it_cannot_fit(tiny_config, tmp_path, monkeypatch):
    config = tiny_config("train.epochs=0.1", "train.members_per_program=2", members=3)
    loop.train(config, tmp_path / "fits")
    (event,) = history.load(tmp_path / "fits").of_kind("memory")
    assert event["message"].startswith("3 members: parameters")
    assert "activations of 2 at once" in event["message"]
    needs = memory.of_state(run.load(tmp_path / "fits").network.abstract_state(), Turns(3, 2))
    assert needs.state < event["needed"] < 1e9

    monkeypatch.setattr(parallel, "memory", lambda: event["needed"] - 1)
    with pytest.raises(UserError, match=r"members_per_program=1$"):
        loop.train(config, tmp_path / "tight")
    monkeypatch.setattr(parallel, "memory", lambda: needs.state // 3 - 1)
    with pytest.raises(UserError, match="fewer members"):
        loop.train(config, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_batch_that_cannot_fit_is_refused_before_anything_is_made():
    memory.check_batch("eval.batch_size=64", 64, 28 * 28, Turns(7, 7), 10**7)
    with pytest.raises(
        UserError, match=r"eval.batch_size=1000000000 is too large: the views of 250,000,000 images take 5.49 TB on a device"
    ):
        memory.check_batch("eval.batch_size=1000000000", 250_000_000, 28 * 28, Turns(7, 7), 10**10)


def test_members_that_no_device_can_hold_together_are_divided_over_the_devices(tiny_config, monkeypatch):
    state = network_lib.build(tiny_config(members=3), (28, 28, 1), 10).abstract_state()
    monkeypatch.setattr(parallel, "memory", lambda: memory.of_state(state, Turns(3, 3)).total - 1)
    prepared, _ = setup.prepare(tiny_config(members=3))
    assert prepared.turns == Turns(3, 4, devices=4)
    assert "it can't hold all 3" in prepared.split
    assert memory.of_state(state, prepared.turns).parameters == memory.of_state(state, Turns(3, 3)).parameters // 3
    with pytest.raises(UserError, match="fewer members"):
        setup.prepare(tiny_config("parallel.split=data", members=3))
