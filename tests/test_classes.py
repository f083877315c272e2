"""Classes are matched by their names: lists of names in every form, and runs on datasets in another order."""

import json
import shutil

import jax
import numpy as np
import pytest

from alexnet_jax import classes, evaluate, run
from alexnet_jax.errors import UserError
from alexnet_jax.report.network import network_sections
from alexnet_jax.report.write import write_report
from tests.test_weights import make_run


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nKätzchen\n",
        "cat\r\n  dog \r\nKätzchen\r\n\r\n",
        '["cat", "dog", "Kätzchen"]',
        ' [["cat", "a pet"], ["dog", "one more"], "Kätzchen"]',
        '{"0": "cat", "2": "Kätzchen", "1": "dog"}',
        '{"0": ["cat", "a pet"], "1": ["dog", "another"], "2": ["Kätzchen", ""]}',
        '{"dog": 1, "cat": 0, "Kätzchen": 2}',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names_in_every_form(text, encoding, tmp_path):
    (tmp_path / "names").write_bytes(text.encode(encoding))
    assert classes.read(tmp_path / "names", 3) == ("cat", "dog", "Kätzchen")


def test_words_behind_wordnet_ids_are_no_names(tmp_path):
    (tmp_path / "names").write_text("n01440764 tench, Tinca tinca\nn02119789: kit fox\nn00000001\n")
    assert classes.read(tmp_path / "names", 3) == ("n01440764", "n02119789", "n00000001")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cat\ndog\n", "names 2 classes, the network has 3"),
        (b"", "names 0 classes, the network has 3"),
        (b"cat\n\ndog\n", "line 2: '' is not a class name"),
        (b"0\tcat\n1\tdog\n2\tcow\n", r"line 1: '0\\tcat' is not a class name; write one name a line, or a JSON list or map"),
        (b"cat\ndog\ncat\n", "names both class 0 and class 2 'cat'"),
        (b"{0: 'cat',\n 1: 'dog'}", "begins like JSON and isn't"),
        (b'["cat", 5, "dog"]', "class 1 is 5 and not a name"),
        (b'["cat", "two\\nlines", "dog"]', r'class 1 is "two\\nlines" and not a name'),
        pytest.param(b"[" * 100_000, "begins like JSON and isn't", id="deep"),
        (b'["cat", "", "dog"]', 'class 1 is "" and not a name'),
        (b'{"0": "cat", "1": "dog", "3": "cow"}', "a JSON map, but not of the numbers 0 to 2 to names"),
        (b'{"classes": ["cat", "dog", "cow"]}', "a JSON map, but not of the numbers 0 to 0 to names"),
        (b'{"cat": 0, "dog": 0, "cow": 1}', "a JSON map, but not of the numbers 0 to 2 to names"),
        (b'[["cat", 1], ["dog", 0], ["cow", 2]]', r'class 0 is \["cat", 1\], a name with a number; write a list of names, or a map'),
        (b'{"0": ["cat", 0.5], "1": "dog", "2": "cow"}', r'class 0 is \["cat", 0.5\], a name with a number'),
        (b'{"0": "cat", "1": "dog", "0": "cow"}', "is a JSON map that has '0' twice; leave one of them out"),
        (b'{"cat": 0, "dog": 1, "cow": 2, "dog": 1}', "is a JSON map that has 'dog' twice"),
        (b'{"00": "cat", "0": "dog", "2": "cow"}', "a JSON map, but not of the numbers 0 to 2 to names"),
        pytest.param("café\ndog\ncafe\u0301\n".encode(), "names both class 0 and class 2 'caf\u00e9'", id="NFC and NFD"),
        (b"\x89PNG\r\n", "is not a text file in UTF-8"),
    ],
)
def test_what_is_no_list_of_names(data, message, tmp_path):
    (tmp_path / "names").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        classes.read(tmp_path / "names", 3)
    assert "\n" not in str(caught.value)


def test_words_of_wordnet_ids():
    assert classes.words(("n02119789", "cat", "n03126707")) == ("kit fox, Vulpes macrotis", "", "crane (machine)")
    assert classes.words(("cat", "n00000001")) == ()


