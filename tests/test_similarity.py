"""How alike networks are: CKA is its formula, filters are matched, pairs are counted."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.subject import in_order, open_dataset, open_networks
from experiments.similarity import cka, diversity, filters
from experiments.similarity import compare as compare_lib
from experiments.similarity.__main__ import main
from experiments.similarity.compare import compare, networks_of
from experiments.similarity.report import in_words


def two_layers(examples, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(examples, 5))
    one = np.concatenate([shared, rng.normal(size=(examples, 8))], 1) + 3
    return one.reshape(examples, 1, 13, 1), np.tanh(shared @ rng.normal(size=(5, 20)))


def value_of(*layers, batch):
    similarity = cka.MinibatchCKA()
    for start in range(0, len(layers[0]), batch):
        similarity.add([cka.gram(layer[start : start + batch]) for layer in layers])
    return similarity.value()


def song(k, other):
    """Song et al. (2012), equation 5."""
    n, one = len(k), np.ones(len(k))
    k, other = k * (1 - np.eye(n)), other * (1 - np.eye(n))
    sums = one @ k @ one * (one @ other @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ other) + sums - 2 / (n - 2) * one @ k @ other @ one) / (n * (n - 3))


def test_one_batch_is_the_full_formula():
    one, other = two_layers(40)
    grams = [x.reshape(40, -1) @ x.reshape(40, -1).T for x in (one, other)]  # not centred
    expected = np.array([[song(a, b) for b in grams] for a in grams])
    np.testing.assert_allclose(cka.hsic(grams), expected, rtol=1e-8)
    cosine = expected[0, 1] / np.sqrt(expected[0, 0] * expected[1, 1])
    np.testing.assert_allclose(value_of(one, other, batch=40), [[1, cosine], [cosine, 1]], rtol=1e-6)


def test_layers_that_hardly_an_image_excites():
    x = np.random.default_rng(0).uniform(1, 2, size=(120, 9)).astype(np.float32)
    few = x * np.isin(np.arange(120), [7, 9, 30, 80])[:, None]  # three of the first batch, one of the second
    found = value_of(x, few, few[::-1], batch=60)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 1 + 1e-9
    for one_each in ([7], [7, 80]):  # the only image of its batch: its own HSIC is 0, and CKA would be the quotient of two roundings
        alone = x * np.isin(np.arange(120), one_each)[:, None]
        assert np.isnan(value_of(x, alone, batch=60)[0, 1])


def test_minibatches_estimate_the_full_value():
    one, other = two_layers(1200)
    whole = value_of(one, other, batch=1200)[0, 1]
    assert 0.3 < whole < 0.9
    assert value_of(one, other, batch=60)[0, 1] == pytest.approx(whole, abs=0.03)


def test_rotation_and_scale_change_nothing_and_independent_layers_have_nothing_in_common():
    rng = np.random.default_rng(1)
    x, wide = rng.normal(size=(200, 30)), rng.normal(size=(200, 5000))  # many more units than examples
    rotated = 7 * x @ np.linalg.qr(rng.normal(size=(30, 30)))[0] + 2
    assert value_of(x, rotated, batch=50)[0, 1] == pytest.approx(1, abs=1e-6)
    assert abs(value_of(x, wide, batch=50)[0, 1]) < 0.1
    assert np.isnan(value_of(x, np.ones((200, 3)), batch=50)[0, 1])
    with pytest.raises(ValueError, match="a batch of 3 examples; HSIC needs at least 4"):
        cka.hsic([np.eye(3)])


def test_filters_find_their_partners():
    rng = np.random.default_rng(0)
    kernels, order = rng.normal(size=(5, 5, 3, 12)), rng.permutation(12)
    matching = filters.match(kernels, 2 * kernels[..., order] + 0.1 * rng.normal(size=kernels.shape))
    np.testing.assert_array_equal(order[matching.partner], np.arange(12))
    assert matching.cosine.min() > 0.98
    assert matching.chance < 0.5


def test_pairs_are_counted():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    sure = np.log([0.9, 0.1])

    def network(*answers):
        return np.stack([sure if answer == 0 else sure[::-1] for answer in answers])

    first, second = network(0, 0, 0, 1, 1, 1, 1, 1), network(0, 0, 1, 1, 0, 1, 1, 1)  # wrong on {3}, and on {2, 3, 4}
    found = diversity.pairs(labels, np.stack([first, second, first]))
    assert found.disagreement[0, 1] == 2 / 8
    assert found.q[0, 1] == 1  # both right 5, neither 1, the first alone 2, the second alone 0
    assert found.kl[0, 1] == pytest.approx(2 / 8 * 0.8 * np.log(9))
    assert (found.disagreement[0, 2], found.kl[0, 2], found.gain[0, 2]) == (0, 0, 0)
    third = network(1, 0, 0, 0, 1, 1, 1, 1)
    assert diversity.pairs(labels, np.stack([first, third])).q[0, 1] == -1  # 6, 0, 1, 1
    better = diversity.pairs(labels, np.stack([first, np.where(np.arange(8)[:, None] == 3, np.log([0.95, 0.05]), first)]))
    assert better.gain[0, 1] == pytest.approx(1 / 16)  # errors 1/8 and 0, together 0


def test_the_page_of_a_run_and_of_itself_at_a_step(untrained_run, tmp_path, capsys):
    runs = [str(untrained_run), f"{untrained_run}@0"]
    asked = ["--layers", "fc6..fc7", "--split", "test[:80]", "--note", "untrained networks", "--out", str(tmp_path)]
    main(["--runs", *runs, "--members", "1", *asked])
    out = " ".join(capsys.readouterr().out.split())
    assert "Networks of run and of run at step 0 are most alike in fc6 (CKA 1.00)" in out  # they are one network
    assert "matched one to one" in out
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.png")) == ["depth.png", "filters.png", "layers.png", "pairs.png"]
    html = (tmp_path / "similarity.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert html.count(">untrained networks") == 1 + 4  # the headline, and every figure
    assert ">0: run, " in html  # below the pairs, which have numbers


def test_runs_of_one_name_are_told_apart_by_their_paths(untrained_run, tmp_path):
    shutil.copytree(untrained_run, tmp_path / "run")
    runs = [str(untrained_run), str(tmp_path / "run")]
    found = compare([networks_of(run, 1) for run in runs], "test[:80]", ["fc7"], None)
    assert found.groups == runs
    assert found.networks == [f"{run}, seed=0" for run in runs]
    found = compare([networks_of(run, 1) for run in [runs[0], f"{runs[1]}@0"]], "test[:80]", ["fc7"], None)
    assert found.groups == ["run", "run at step 0"]
    (tmp_path / "link").symlink_to(untrained_run)
    for twice in ([runs[0], str(tmp_path / "link")], [f"{runs[0]}@0", f"{runs[0]}@0"]):
        with pytest.raises(UserError, match=r"^run.* is named twice: each of its networks would count as two; leave it out once$"):
            compare([networks_of(run, 1) for run in twice], "test[:80]", ["fc7"], None)


def test_runs_on_other_images_are_refused(untrained_run, monkeypatch):
    groups = [networks_of(run, 1) for run in (str(untrained_run), f"{untrained_run}@0")]

    def opened(*datasets):
        found = iter(datasets)
        monkeypatch.setattr(compare_lib, "open_dataset", lambda *_: next(found))

    dataset = open_dataset(groups[0].subject, None)
    opened(dataset, dataclasses.replace(dataset, stats=dataset.stats._replace(std=dataset.stats.std + 1)))
    with pytest.raises(UserError, match="run is of the dataset digits, run at step 0 of another one of this name; compare runs of one"):
        compare(groups, "test[:80]", ["fc7"], None)
    same = {field: getattr(dataset, field) for field in ("name", "classes", "labels", "digest")}
    others = SimpleNamespace(**same, source=lambda _: dataset.source("test[80:160]"))
    opened(dataset, others)
    with pytest.raises(UserError, match=r"test\[:80\] of run at step 0 holds other examples than that of run; name one with --data-dir"):
        compare(groups, "test[:80]", ["fc7"], None)


def test_one_network_alone(untrained_run, tmp_path, capsys):
    main(["--runs", str(untrained_run), "--members", "1", "--layers", "fc6..fc7", "--split", "test[:80]", "--out", str(tmp_path)])
    assert "Of the layers of this one network, fc6 and fc7 are least alike (CKA 0." in " ".join(capsys.readouterr().out.split())


def test_a_network_that_says_the_same_of_every_image_is_left_out_and_named():
    values = np.array([[0.9, 0.5, np.nan], [0.7, 0.3, np.nan], [0.8, np.nan, np.nan]])  # pairs x layers
    found = SimpleNamespace(groups=["run"], between=lambda i, j: values, layers=["conv1", "conv5", "fc6"], matchings={}, networks=[0])
    assert in_words(found) == (
        "Two networks of run are most alike in conv1 (CKA 0.80) and least in conv5 (CKA 0.40); "
        "of two networks of run, in conv5, fc6 some put out the same for all images, or for all but one: such pairs are left out there."
    )


def test_the_last_layer_is_in_the_order_of_the_datasets_classes(untrained_run):
    subject = open_networks(untrained_run, "1", "last")
    dataset = open_dataset(subject, None)
    other = dataclasses.replace(dataset, classes=dataset.classes[::-1])
    turned = in_order(subject, other)
    np.testing.assert_array_equal(turned.params["fc8"]["kernel"], subject.params["fc8"]["kernel"][..., ::-1])
    np.testing.assert_array_equal(turned.params["fc7"]["kernel"], subject.params["fc7"]["kernel"])
    with pytest.raises(UserError, match="knows other classes than the dataset digits"):
        in_order(subject, dataclasses.replace(dataset, classes=tuple("abcdefghij")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "nowhere"], "nowhere is not a run directory"),
        (["--runs", "RUN@7"], "7"),
        (["--runs", "RUN", "--split", "test[:3]"], r"test\[:3\] holds 3 images; comparing takes at least 4"),
    ],
)
def test_mistakes_are_said(untrained_run, tmp_path, arguments, message):
    arguments = [argument.replace("RUN", str(untrained_run)) for argument in arguments]
    with pytest.raises(UserError, match=message):
        main([*arguments, "--out", str(tmp_path)])
