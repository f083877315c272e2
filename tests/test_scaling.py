"""Training steps compiled for devices that aren't here: how their text is read, that they are the step that trains, what is refused."""

import importlib.util
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from alexnet_jax import parallel
from alexnet_jax.errors import UserError
from alexnet_jax.state import MEMBER_AXES, Controls
from experiments import publish
from experiments.scaling import __main__ as command
from experiments.scaling import estimate, hlo, program

# As XLA's compiler for TPUs writes it, shortened: a convolution in a fusion, a loop of six turns, a copy to the chip, a gather, a sum.
PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_computation (param_0.1: bf16[8,5]) -> bf16[8,5] {
  %param_0.1 = bf16[8,5]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %convolution.1 = bf16[8,5]{1,0:T(8,128)(2,1)} convolution(%param_0.1, %param_0.1), metadata={op_name="jit(step)/conv2/conv"}
}

%body (arg: (u32[], f32[4,200])) -> (u32[], f32[4,200]) {
  %arg = (u32[]{:T(128)}, f32[4,200]{1,0:T(4,128)}) parameter(0)
  %get-tuple-element.2 = f32[4,200]{1,0:T(4,128)} get-tuple-element(%arg), index=1
  %copy.3 = f32[4,200]{0,1:T(8,128)} copy(%get-tuple-element.2), backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %tuple.9 = (u32[]{:T(128)}, f32[4,200]{1,0:T(4,128)}) tuple(%get-tuple-element.2, %copy.3)
}

%condition (arg.1: (u32[], f32[4,200])) -> pred[] {
  %arg.1 = (u32[]{:T(128)}, f32[4,200]{1,0:T(4,128)}) parameter(0)
  %constant.7 = u32[] constant(6)
  %get-tuple-element.5 = u32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %compare.1 = pred[]{:T(512)} compare(%get-tuple-element.5, %constant.7), direction=LT
}

