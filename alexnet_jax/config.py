"""Configs: Python files with `get_config(arg)`, overrides on the command line, and errors that name the nearest valid field.

python -m alexnet_jax.config configs/digits.py                        the resolved config
python -m alexnet_jax.config configs/digits.py configs/imagenet.py    what differs between two
"""

import argparse
import ast
import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.errors import UserError, did_you_mean, run_cli

SECTIONS = ("data", "augment", "model", "optimizer", "plateau", "ensemble", "train", "eval")  # in the order of the pipeline
Value = bool | int | float | str | tuple
_SWITCH = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}


def new_config() -> ConfigDict:
    """A config with its sections, still empty, which keeps its fields in the order in which they are written."""
    config = ConfigDict(sort_keys=False)
    for section in SECTIONS:
        config[section] = ConfigDict(sort_keys=False)
    return config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command-line arguments of a command that takes a config; read them with `parse_command_line`."""
    parser.add_argument("--config", required=True, metavar="FILE[:ARG=VALUE,...]", help="a config file, such as configs/digits.py")
    parser.epilog = "Any field of the config can be changed: --config.SECTION.FIELD=VALUE. python -m alexnet_jax.config FILE lists them."


def parse_command_line(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """`parser.parse_args`, with every `--config.section.field=value` or `--config.section.field value` collected in `overrides`.

    Raises:
      UserError: an unknown argument, or an override without a value.
    """
    words, others, overrides = list(sys.argv[1:] if argv is None else argv), [], []
    while words:
        word = words.pop(0)
        if not word.startswith("--config."):
            others.append(word)
            continue
        if "=" not in word:
            if not words or words[0].startswith("--"):
                raise UserError(f"{word} needs a value, as {word}=VALUE")
            word = f"{word}={words.pop(0)}"
        overrides.append(word.removeprefix("--config."))
    args, unknown = parser.parse_known_args(others)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings] + ["--config.SECTION.FIELD=VALUE"]
        raise UserError(f"unknown argument {unknown[0]!r}{did_you_mean(unknown[0].split('=')[0], options)}")
    args.overrides = overrides
    return args


def load(spec: str, overrides: Iterable[str] = ()) -> ConfigDict:
    """The config of `FILE` or `FILE:ARG`, with overrides `section.field=value` applied; locked.

    Raises:
      UserError: no such file, one without `get_config`, an unknown argument or field, or a value of another type.
    """
    path, _, arg = spec.partition(":")
    if not Path(path).is_file():
        files = sorted(str(file) for file in Path("configs").glob("[!_]*.py"))
        raise UserError(f"no config file {path}{did_you_mean(path, files)}")
    module_spec = importlib.util.spec_from_file_location("config_file", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError) as error:
        raise UserError(f"config file {path} can't be read: {error}") from None
    if not hasattr(module, "get_config"):
        raise UserError(f"config file {path} has no get_config(arg)")
    try:
        config = module.get_config(arg)
    except (AttributeError, KeyError, TypeError, ValueError, NameError) as error:
        raise UserError(f"config file {path}: {error.args[0] if error.args else error}") from None
    for override in overrides:
        name, _, text = override.partition("=")
        _set(config, name, text)
    return config.lock()


def parse_arg(arg: str, **defaults: Value) -> SimpleNamespace:
    """A config's string argument `name=value,name=value`, typed by the defaults.

    Raises:
      UserError: an unknown name, or a value of another type.
    """
    values = dict(defaults)
    for item in filter(None, arg.split(",")):
        name, equals, text = item.partition("=")
        if name not in values:
            raise UserError(f"config argument {name!r} is not known{did_you_mean(name, values)}")
        if not equals and isinstance(values[name], bool):
            text = "on"
        values[name] = convert(text, defaults[name], f"config argument {name}")
    return SimpleNamespace(**values)


def convert(text: str, like: Value, name: str) -> Value:
    """The value that `text` writes, of the type of `like`.

    Raises:
      UserError: it writes none of that type.
    """
    try:
        if isinstance(like, bool):
            return _SWITCH[text.lower()]
        if isinstance(like, int):
            value = float(text)
            return int(value) if value == int(value) else int("not whole")
        if isinstance(like, float):
            return float(text)
        if isinstance(like, tuple):
            value = ast.literal_eval(text)
            kind = type(like[0]) if like else float
            if not isinstance(value, tuple | list) or not all(isinstance(item, kind | int) for item in value):
                raise ValueError
            return tuple(map(kind, value))
    except (KeyError, ValueError, SyntaxError, OverflowError):
        kinds = {bool: "true or false", int: "a whole number", float: "a number", tuple: f"a tuple such as {like}"}
        raise UserError(f"{name}={text}: expected {kinds[type(like)]}") from None
    return text


def flat(config: ConfigDict) -> dict[str, Value]:
    """`{"section.field": value}` in the config's order."""
    return {f"{section}.{field}": value for section, fields in config.items() for field, value in fields.items()}


def from_json(fields: dict[str, dict[str, Any]]) -> ConfigDict:
    """The config that was written as JSON (which has no tuples)."""
    tuples = {s: {f: tuple(v) if isinstance(v, list) else v for f, v in section.items()} for s, section in fields.items()}
    config = new_config()
    config.update(tuples)
    return config.lock()


def differences(before: ConfigDict, after: ConfigDict) -> dict[str, tuple[Value | None, Value | None]]:
    """The fields whose values differ: `{"section.field": (before, after)}`, None where one has no such field."""
    old, new = flat(before), flat(after)
    return {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}


def _set(config: ConfigDict, name: str, text: str) -> None:
    known = flat(config)
    if name not in known:
        raise UserError(f"unknown config field {name}{did_you_mean(name, known)}")
    section, field = name.split(".")
    config[section][field] = convert(text, known[name], f"--config.{name}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m alexnet_jax.config", description="Print a resolved config, or what differs between two.")
    parser.add_argument("file", help="FILE or FILE:ARG=VALUE,...")
    parser.add_argument("other", nargs="?", help="a second one, to print only what differs")
    args = parser.parse_args(argv)
    config = load(args.file)
    if args.other is None:
        for name, value in flat(config).items():
            print(f"{name} = {json.dumps(value)}")
        return
    for name, (before, after) in differences(config, load(args.other)).items():
        print(f"{name}: {json.dumps(before)} -> {json.dumps(after)}")


if __name__ == "__main__":
    run_cli(main)
