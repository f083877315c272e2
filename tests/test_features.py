"""Features are what the layers put out, each example once, in both file formats; a command that was stopped goes on. Probes on them."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors import safe_open

from alexnet_jax import data, evaluate, features
from alexnet_jax import run as run_lib
from alexnet_jax.errors import UserError
from alexnet_jax.subject import ENSEMBLE, open_dataset, open_networks
from experiments import probe


def run(workdir, out, *options):
    features.main(["--run", str(workdir), "--out", str(out), "--layers", "fc7..fc8", *options])


def read(path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture(scope="module")
def whole(untrained_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "all.safetensors"
    run(untrained_run, path)
    return read(path)


def test_the_logits_are_those_of_evaluate(untrained_run, whole):
    arrays, about = whole
    predictions, _ = evaluate.predict_run(untrained_run, "test")
    assert arrays["fc7"].shape == (2, 360, 164)
    assert arrays["fc7"].min() == 0
    log_probs = arrays["fc8"] - np.log(np.exp(arrays["fc8"]).sum(-1, keepdims=True))
    np.testing.assert_allclose(log_probs, predictions.log_probs, atol=1e-5)
    np.testing.assert_array_equal(arrays["label"], predictions.labels)
    np.testing.assert_array_equal(arrays["index"], np.arange(360))
    assert about["members"] == '["seed=0", "seed=1"]'
    assert about["about"].startswith("Outputs of fc7, fc8 after their activations (fc8: logits), of 2 networks")


def test_npz_float16_of_one_member(untrained_run, whole, tmp_path):
    run(untrained_run, tmp_path / "one.npz", "--member", "1", "--dtype", "float16")
    with np.load(tmp_path / "one.npz") as arrays:
        assert arrays["fc7"].dtype == np.float16
        np.testing.assert_allclose(arrays["fc7"][0], whole[0]["fc7"][1], rtol=2e-3, atol=1e-4)
        assert arrays["classes"].tolist() == list("0123456789")
    assert [path.name for path in tmp_path.iterdir()] == ["one.npz"]


def test_a_stopped_command_goes_on(untrained_run, whole, tmp_path, monkeypatch, capsys):
    path, batches = tmp_path / "all.safetensors", features.batches

    def two(*arguments, **options):
        for _, batch in zip(range(2), batches(*arguments, **options), strict=False):
            yield batch
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "batches", two)
    with pytest.raises(KeyboardInterrupt):
        run(untrained_run, path)
    assert not path.exists()
    with pytest.raises(UserError, match="holds other features, or of another run; delete it"):
        run(untrained_run, path, "--member", "0")
    monkeypatch.setattr(features, "batches", batches)
    run(untrained_run, path)
    assert "going on after 128 of 360 images" in capsys.readouterr().out
    arrays, _ = read(path)
    for name, values in whole[0].items():
        np.testing.assert_array_equal(arrays[name], values)


@pytest.mark.parametrize("split", ["test[10:20]", "test[stratified:20]"])
def test_the_index_of_a_part_is_the_place_in_the_whole_split(untrained_run, whole, tmp_path, split):
    run(untrained_run, tmp_path / "part.safetensors", "--split", split, "--batch-size", "8")
    arrays, _ = read(tmp_path / "part.safetensors")
    places = arrays["index"]
    assert len(set(places)) == len(places)
    assert not np.array_equal(places, np.arange(len(places)))
    for name in ("label", "fc8"):
        np.testing.assert_allclose(arrays[name], np.take(whole[0][name], places, axis=int(name == "fc8")), atol=1e-5)


def test_a_part_of_other_networks_or_another_dataset_is_not_gone_on_with(untrained_run, tmp_path, monkeypatch):
    subject = open_networks(untrained_run, None, "last")
    dataset = open_dataset(subject, None)
    trained = jax.tree.map(lambda leaf: leaf * np.float32(1.001), subject.params)
    stats = dataset.stats._replace(std=dataset.stats.std * 2)
    found = [
        features._digest(*asked)
        for asked in [
            (subject, dataset),
            (open_networks(untrained_run, None, "last"), dataset),
            (subject._replace(params=trained), dataset),
            (subject, dataclasses.replace(dataset, stats=stats)),
        ]
    ]
    assert found[0] == found[1]
    assert len(set(found)) == 3
    monkeypatch.setattr(features, "batches", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(untrained_run, tmp_path / "x.npz")
    monkeypatch.setattr(features, "_digest", lambda *_: "another")
    with pytest.raises(UserError, match="holds other features, or of another run; delete it"):
        run(untrained_run, tmp_path / "x.npz")


def test_float16_that_overflows_is_refused(tmp_path):
    store = features.Store(tmp_path / "x.npz", {"fc7": (1, 2, 1), "label": (2,), "index": (2,)}, "float16", {})
    with pytest.raises(UserError, match=r"fc7 has values up to 7e\+04, float16 ends at 65504; use --dtype float32"):
        store.write({"fc7": np.array([[[7e4], [1]]]), "label": np.zeros(2), "index": np.arange(2)})


def test_maps_are_averaged_down(untrained_run):
    subject = open_networks(untrained_run, None, "last")
    source = open_dataset(subject, None).source("test[:8]")
    (plain,), (small,) = (list(features.batches(subject, source, ["conv1", "fc7"], largest=largest)) for largest in (None, 4))
    assert small["conv1"].shape == (1, 8, 4, 4, 12 // 3)
    np.testing.assert_allclose(small["conv1"][:, :, 1, 2], plain["conv1"][:, :, 7:14, 14:21].mean((2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(small["fc7"], plain["fc7"])


def test_a_batch_is_no_larger_than_the_split(untrained_run, monkeypatch):
    """It would be padding, for which the memory may not suffice."""
    asked = []
    monkeypatch.setattr(data, "eval_batches", lambda source, batch_size, **_: asked.append(batch_size) or iter(()))
    subject = open_networks(untrained_run, None, "last")
    list(features.batches(subject, open_dataset(subject, None).source("test[:7]"), ["fc7"], batch_size=4_000_000_000))
    assert asked == [8]  # four devices share it


@pytest.mark.parametrize(
    ("lost", "member", "taken"),
    [(0, None, ["seed=1"]), (0, ENSEMBLE, ["seed=1"]), (1, ENSEMBLE, ["seed=0"]), (1, None, ["seed=0"]), (1, "0", ["seed=0"])],
)
def test_a_network_that_diverged_is_left_out_and_named(untrained_run, monkeypatch, capsys, lost, member, taken):
    loaded = run_lib.load(untrained_run)
    params = jax.tree.map(lambda leaf: np.where(np.arange(2).reshape(2, *[1] * (leaf.ndim - 1)) == lost, np.nan, leaf), loaded.state.params)
    monkeypatch.setattr(run_lib, "load", lambda *_: loaded._replace(state=dataclasses.replace(loaded.state, params=params)))
    assert open_networks(untrained_run, member, "last").members == taken
    named = f"left out of {untrained_run}, because they diverged in training: seed={lost}\n"
    assert capsys.readouterr().err == (
        named if member == ENSEMBLE or lost == 0 else ""
    )  # with seed=0 as the first, nobody asked for seed=1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.pt"], r"--out x.pt: the name must end in .safetensors or .npz"),
        (["--out", "no/such/x.npz"], r"cannot write no/such/x\.npz: it is a folder, or its folder doesn't exist"),
        (["--out", "x.npz", "--layers", "conv6"], "unknown layer 'conv6'"),
        (["--out", "x.npz", "--split", "val"], "dataset digits has no split 'val'"),
    ],
)
def test_mistakes_are_said(untrained_run, arguments, message):
    with pytest.raises(UserError, match=message):
        features.main(["--run", str(untrained_run), *arguments])


def test_probes_find_what_is_there():
    rng = np.random.default_rng(0)
    labels, noise = rng.integers(0, 3, 240), rng.normal(size=(240, 12)).astype(np.float32)
    known = noise + 3 * np.eye(3, 12, dtype=np.float32)[labels]
    for error in (probe.linear_error, probe.neighbours_error):
        assert error(known[:160], labels[:160], known[160:], labels[160:]) < 0.1
        assert error(noise[:160], labels[:160], noise[160:], labels[160:]) > 0.5


@pytest.mark.parametrize(
    ("split", "cut"),
    [
        ("train", "train[:40]"),
        ("train[:30]", "train[:30]"),
        ("train[5:]", "train[5:45]"),
        ("train[stratified:30]", "train[stratified:30]"),
        ("train[stratified:600]", "train[stratified:40]"),
    ],
)
def test_a_probe_is_fitted_on_the_first_images_of_the_training(untrained_run, split, cut):
    dataset = open_dataset(open_networks(untrained_run, None, "last"), None)
    assert probe.first_of(dataset, split, 40) == cut
    first, found = dataset.source(split).places()[:40], dataset.source(cut).places()
    np.testing.assert_array_equal(first, found)
    assert probe.first_of(dataset, "train", 2000) == "train[:1257]"


def test_too_few_images_for_a_probe(untrained_run, tmp_path):
    with pytest.raises(UserError, match=r"--train train\[:3\] holds 3 images; 5 nearest neighbours take at least 5"):
        probe.main(["--run", str(untrained_run), "--train", "train[:3]", "--out", str(tmp_path)])


@pytest.mark.slow
def test_error_by_depth_of_a_run(untrained_run, tmp_path, capsys):
    asked = ["--layers", "fc6..fc7", "--train", "train[:80]", "--member", "0", "--note", "untrained", "--out", str(tmp_path)]
    probe.main(["--run", str(untrained_run), *asked])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["pixels", "fc6", "fc7", "network"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probe.json", "probe.png", "probe.svg", "result.txt"]
    assert "(360 images), seed=0: untrained" in (tmp_path / "result.txt").read_text()
    assert probe.probe_figure({"fc6": {"linear": [0.5], "neighbours": [0.5]}}, [0.5], "untrained").get_suptitle() == "untrained"
    with pytest.raises(UserError, match="are of one split; measure on images that were not fitted"):
        probe.main(["--run", str(untrained_run), "--train", "test[:80]", "--out", str(tmp_path)])
