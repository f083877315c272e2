"""Benchmarks: sides take turns, tables and JSON agree, and the peer does the same work as we do."""

import argparse
import json
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from alexnet_jax.augment import evaluation_view
from alexnet_jax.errors import UserError
from alexnet_jax.examples import Records
from alexnet_jax.hyper import Hyper
from alexnet_jax.model.layers import forward_flops, step_flops
from alexnet_jax.model.lrn import lrn
from alexnet_jax.weights import torch_layout
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import gpu, growth, growth_figure, measure, ours
from experiments.benchmark import settings as settings_lib
from experiments.benchmark.input import make_dataset
from experiments.benchmark.settings import QUICK, Settings
from experiments.benchmark.table import Table

QUICK_AUGMENT = ["augment", "--quick", "--networks", "small"]


@pytest.fixture(autouse=True)
def _keep_the_compilation_cache():
    yield
    jax.config.update("jax_enable_compilation_cache", True)


def test_sides_take_turns():
    calls = []
    timings = measure.alternately({"a": lambda: calls.append("a"), "b": lambda: (calls.append("b"), time.sleep(0.002))}, rounds=3, turn=0)
    assert "".join(calls) == "aabb" + "ab" * 3
    assert len(timings["a"].seconds) == 3
    assert min(timings["b"].seconds) >= 0.002


def test_a_turn_is_as_long_as_asked(monkeypatch):
    """By a clock that a call moves on by 3 seconds: a turn of 10 takes four calls, after the two that warm up."""
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    timing = measure.alternately({"a": lambda: clock.__setitem__(0, clock[0] + 3)}, rounds=2, turn=10)["a"]
    assert clock[0] == 3 * (2 + 2 * 4)
    assert timing.seconds == (3.0, 3.0)


def test_timing_is_median_and_quartiles():
    timing = measure.Timing((4.0, 1.0, 2.0, 3.0, 10.0))
    assert (timing.median, timing.quartiles) == (3.0, (2.0, 4.0))
    assert measure.Timing((2.0, 1.0)).quartiles == (1.0, 2.0)
    assert timing.rate(6) == 2.0
    assert timing.rate_quartiles(60) == "15.0 - 30.0"
    assert timing.each(2).median == 1.5


def test_a_child_is_ended_at_its_limit_and_its_failure_is_reported():
    assert measure.in_child(int, "7") == 7
    assert measure.in_child(time.sleep, 60, limit=0.5) is None
    with pytest.raises(RuntimeError, match=r"int.*failed"):
        measure.in_child(int, "x")


def test_peak_memory_counts_what_this_process_touched():
    """In a process that has touched little: beyond the peak of one that has run these tests may be gigabytes."""
    script = (
        "import numpy as np; from experiments.benchmark import memory; before = memory.peak_bytes()\n"
        "np.ones(before + 50_000_000, np.uint8); print(memory.peak_bytes() - before)"
    )
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(grown) > 40_000_000


def test_rows_are_aligned_and_kept(tmp_path, capsys):
    table = Table("part", "Title", {"side": "<8", "images/s": "10,.1f"}, Settings(), tmp_path)
    table.timed(measure.Timing((0.5,)), side="ours", images_s=1234.56)
    table.row(side="theirs")
    table.note("a note")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["Title", "side        images/s", "ours         1,234.6", "theirs             -", "  a note"]
    record = json.loads((tmp_path / "part.json").read_text())
    assert record["rows"] == [{"side": "ours", "images_s": 1234.56, "seconds": [0.5]}, {"side": "theirs"}]
    assert record["notes"] == ["a note"]
    assert record["machine"]["cores"] >= 1
    assert record["settings"]["rounds"] == Settings().rounds


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown part 'trian'; did you mean train?"),
        (["train", "--rounds", "0"], "--rounds 0; it must be positive"),
        (["train", "--members", "0"], "--members 0; it must be at least 1"),
        (["train", "--batch", "128", "0"], "--batch 0; it must be at least 1"),
        (["gpu", "--rounds", "3"], "gpu has settings of its own"),
    ],
)
def test_nonsense_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        benchmark.main(words)


def test_an_unwritable_place_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another --out"):
        benchmark.main([*QUICK_AUGMENT, "--out", str(tmp_path / "file" / "below")])


def test_a_part_runs(tmp_path, capsys):
    benchmark.main([*QUICK_AUGMENT, "--out", str(tmp_path)])
    record = json.loads((tmp_path / "augment.json").read_text())
    assert {"ours, gather", "ours, shear"} <= {row["side"] for row in record["rows"]}
    assert all(len(row["seconds"]) == QUICK.rounds for row in record["rows"])
    assert "28 -> 28, grey" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("part", benchmark.PARTS)
