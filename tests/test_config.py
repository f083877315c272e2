import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax import data
from alexnet_jax.errors import UserError
from alexnet_jax.hyper import AUGMENTATIONS
from alexnet_jax.model.architecture import Architecture
from alexnet_jax.train.loop import train

CONFIGS = sorted(str(path) for path in Path("configs").glob("*.py") if path.name != "__init__.py")
SECTIONS = ["data", "augment", "model", "optimizer", "plateau", "ensemble", "train", "parallel", "eval"]


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_loads_and_locks(path):
    config = config_lib.load(path)
    assert list(config) == SECTIONS
    assert config.is_locked
    with pytest.raises(AttributeError):
        config.train.epoch = 3
    assert config_lib.from_json(json.loads(config.to_json())).to_dict() == config.to_dict()


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_tells_its_own_command(path):
    assert f"python -m alexnet_jax.train --config {path}" in Path(path).read_text()


def test_every_field_is_read(tiny_config, tmp_path, monkeypatch):
    """A field that nothing reads is a dead knob: a whole run is watched, and the reading of a dataset that isn't there."""
    config, read = tiny_config("train.epochs=0.1"), set()
    sections = {id(config[section]): section for section in config}

    def watched(method):
        def watch(section, field):
            if id(section) in sections:
                read.add(f"{sections[id(section)]}.{field}")
            return method(section, field)

        return watch

    for method in ("__getattr__", "__getitem__"):
        monkeypatch.setattr(ConfigDict, method, watched(getattr(ConfigDict, method)))
    train(config, tmp_path / "run")
    config.unlock().data.update({"name": "nothing", "dir": str(tmp_path)})
    with pytest.raises(UserError, match="no dataset"):
        data.load(config.data)
    assert set(config_lib.flat(config)) <= read
    # The model's fields are all read into an Architecture, so look at what reads that.
    source = "".join(Path(f"alexnet_jax/model/{file}.py").read_text() for file in ("architecture", "alexnet"))
    assert all(re.search(rf"\b(arch|self)\.{field.name}\b", source) for field in dataclasses.fields(Architecture))


def test_imagenet_is_the_study_posts_recipe():
    config = config_lib.load("configs/imagenet.py")
    assert config.train.batch_size == 128
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay, optimizer.rule) == (1e-2, 0.9, 5e-4, "paper")
    assert (optimizer.schedule, config.plateau.mode, config.plateau.factor, config.train.epochs) == ("constant", "auto", 0.1, 90)
    assert (config.model.dropout, config.model.lrn, config.model.input_size, config.model.width) == (0.5, True, 227, 1)
    assert all(config.augment[name] > 0 for name in AUGMENTATIONS)
    assert config_lib.load("configs/imagenet.py:members=7").ensemble.members == "seeds=7"


def test_arguments_and_overrides():
    config = config_lib.load(
        "configs/digits.py:members=3,lrn=off", ["train.epochs=2", "optimizer.learning_rate=1", "model.filters=(8,8,8,8,8)"]
    )
    assert config.ensemble.members == "seeds=3"
    assert config.model.lrn is False
    assert config.train.epochs == 2.0
    assert isinstance(config.optimizer.learning_rate, float)
    assert config.model.filters == (8, 8, 8, 8, 8)


