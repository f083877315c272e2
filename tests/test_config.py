import re
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError

CONFIGS = sorted(str(path) for path in Path("configs").glob("*.py") if path.name != "__init__.py")
SECTIONS = ["data", "augment", "model", "optimizer", "plateau", "ensemble", "train", "eval"]


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_loads_and_locks(path):
    config = config_lib.load(path)
    assert list(config) == SECTIONS
    assert config.is_locked
    with pytest.raises(AttributeError):
        config.train.epoch = 3
    assert config_lib.from_json(__import__("json").loads(config.to_json())).to_dict() == config.to_dict()


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_tells_its_own_command(path):
    assert f"python -m alexnet_jax.train --config {path}" in Path(path).read_text()


def test_every_field_is_read():
    """By attribute or by name, somewhere in the package: a field that nothing reads is a dead knob."""
    source = "\n".join(path.read_text() for path in Path("alexnet_jax").glob("*.py"))
    by_table = {field: "field.name for field in dataclasses.fields(Architecture)" for field in config_lib.load(CONFIGS[0]).model}
    by_table |= {field: "for name in AUGMENTATIONS" for field in config_lib.load(CONFIGS[0]).augment}
    for name in config_lib.flat(config_lib.load(CONFIGS[0])):
        section, field = name.split(".")
        patterns = [rf"config\.{section}\.{field}\b", rf"\b(section|settings|optimizer|model|data|arch)\.{field}\b"]
        direct = any(re.search(pattern, source) for pattern in patterns)
        assert direct or by_table.get(field, "!") in source, f"nothing reads {name}"


def test_imagenet_is_the_source_documents_recipe():
    config = config_lib.load("configs/imagenet.py")
    assert config.train.batch_size == 128
    assert config.optimizer.to_dict() == {"learning_rate": 1e-2, "momentum": 0.9, "weight_decay": 5e-4, "rule": "paper", "bias": "same"}
    assert (config.plateau.factor, config.train.epochs) == (0.1, 90)
    assert (config.model.dropout, config.model.lrn, config.model.input_size, config.model.width) == (0.5, True, 227, 1)
    assert all(config.augment[name] > 0 for name in config.augment)
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
        ("configs/digits.py:member=7", [], "'member' is not known; did you mean members?; known: members, lrn"),
        ("configs/digits.py:members=x", [], "config argument members=x: expected a whole number"),
        ("configs/digits.py", ["modle.lrn=False"], "unknown config field modle.lrn; did you mean model.lrn?"),
        ("configs/digits.py", ["learning_rate=1"], "did you mean optimizer.learning_rate?"),
        ("configs/digits.py", ["model.lrn=maybe"], "--config.model.lrn=maybe: expected true or false"),
        ("configs/digits.py", ["train.batch_size=1.5"], "expected a whole number"),
        ("configs/digits.py", ["train.epochs=many"], "expected a number"),
        ("configs/digits.py", ["model.filters=3"], "expected a tuple"),
        ("configs/imagenet.py:variant=vgg", [], "unknown model variant 'vgg'; known: seed"),
    ],
)
def test_errors_name_the_nearest(spec, overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        config_lib.load(spec, overrides)


def test_broken_config_file(tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(UserError, match="can't be read: No module named"):
        config_lib.load(str(tmp_path / "broken.py"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.modle.lrn=False"], "unknown config field modle.lrn; did you mean model.lrn?"),
        (["--confg=x"], "unknown argument '--confg=x'; did you mean --config?"),
        (["--config.model.lrn"], "needs a value"),
        (["model.lrn=False"], "overrides are written --config.section.field=value"),
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