def test_every_part_runs(part, tmp_path):
    benchmark.main([part, "--quick", "--out", str(tmp_path)])
    assert json.loads((tmp_path / f"{part}.json").read_text())["rows"]


def test_what_fails_or_hangs_or_comes_too_late_costs_only_itself(tmp_path, monkeypatch, capsys):
    """A plan of four: one succeeds, one fails, one hangs, and the last finds less time than it may take."""
    for name, code in (("good", "print('fine')"), ("bad", "raise SystemExit('no')"), ("stuck", "import time; time.sleep(60)")):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plan = tuple(gpu.Item(name, name, 2.0) for name in ("good", "bad", "stuck"))
    monkeypatch.setattr(gpu, "PLAN", (*plan, gpu.Item("late", "good", 9.0)))
    with pytest.raises(UserError, match=r"not finished: bad, stuck, late; .*gpu\.log says why"):
        gpu.run(Settings(minutes=8 / 60), tmp_path)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["result"] for row in rows[:3]] == ["done", "failed, exit code 1", "ended at its limit"]
    assert rows[3]["result"].startswith("left out")
    log = (tmp_path / "gpu.log").read_text()
    assert "fine" in log
    assert "no\n" in log
    assert "fine" in capsys.readouterr().out


@pytest.mark.parametrize("item", gpu.PLAN, ids=lambda item: item.name)
def test_the_plan_has_words_that_its_commands_know(item, monkeypatch):
    """All but the first, of the tests, are parts of this command with settings that it takes."""
    if item.name == "tests":
        assert "-m accelerator" in item.words
        return
    assert item.words.split()[1] in benchmark.PARTS
    for sizes in (item.full, item.quick):
        parser = argparse.ArgumentParser()
        settings_lib.add_arguments(parser)
        parsed = settings_lib.from_arguments(parser.parse_args([*item.words.split()[2:], *sizes.split()]))
        assert (parsed.turn == 0) == (sizes == item.quick)
        assert parsed.networks == (("one_tower",) if "one_tower" in item.words else Settings().networks)
    assert sum(other.name == item.name for other in gpu.PLAN) == 1, "its JSON would be written twice"


def test_the_figure_shows_every_point(tmp_path):
    points = {what: [(size, measure.Timing((0.1 * size,))) for size in (1, 2, 4)] for what in (growth.RECORDS, growth.MEMORY)}
    points |= {what: [(size, measure.Timing((0.1 * size,))) for size in (1, 2, 4)] for what in (growth.MEMBERS, growth.BATCHES)}
    png, svg = growth_figure.write(points, 8, tmp_path)
    assert png.stat().st_size > 10_000
    assert "members of the small network" in svg.read_text() or svg.read_text().count("<use") >= 12


# What is timed


@pytest.mark.parametrize("variant", ours.CHANNELS)
def test_flops_are_those_of_the_network_table(variant):
    model = ours.network(variant)
    if variant == "one_tower":
        assert round(step_flops(model.arch, 1000, 3) / 1e6, 1) == 6600.7
        assert round(forward_flops(model.arch, 1000, 3) / 1e6, 1) == 2270.5
    of = model.arch, model.classes, ours.CHANNELS[variant]
    assert 2.5 < step_flops(*of) / forward_flops(*of) < 3


@pytest.mark.parametrize(("form", "count"), [("grouped", 14), ("direct", 0)])  # forward and both gradients, but the image's own
def test_the_plain_form_is_grouped(form, count):
    model, images, keys = ours.network("small", 0.04, conv_form=form), np.zeros((3, 2, 28, 28, 1)), jax.random.split(jax.random.key(0), 3)
    params = jax.eval_shape(jax.vmap(lambda key: model.init(key, images[0], Hyper())["params"]), keys)

    def loss(params, images):
        return model.apply({"params": params}, images, Hyper()).sum()

    assert jax.jit(jax.vmap(jax.grad(loss))).lower(params, images).as_text().count("group_count = 3") == count


@pytest.mark.parametrize(("backend", "devices", "message"), [("gpu", 2, "CUDA_VISIBLE_DEVICES=0"), ("tpu", 4, "TPU_VISIBLE_CHIPS=0")])
def test_several_accelerators_are_refused(backend, devices, message, monkeypatch, tmp_path):
    """Ours would train on all of them, the peer on one."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    with pytest.raises(UserError, match=message):
        benchmark.main(["lrn", "--quick", "--out", str(tmp_path)])


@pytest.fixture(scope="module")
def step():
    """A narrow small network's training step; a test takes a state of its own by `with_members`."""
    return ours.TrainStep("small", ours.network("small", 0.25), "augment=off, seeds=1", ours.random_batch("small", 8))


