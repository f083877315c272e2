"""Configs: Python files with `get_config(arg)`, and overrides of their fields on the command line.

Every command that trains loads its config here. An unknown field is an error that names the nearest known field.

    config = load("configs/digits.py:members=3", ["optimizer.learning_rate=.003"])

As a command it prints a config with all its fields, or the fields that differ between two configs:

    python -m alexnet_jax.config configs/digits.py
    python -m alexnet_jax.config configs/digits.py configs/imagenet.py
"""

import argparse
import ast
import errno
import json
import os
import sys
import traceback
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.errors import UserError, did_you_mean, run_cli

COMPLETE = Path(__file__).parents[1] / "configs" / "imagenet.py"  # the config that has every field
SECTIONS = ("data", "augment", "model", "optimizer", "plateau", "ensemble", "train", "parallel", "eval")  # in the order of the pipeline
Value = bool | int | float | str | tuple
_SWITCH = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}
PATHS = ("data.dir", "train.init_from", "plateau.mode")  # fields that hold a path, perhaps one that begins with ~
SHOWN = 80  # letters of a value in an error


def new_config() -> ConfigDict:
    """A config with all sections and no fields yet. It keeps its fields in the order in which they are written."""
    config = ConfigDict(sort_keys=False)
    for section in SECTIONS:
        config[section] = ConfigDict(sort_keys=False)
    return config


def add_arguments(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the arguments of a command that takes a config, by default this one. `parse_command_line` reads them."""
    about = f"a config file (default: {default})" if default else "a config file, such as configs/digits.py"
    parser.add_argument("--config", required=not default, default=default, metavar="FILE[:ARG=VALUE,...]", help=about)
    parser.epilog = "Any config field can be changed: --config.SECTION.FIELD=VALUE. python -m alexnet_jax.config FILE lists all fields."


def parse_command_line(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line, and collect each `--config.section.field=value` or `--config.section.field value` in `overrides`.

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
                raise UserError(f"{word} needs a value; write {word}=VALUE")
            word = f"{word}={words.pop(0)}"
        overrides.append(word.removeprefix("--config."))
    args, unknown = parser.parse_known_args(others)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings] + ["--config.SECTION.FIELD=VALUE"]
        raise UserError(f"unknown argument {unknown[0]!r}{did_you_mean(unknown[0].split('=')[0], options)}")
    args.overrides = overrides
    return args


def split(spec: str) -> tuple[str, str]:
    """The file and the argument of `FILE.py:ARG`. A folder may have a colon in its name, and `~` is the home directory."""
    path, ending, arg = spec.partition(".py:")
    return _at_home(path + ending.rstrip(":")), arg


def load(spec: str, overrides: Iterable[str] = ()) -> ConfigDict:
    """Load the config `FILE` or `FILE:ARG`, apply the overrides `section.field=value`, and lock the config.

    Raises:
      UserError: the file does not exist or has no `get_config`, an argument or field is unknown, or a value has the wrong type.
    """
    path, arg = split(spec)
    if not os.path.isfile(path):
        files = sorted(str(file) for file in Path("configs").glob("[!_]*.py"))
        raise UserError(f"no config file {path}{did_you_mean(path, files)}")
    config = _read(path, arg)
    _check_fields(path, config)
    for override in overrides:
        name, _, text = override.partition("=")
        _set(config, name, text)
    for name in PATHS:
        section, field = name.split(".")
        replay = "replay:" if config[section][field].startswith("replay:") else ""
        text = config[section][field].removeprefix(replay)
        config[section][field] = replay + (_at_home(text) if text or name == "data.dir" else "")
    return config.lock()


def count(text: str) -> int:
    """A whole number of the command line, 0 or more, for `type=`.

    Raises:
      argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def positive(text: str) -> int:
    """A whole number of the command line, at least 1, for `type=`.

    Raises:
      argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def path(text: str) -> Path:
    """A path of the command line, for `type=`: `~` is the home directory wherever it stands, as in --workdir=~/runs.

    Raises:
      UserError: it is empty or can't be a path, or nothing says where the home directory is.
    """
    return Path(_at_home(text))


def _at_home(text: str) -> str:
    """A path with `~` as the home directory: the shell leaves a ~ alone that doesn't begin a word. An empty one would be this directory."""
    if not text:
        raise UserError("a path is empty, as of a shell's variable that isn't set; write . for this directory")
    found = os.path.expanduser(text)
    if found.startswith("~"):
        raise UserError(f"{text}: nothing says where this home directory is; write the path out, or ./{text} for a file of that name")
    try:
        os.lstat(found)
    except ValueError as error:  # a zero byte, half a letter
        raise UserError(f"{text!r} can't be a path: {error}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{_shown(text)} can't be a path: {error.strerror}") from None
    return found


def parse_arg(arg: str, **defaults: Value) -> SimpleNamespace:
    """Parse a config's string argument `name=value,name=value`. Each value gets the type of its default.

    Raises:
      UserError: a name is unknown, or a value has the wrong type.
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
    """Convert `text` to the type of `like`.

    Raises:
      UserError: `text` is not a value of that type.
    """
    try:
        if isinstance(like, bool):
            return _SWITCH[text.lower()]
        if isinstance(like, int):
            value = number(text)
            return int(value) if value == int(value) and abs(value) < 2**63 else int("not whole")
        if isinstance(like, float):
            return float(text)
        if isinstance(like, tuple):
            value = ast.literal_eval(text)
            kind = type(like[0]) if like else float
            if not isinstance(value, tuple | list) or not all(isinstance(item, kind | int) for item in value):
                raise ValueError
            return tuple(map(kind, value))
    except (KeyError, ValueError, TypeError, SyntaxError, OverflowError, RecursionError, MemoryError):  # literal_eval has many
        kinds = {bool: "true or false", int: "a whole number below 2^63", float: "a number", tuple: f"a tuple such as {like}"}
        raise UserError(f"{name}={_shown(text)}: expected {kinds[type(like)]}") from None
    return text


def number(text: str) -> int | float:
    """A number: whole numbers keep all their digits, which a float would lose from 2^53 on.

    Raises:
      ValueError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        return float(text)


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} letters)"