@pytest.mark.parametrize(
    ("spec", "overrides", "message"),
    [
        ("configs/digit.py", [], "no config file configs/digit.py; did you mean configs/digits.py?"),
        ("configs/__init__.py", [], "has no get_config"),
        ("configs/digits.py:member=7", [], "'member' is not known; did you mean members? Known: members, lrn"),
        ("configs/digits.py:members=x", [], "config argument members=x: expected a whole number"),
        ("configs/digits.py", ["modle.lrn=False"], "unknown config field modle.lrn; did you mean model.lrn?"),
        ("configs/digits.py", ["learning_rate=1"], "did you mean optimizer.learning_rate?"),
        ("configs/digits.py", ["model.lrn=maybe"], "--config.model.lrn=maybe: expected true or false"),
        ("configs/digits.py", ["train.batch_size=1.5"], "expected a whole number"),
        ("configs/digits.py", ["train.epochs=many"], "expected a number"),
        ("configs/digits.py", ["model.filters=3"], "expected a tuple"),
        ("configs/imagenet.py:variant=vgg", [], "unknown model variant 'vgg'; known: one_tower"),
    ],
)
def test_errors_name_the_nearest(spec, overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        config_lib.load(spec, overrides)


def test_broken_config_file(tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(UserError, match="can't be read: No module named"):
        config_lib.load(str(tmp_path / "broken.py"))


def changed(statement):
    return (
        f"from configs import digits\ndef get_config(arg):\n    config = digits.get_config().unlock()\n    {statement}\n    return config\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(arg=''):\n    pass\n", "get_config returns NoneType, no config; end it with `return config`"),
        ("def get_config(arg=''):\n    return 1 / 0\n", "line 2 can't be read: division by zero"),
        ("1 +\n", "can't be read"),
        ("\0", "can't be read"),
        (
            changed("del config.data['threads'], config.eval['batch_size']"),
            "mine.txt lacks data.threads, eval.batch_size; start from one of",
        ),
        (changed("config.train.epoch = 3.0"), "mine.txt has the unknown field train.epoch; did you mean train.epochs?"),
        (changed("config.name = 'mine'"), "mine.txt has name in no section; the sections are data, augment, model"),
        ("import sys\nsys.exit(0)\n", "line 2 can't be read: 0"),
        ("x = [].pop()\n", "line 1 can't be read: pop from empty list"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(text, message, tmp_path):
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        config_lib.load(str(tmp_path / "mine.txt"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.filters=" + "-" * 9000 + "1", "expected a tuple such as (96, 256, 384, 384, 256)"),
        ("model.filters=" + "(" * 100_000, "expected a tuple"),
        ("train.batch_size=1e30", "expected a whole number below 2^63"),
        ("train.batch_size=" + "9" * 5000, "... (5,000 letters): expected a whole number"),
        ("data.dir=" + "x/" * 3000, "can't be a path: File name too long"),
        ("data.dir=a\0b", "can't be a path: embedded null byte"),
        ("train.init_from=\ud800", "can't be a path"),
        ("plateau.mode=replay:~no_such_user/run", "~no_such_user/run: nothing says where this home directory is"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_short_line(override, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        config_lib.load("configs/digits.py", [override])
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_a_whole_number_keeps_its_digits():
    assert config_lib.load("configs/digits.py", ["data.seed=9007199254740993"]).data.seed == 2**53 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.modle.lrn=False"], "unknown config field modle.lrn; did you mean model.lrn?"),
        (["--confg=x"], "unknown argument '--confg=x'; did you mean --config?"),
        (["--config.model.lrn"], "needs a value"),
        (["model.lrn=False"], "unknown argument 'model.lrn=False'; known: -h, --help, --config, --workdir, "),
    ],
)
def test_command_line_errors_are_one_line(arguments, message, tmp_path):
    command = [sys.executable, "-m", "alexnet_jax.train", "--config", "configs/digits.py", "--workdir", str(tmp_path), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert message in process.stderr
    assert process.stderr.count("\n") == 1


def test_print_and_difference(capsys):
    config_lib.main(["configs/digits.py"])
    assert 'data.name = "digits"' in capsys.readouterr().out
    config_lib.main(["configs/digits.py:members=7", "configs/digits.py:members=2"])
    assert capsys.readouterr().out == 'ensemble.members: "seeds=7" -> "seeds=2"\n'


def test_a_config_that_starts_from_another_cannot_misspell_a_field(tmp_path):
    file = tmp_path / "mine.py"
    text = "from configs import imagenet\ndef get_config(arg=''):\n    config = imagenet.get_config(arg)\n"
    file.write_text(f"{text}    config.optimizer.learning_rat = 0.5\n    return config\n")
    with pytest.raises(UserError, match=r"config file .*mine\.py, line 4 can't be read: .*learning_rat"):
        config_lib.load(str(file))


def test_a_tilde_is_the_home_directory_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert config_lib.path("~/runs/x") == Path("/home/somebody/runs/x")
    config = config_lib.load("configs/digits.py", ["data.dir=~/data", "train.init_from=~/runs/a", "plateau.mode=replay:~/runs/b"])
    assert (config.data.dir, config.train.init_from) == ("/home/somebody/data", "/home/somebody/runs/a")
    assert config.plateau.mode == "replay:/home/somebody/runs/b"


def test_a_config_file_wherever_it_lies(monkeypatch, tmp_path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "mine.py").write_text("from configs.digits import get_config\n")
    monkeypatch.setenv("HOME", str(folder))
    for spec in (f"{folder}/mine.py:members=3", "~/mine.py:members=3"):  # as in --config=~/mine.py:members=3
        assert config_lib.load(spec).ensemble.members == "seeds=3"
    assert config_lib.load(f"{folder}/mine.py").ensemble.members == "seeds=7"


def test_an_empty_path_is_not_this_directory():
    with pytest.raises(UserError, match=r"a path is empty, as of a shell's variable that isn't set; write \. for this directory"):
        config_lib.path("")
    with pytest.raises(UserError, match="a path is empty"):
        config_lib.load("configs/digits.py", ["data.dir="])
    assert config_lib.load("configs/digits.py", ["train.init_from="]).train.init_from == ""
