"""The trace of some steps of a run."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from alexnet_jax import history
from alexnet_jax.train import __main__ as command
from alexnet_jax.train.loop import train
from alexnet_jax.train.profile import STEP, Profile

pytestmark = pytest.mark.newest


class Log(list):
    def event(self, kind, step, message):
        self.append((kind, step, message))


def traced(directory):
    """The events of the only trace below a directory, as Perfetto reads them; TensorBoard's file is beside it."""
    (path,) = directory.glob("plugins/profile/*/perfetto_trace.json.gz")
    (beside,) = path.parent.glob("*.xplane.pb")
    assert STEP.encode() in beside.read_bytes()
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def steps_of(events):
    return sorted(int(event["args"]["step_num"]) for event in events if event.get("name") == STEP)


def test_a_run_traces_the_steps_after_its_first(tiny_config, tmp_path):
    train(tiny_config("train.epochs=0.2", members=1), tmp_path, profiled=3)
    events = traced(tmp_path / "profile")
    assert steps_of(events) == [2, 3, 4]
    assert any("conv" in str(event.get("args", {}).get("hlo_op")) for event in events)  # what the devices did
    (told,) = history.load(tmp_path).of_kind("profile")
    assert told["step"] == 4
    assert told["message"].startswith(f"the trace of steps 2 to 4 is in {tmp_path / 'profile'}; ")


def run(directory, steps, calls):
    log, double = Log(), jax.jit(lambda x: 2 * x)
    with Profile(directory, steps, log) as profile:
        program = profile.watch(lambda parts, controls, batch: (double(parts), {}), first=10)
        x = jnp.ones(8)
        for _ in range(calls):
            x, _ = program(x, None, None)
    assert float(x[0]) == 2.0**calls
    return log


def test_a_run_that_ends_too_soon_keeps_what_was_traced(tmp_path):
    (told,) = run(tmp_path, steps=100, calls=3)
    assert steps_of(traced(tmp_path)) == [12, 13]
    assert told[:2] == ("profile", 13)


def test_without_steps_nothing_is_traced_nor_wrapped(tmp_path):
    assert run(tmp_path, steps=0, calls=3) == []
    assert list(tmp_path.iterdir()) == []
    assert Profile(tmp_path, 0, Log()).watch(program := lambda: None, first=0) is program


def test_a_disk_that_refuses_the_trace_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    ((kind, step, message),) = run(tmp_path / "file", steps=1, calls=3)
    assert (kind, step) == ("warning", 12)
    assert message.startswith("the trace of step 12 can't be written: ")


@pytest.mark.parametrize("steps", ["0", "-1", "2.5", "ten"])
def test_a_number_of_steps_that_is_none(steps, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["--config", "configs/digits.py", "--workdir", str(tmp_path / "run"), "--profile", steps])
    assert capsys.readouterr().err.endswith(f"error: argument --profile: {steps!r} is not a whole number above 0\n")