def flat(config: ConfigDict) -> dict[str, Value]:
    """`{"section.field": value}` in the config's order."""
    return {f"{section}.{field}": value for section, fields in config.items() for field, value in fields.items()}


def from_json(fields: dict[str, dict[str, Any]]) -> ConfigDict:
    """The config that was written as JSON. Lists become tuples, since JSON has no tuples."""
    tuples = {s: {f: tuple(v) if isinstance(v, list) else v for f, v in section.items()} for s, section in fields.items()}
    config = new_config()
    config.update(tuples)
    return config.lock()


def differences(before: ConfigDict, after: ConfigDict) -> dict[str, tuple[Value | None, Value | None]]:
    """The fields whose values differ: `{"section.field": (before, after)}`, None where a config does not have the field."""
    old, new = flat(before), flat(after)
    return {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}


def _read(path: str, arg: str) -> ConfigDict:
    """The config that a config file makes of an argument."""
    module = ModuleType("config_file")
    module.__file__ = path
    try:
        SourceFileLoader("config_file", path).exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"config file {path} has no get_config(arg)")
        config = module.get_config(arg)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a config is a program: it may do anything wrong
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        where = f", line {lines[-1]}" if lines else ""
        raise UserError(f"config file {path}{where} can't be read: {error.args[0] if error.args else type(error).__name__}") from None
    if not isinstance(config, ConfigDict):
        raise UserError(f"config file {path}: get_config returns {type(config).__name__}, no config; end it with `return config`")
    return config


def _check_fields(path: str, config: ConfigDict) -> None:
    """Refuse a config that lacks a field of the others, as one of an earlier version may, or has one that nobody reads."""
    outside = [name for name, section in config.items() if not isinstance(section, ConfigDict)]
    if outside:
        raise UserError(f"config file {path} has {outside[0]} in no section; the sections are {', '.join(SECTIONS)}")
    known, found = flat(_read(str(COMPLETE), "")), flat(config)
    for name in found:
        if name not in known:
            raise UserError(f"config file {path} has the unknown field {name}{did_you_mean(name, known)}")
    if missing := [name for name in known if name not in found]:
        named = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
        raise UserError(
            f"config file {path} lacks {named}; start from one of configs/, as configs/digits.py does, or add what imagenet.py has"
        )


def _set(config: ConfigDict, name: str, text: str) -> None:
    known = flat(config)
    if name not in known:
        raise UserError(f"unknown config field {name}{did_you_mean(name, known)}")
    section, field = name.split(".")
    config[section][field] = convert(text, known[name], f"--config.{name}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m alexnet_jax.config", description="Print a config with all its fields, or the differences between two."
    )
    parser.add_argument("file", help="FILE or FILE:ARG=VALUE,...")
    parser.add_argument("other", nargs="?", help="a second config: print only the fields that differ")
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