ENTRY %main.1 (p0: bf16[8,5], p1: f32[4,200], /*index=5*/p2: s32[10,3]) -> f32[4,200] {
  %p0 = bf16[8,5]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="batch"}
  %p1 = f32[4,200]{1,0:T(4,128)} parameter(1)
  %p2 = s32[10,3]{0,1:T(4,128)} parameter(2)
  %fusion.1 = bf16[8,5]{1,0} fusion(%p0), calls=%fused_computation, metadata={op_name="pool"}, backend_config={"estimated_cycles":"3000"}
  %copy-start.1 = (f32[4,200]{1,0:T(4,128)S(1)}, f32[4,200]{1,0:T(4,128)}, u32[]{:S(2)}) copy-start(%p1)
  %copy-done.1 = f32[4,200]{1,0:T(4,128)S(1)} copy-done(%copy-start.1)
  %gather.1 = s32[10,3]{0,1:T(4,128)} gather(%p2, %p2), offset_dims={1}, metadata={op_name="jit(step)/augment/gather"}
  %convert.1 = f32[4,200]{1,0:T(4,128)} convert(%gather.1), backend_config={"window_config":{"estimated_cycles":"7","output":["1"]}}
  %tuple.1 = (u32[]{:T(128)}, f32[4,200]{1,0:T(4,128)}) tuple(%convert.1)
  %while.1 = (u32[]{:T(128)}, f32[4,200]{1,0:T(4,128)}) while(%tuple.1), condition=%condition, body=%body
  %get-tuple-element.8 = f32[4,200]{1,0:T(4,128)} get-tuple-element(%while.1), index=1
  ROOT %all-reduce.1 = f32[4,200]{1,0:T(4,128)} all-reduce(%get-tuple-element.8), to_apply=%add
}
"""


def test_operations_have_their_cycles_or_their_bytes_and_a_name():
    padded = 4 * 256 * 4  # f32[4,200] in tiles of 4 x 128
    assert list(hlo.costs(PROGRAM)) == [
        hlo.Cost("fusion", "jit(step)/conv2", 3000, 0),  # that of the convolution in it, not of its last operation
        hlo.Cost("copy", "", 0, padded),  # one way of it is on the chip
        hlo.Cost("gather", "jit(step)/augment", 0, 3 * 4 * 4 * 128),
        hlo.Cost("convert", "jit(step)/augment", 7, 0),  # that of what it takes
        hlo.Cost("copy", "jit(step)/augment", 600, 0),  # six turns of the loop
        hlo.Cost("all-reduce", "jit(step)/augment", 0, padded),
    ]


def test_an_unknown_estimate_and_a_collective_that_others_overlap_have_their_bytes():
    started = PROGRAM.replace("%fusion.1 =", "%async-collective-start =").replace(
        " convolution(%param_0.1, %param_0.1)", " all-gather(%param_0.1)"
    )
    first = next(hlo.costs(started))
    assert (first.kind, first.cycles, first.bytes) == ("all-gather", 0, 8 * 128 * 2)
    assert len(list(hlo.costs(PROGRAM.replace("%fusion.1 =", "%async-collective-done =")))) == 5
    unknown = next(hlo.costs(PROGRAM.replace('"3000"', f'"{2**63 - 1}"')))
    assert (unknown.cycles, unknown.bytes) == (0, 8 * 5 * 2 + 8 * 128 * 2)


def test_padding_follows_the_layout():
    assert hlo.size("f32[1000,3]{1,0:T(8,128)}") == 1000 * 128 * 4
    assert hlo.size("f32[1000,3]{0,1:T(4,128)}") == 1024 * 4 * 4
    assert hlo.size("(u8[6], bf16[2,3]{1,0}, pred[])") == 6 + 12 + 1


def test_a_loop_whose_turns_cannot_be_read_is_no_silent_one():
    with pytest.raises(ValueError, match="number of turns"):
        list(hlo.costs(PROGRAM.replace("direction=LT", "direction=NE")))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("jit(step)/vmap(jvp(augment))/vmap(jit(_uniform))/add", "random bits"),
        ("jit(step)/vmap(jvp(augment))/gather", "augmentation"),
        ("jit(step)/vmap(transpose(vmap(jvp(AlexNet))))/AlexNet._stage/AlexNet._pool_and_norm/AlexNet.pool/stack", "pooling"),
        ("jit(step)/vmap(jvp(AlexNet))/AlexNet._stage/AlexNet._pool_and_norm/AlexNet.norm/mul", "LRN"),
        ("jit(step)/vmap(jvp(AlexNet))/AlexNet._stage/conv3/add", "convolutions"),
        ("jit(step)/vmap(jvp(AlexNet))/AlexNet._dense/fc6/dot_general", "dense"),
        ("jit(step)/vmap(optimizer)/add", "optimiser"),
        ("", "other"),
    ],
)
def test_names_tell_the_parts_of_the_network(name, part):
    assert estimate.part_of(name) == part


class Compiled:
    """What JAX gives for a compiled program, of PROGRAM."""

    def as_text(self):
        return PROGRAM

    def memory_analysis(self):
        sizes = {"argument_size_in_bytes": 5e9, "output_size_in_bytes": 4e9, "alias_size_in_bytes": 4e9, "temp_size_in_bytes": 1e9}
        return SimpleNamespace(**sizes)

    def cost_analysis(self):
        return {"flops": 2e12, "bytes accessed": 3e9}


def test_a_record_adds_up_and_is_published(tiny_config, tmp_path):
    """Two members in two turns of one: each of the program's costs twice. On two chips in a ring."""
    built = program.build(tiny_config("train.members_per_program=1", "parallel.split=data"), 2)
    record = {"command": "python -m x", "compiler": "libtpu 1", "compile_seconds": 80, **estimate.of(built, "v5e:1x2", 2, Compiled())}
    padded = 4096  # bytes of f32[4,200]
    assert record["parts"]["convolutions"]["ms"] == pytest.approx(2 * 3000 / 1.5e6)
    assert record["parts"]["augmentation"]["ms"] == pytest.approx(2 * (607 / 1.5e6 + 3 * 4 * 4 * 128 / 819e6))
    assert record["collectives"] == {"all-reduce": {"count": 2, "bytes": 2 * padded}}
    assert record["gradients"] == sum(4 * leaf.size for leaf in jax.tree.leaves(built.network.abstract_state().params))
    assert estimate.step_ms(record)[1] == pytest.approx(2 * padded / 90e6)  # all of it goes round, half of it twice
    assert 6e9 < record["memory"] < 6.1e9
    (tmp_path / "estimates").mkdir()
    (tmp_path / "estimates" / "v5e-1x2.json").write_text(json.dumps(record))
    publish.keep("chips", tmp_path / "estimates", tmp_path)
    said = publish.scaling_text(json.loads((tmp_path / "docs/results/chips.json").read_text()), "")
    assert "python -m x" in said
    assert "Estimates of a compiler, not measurements: libtpu 1." in said
    assert re.search(r"v5e:1x2 +2 +40 +float32 ", said)
    assert re.search(r"^ +256 +5,120 ", said, re.M)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("devices", "members", "split"),
    [
        (4, 1, "data"),
        pytest.param(1, 2, "data", marks=SLOW),
        pytest.param(4, 4, "data", marks=SLOW),
        pytest.param(4, 4, "members", marks=SLOW),
    ],
)
def test_the_step_that_is_compiled_ahead_is_bit_for_bit_the_step_that_trains(tiny_config, devices, members, split):
    """`jit` over `shard_map` against `pmap`: the losses of three steps."""
    built = program.build(tiny_config(f"parallel.split={split}", members=members), devices)
    divided = MEMBER_AXES if built.turns.divided else None
    over = Mesh(np.array(jax.devices()[:devices]), (parallel.DEVICES,))
    state = jax.tree.map(np.asarray, built.network.init_state())
    controls = Controls(built.network.hyper, np.ones(members, np.float32), np.zeros(members, bool))
    ahead = losses(parallel.over_mesh_train(built.step, over, divided), state, controls, lambda tree: tree)
    if devices == 1:
        trains = jax.pmap(built.step, parallel.DEVICES, in_axes=(None, None, 0), out_axes=None, devices=jax.devices()[:1])
    else:
        trains = parallel.over_devices_train(built.step, divided)
        state, controls = parallel.place((state, controls), built.turns.divided)
    here = losses(trains, state, controls, lambda batch: jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), batch))
    assert np.isfinite(ahead).all()
    np.testing.assert_array_equal(ahead, here)