def test_augmentation_can_be_switched_on_without_another_program(step):
    off, on = step.with_members("augment=off, seeds=1"), step.with_members("seeds=1")
    off()
    on()
    assert not jax.tree.all(jax.tree.map(np.array_equal, off.parts[0].params, on.parts[0].params))
    on = off.with_members("augment=off, seeds=1")  # goes on from the same state
    off()
    on()
    assert jax.tree.all(jax.tree.map(np.array_equal, off.parts[0].params, on.parts[0].params))


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_pytorchs_training_step_is_ours(layout, step):
    """Two steps from equal weights on equal images, without dropout, come to equal weights."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `peers`")
    from experiments.peers import torch_train

    step, batch = step.with_members("augment=off, dropout=0, seeds=1"), ours.random_batch("small", 8)
    peer = torch_train.Training("small", 8, 0.25, 1, 10, layout=layout)
    names = {
        (layer, leaf): f"{layer}.{'weight' if leaf == 'kernel' else 'bias'}" for layer in torch_layout.LAYERS for leaf in ("kernel", "bias")
    }

    def weights():
        params = jax.tree.map(lambda leaf: np.asarray(leaf[0]), step.parts[0].params)
        return torch_layout.to_oihw(params, names, ours.network("small").arch.map_sizes[-1])

    before = weights()
    peer.networks[0].load_state_dict({name: torch.from_numpy(array.copy()) for name, array in before.items()})
    peer.networks[0].dropout.p = 0.0
    images = (batch["image"].astype(np.float32) - 127.5) / 70
    peer.images.copy_(torch.from_numpy(images).permute(0, 3, 1, 2))
    peer.labels.copy_(torch.from_numpy(batch["label"]))
    for _ in range(2):
        step()
        peer()
    theirs = {name: tensor.numpy() for name, tensor in peer.networks[0].state_dict().items()}
    for name, after in weights().items():
        assert np.abs(after - theirs[name]).max() < 1e-3 * np.abs(after - before[name]).max(), name


def test_pytorchs_augmentation_switched_off_is_our_centre_crop():
    torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `peers`")
    from experiments.peers import torch_train

    image = np.random.default_rng(0).integers(0, 256, (13, 13, 3)).astype(np.uint8)
    off = dict.fromkeys(torch_train.STRENGTHS, 0.0)
    for size in (8, 9):
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
        for whitening in (0.0, 1.0):
            theirs = torch_train.augment(tensor, size, {**off, "whitening": whitening}, 73.0)[0].permute(1, 2, 0).numpy()
            stats = ours.pixel_stats(3)._replace(std=np.asarray(73, np.float32))
            wanted = evaluation_view(image, Hyper(whitening=whitening), stats, size)
            np.testing.assert_allclose(theirs, wanted, atol=1e-3)


def test_pytorchs_augmentation_acts():
    """A turn by 180 degrees either way, a certain flip, and every offset of the crop."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `peers`")
    from experiments.peers import torch_train

    torch.manual_seed(0)
    image = torch.arange(25, dtype=torch.uint8).reshape(1, 1, 5, 5).repeat(200, 1, 1, 1)
    off = dict.fromkeys(torch_train.STRENGTHS, 0.0)
    flipped = torch_train.augment(image, 5, {**off, "flip": 1.0}, 1.0)
    np.testing.assert_allclose(flipped + 127.5, image.flip(-1), atol=1e-4)
    corners = torch_train.augment(image, 3, {**off, "crop": 1.0}, 1.0)[:, 0, 0, 0] + 127.5
    assert sorted({round(float(corner)) for corner in corners}) == [0, 1, 2, 5, 6, 7, 10, 11, 12]
    turned = torch_train.augment(image, 5, {**off, "rotation": 90.0}, 1.0) + 127.5
    np.testing.assert_allclose(turned[:, 0, 2, 2], 12, atol=1e-4)
    assert turned[:, 0, 0, 2].std() > 2


def test_pytorchs_normalisation_has_our_constants():
    torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `peers`")
    from experiments.peers import torch_train

    x = 50 * np.random.default_rng(0).normal(size=(2, 3, 3, 16)).astype(np.float32)
    module = torch_train.network("one_tower", 0.04, 10, 3)
    theirs = module.norm(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(lrn(x), theirs, rtol=1e-5)


def test_pytorch_reads_the_same_images(tmp_path):
    pytest.importorskip("torch", reason="needs PyTorch: the extra `peers`")
    from experiments.peers import torch_input

    for encoding, tolerance in (("raw", 0), ("jpeg", 12)):
        dataset = make_dataset(tmp_path, (64, 64, 3), encoding, 10)
        stored = torch_input.Images(torch_input.store(Records(dataset.builder, "train"), tmp_path / encoding, encoding))
        source = dataset.source("train")
        assert len(stored) == len(source) == 10
        for index in range(10):
            image, label = stored[index]
            assert label == source[index]["label"]
            assert np.abs(image.numpy().astype(int) - source[index]["image"]).mean() <= tolerance