def test_no_file_of_names(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*: No such file"):
        classes.read(tmp_path / "none", 3)


def test_places():
    assert classes.places(("a", "b", "c"), ("c", "a", "b")).tolist() == [2, 0, 1]
    assert classes.places(("caf\u00e9", "b"), ("b", "cafe\u0301")).tolist() == [1, 0]  # one name, written in two ways
    for others in (("a", "b"), ("a", "b", "d"), classes.unnamed(3)):
        assert classes.places(others, ("a", "b", "c")) is None


def test_imagenets_order():
    """FACTS of ILSVRC: the labels are the sorted WordNet ids; the first validation image's is n01751748, label 65."""
    ids = classes.imagenet()
    assert (len(set(ids)), ids[0], ids[65]) == (1000, "n01440764", "n01751748")


# --- evaluation ---


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits_dir):
    """A run on the digits, and the same network whose classes are in another order, have no names, or have others."""
    from alexnet_jax import config as config_lib

    directory = tmp_path_factory.mktemp("runs")
    config = config_lib.load(
        "configs/digits.py", [f"data.dir={digits_dir}", "model.width=0.04", "eval.batch_size=64", "ensemble.members=seeds=1"]
    )
    make_run(directory / "digits", config)
    order = np.random.default_rng(0).permutation(10)

    def renamed(name, names):
        make_run(directory / name, config, order if name == "shuffled" else None)
        record = json.loads((directory / name / "config.json").read_text())
        record["dataset"]["classes"] = names
        (directory / name / "config.json").write_text(json.dumps(record))

    renamed("shuffled", [str(place) for place in order])
    renamed("nameless", classes.unnamed(10))
    renamed("others", list("ABCDEFGHIJ"))
    return directory


def answers(workdir, **options):
    predictions, protocol = evaluate.predict_run(workdir, "test", **options)
    return predictions.log_probs, protocol["classes"]


def test_a_run_in_another_order_is_evaluated_through_its_names(runs):
    expected, how = answers(runs / "digits")
    assert np.ptp(expected) > 0.1
    found, also = answers(runs / "shuffled")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert how == also == "by name"
    with pytest.raises(UserError, match=r"--same-order: .*shuffled has the classes of the dataset digits in another order; leave it out"):
        answers(runs / "shuffled", same_order=True)


@pytest.mark.slow
def test_its_report_is_about_the_datasets_classes(runs):
    assert jax.tree.all(jax.tree.map(np.array_equal, run.load(runs / "digits").state.hyper, run.load(runs / "shuffled").state.hyper))
    pages = [write_report(runs / name, network_sections(runs / name)).read_text() for name in ("digits", "shuffled")]
    confusions = [page[page.index("Confusions") : page.index("Most confident mistakes")] for page in pages]
    assert confusions[0] == confusions[1]


def test_a_dataset_that_was_prepared_anew_is_told(runs, tmp_path, capsys):
    """Resuming refuses it; of an evaluation it says that images which were trained on may be among those of the split."""
    workdir = shutil.copytree(runs / "digits", tmp_path / "run")
    answers(workdir)
    assert capsys.readouterr().err == ""
    for field, changed in (("split_sizes", {"train": 1347, "validation": 90}), ("digests", {"train": "0123"})):
        record = json.loads((runs / "digits" / "config.json").read_text())
        record["dataset"][field] |= changed
        (workdir / "config.json").write_text(json.dumps(record))
        answers(workdir)
        assert "run was trained on another version of the dataset digits" in capsys.readouterr().err


def test_a_run_without_names(runs, tmp_path):
    expected, _ = answers(runs / "digits")
    message = r"nameless has no names for its 10 classes; .* --classes FILE .* --same-order .* \(0, 1, 2, 3, \.\.\.\)"
    with pytest.raises(UserError, match=message):
        answers(runs / "nameless")
    found, how = answers(runs / "nameless", same_order=True)
    assert np.array_equal(found, expected)
    assert how == "in the same order"
    (tmp_path / "names").write_text("\n".join("0123456789"))
    assert np.array_equal(answers(runs / "nameless", classes_file=tmp_path / "names")[0], expected)
    (tmp_path / "names").write_text("\n".join("1023456789"))
    found, how = answers(runs / "nameless", classes_file=tmp_path / "names")
    np.testing.assert_allclose(found, expected[..., [1, 0, *range(2, 10)]], rtol=1e-5)
    assert how == "by name"


def test_a_run_with_other_names(runs, tmp_path):
    with pytest.raises(
        UserError, match="others knows other classes than the dataset digits, 'A' and not '0'; evaluate with --same-order if"
    ):
        answers(runs / "others")
    assert np.array_equal(answers(runs / "others", same_order=True)[0], answers(runs / "digits")[0])
    (tmp_path / "names").write_text("\n".join("0123456789"))
    with pytest.raises(UserError, match=r"--classes .*: .*others has names for its classes, as 'A'; leave it out"):
        answers(runs / "others", classes_file=tmp_path / "names")


def test_the_command_takes_names(runs, tmp_path, capsys):
    (tmp_path / "names").write_text(json.dumps(list("0123456789")))
    evaluate.main(["--run", str(runs / "nameless"), "--classes", str(tmp_path / "names"), "--json", str(tmp_path / "by-name.json")])
    evaluate.main(["--run", str(runs / "shuffled"), "--json", str(tmp_path / "shuffled.json")])
    result = json.loads((tmp_path / "by-name.json").read_text())
    assert result["top1_error"][0] == pytest.approx(json.loads((tmp_path / "shuffled.json").read_text())["top1_error"][0])
    assert result["protocol"]["classes"] == "by name"
    with pytest.raises(SystemExit):
        evaluate.main(["--run", "x", "--classes", "y", "--same-order"])
    assert "not allowed with" in capsys.readouterr().err