def losses(step, state, controls, cut):
    rng, found = np.random.default_rng(0), []
    for number in range(3):
        batch = {
            "image": rng.integers(0, 256, (8, 28, 28, 1), np.uint8),
            "label": rng.integers(0, 10, 8, np.int32),
            "index": np.arange(8 * number, 8 * number + 8, dtype=np.uint32),
        }
        state, metrics = step(state, controls, cut(batch))
        found.append(np.asarray(metrics["loss"]))
    return found


def test_the_step_has_a_form_for_cuda_and_what_has_none_is_refused(tiny_config):
    built = program.build(tiny_config(), 1)
    program.check_cuda(built)

    def step_with(function):
        return built._replace(step=lambda state, controls, batch: (state, {"loss": function(batch["label"])}))

    with pytest.raises(UserError, match="isn't CUDA's: cpu_only"):
        program.check_cuda(step_with(lambda x: jax.ffi.ffi_call("cpu_only", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)))
    with pytest.raises(UserError, match="can't be lowered for CUDA"):
        program.check_cuda(step_with(lambda x: jax.lax.platform_dependent(x, cpu=lambda x: x, tpu=lambda x: x + 1)))


@pytest.mark.parametrize(
    ("arguments", "installed", "message"),
    [
        (["--topology", "v5e:banana"], True, "--topology 'v5e:banana' is unknown; write v5e:1x1"),
        (["--topology", "v5e:2x2"], False, "not installed; it comes with: pip install"),
        (["--topology", "v5e:2x2", "--dtype", "float8"], True, "model.dtype is 'float8'"),
        (["--topology", "v5e:2x2", "--batch", "126"], True, "train.batch_size=126 can't be shared evenly by 4 devices"),
    ],
)
def test_what_cannot_be_compiled_is_one_line(arguments, installed, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    four = Mesh(np.array(jax.devices()), (parallel.DEVICES,))
    monkeypatch.setattr(program, "topology_of", lambda *_: four)
    with pytest.raises(UserError, match=re.escape(message)):
        command.main(arguments)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu, of the extra tpu")
def test_a_small_step_is_compiled_for_tpus(digits_dir, tmp_path):
    """Data shared by four chips: their gradients are added up. Members shared: no gradient leaves a chip."""
    records = {}
    for split in ("data", "members"):
        small = [f"--config.data.dir={digits_dir}", "--config.model.width=.04", f"--config.parallel.split={split}", "--members", "4"]
        run = [sys.executable, "-m", "experiments.scaling", "--topology", "v5e:2x2", "--config", "configs/digits.py", *small]
        said = subprocess.run([*run, "--out", tmp_path / split], capture_output=True, text=True, check=True).stdout
        (path,) = (tmp_path / split).glob("*.json")
        records[split] = json.loads(path.read_text())
        assert "the compiler's estimate, not a measurement" in said
        again = subprocess.run([*run, "--out", tmp_path / split], capture_output=True, text=True, check=True).stdout
        assert "compiling" in said
        assert "compiling" not in again
    for record in records.values():
        assert {"convolutions", "dense", "pooling", "LRN", "optimiser", "augmentation"} <= set(record["parts"])
        assert all(part["ms"] > 0 for part in record["parts"].values())
        assert 0 < record["memory"] < program.MEMORY
    assert records["data"]["collectives"]["all-reduce"]["bytes"] >= records["data"]["gradients"] > 0
    assert records["members"]["collectives"]["all-reduce"]["bytes"] < records["data"]["gradients"] / 20  # labels, indices, metrics
