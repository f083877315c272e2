"""A run's config.json: its form, and how it is read. run.py writes it; run.py and the report read it.

config      {section: {field: value}}, all fields of the config
dataset     name, classes, image_shape, split_sizes, stats and more, as `data.Dataset.describe` says
versions    {package: version};  devices  [in words];  xla_flags, command  of the last process;  processes  the same of those before
image_order, numerics, resampling, replayed    see run.write_config

record = read_config("runs/digits")
record["config"]["train"]["epochs"]
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError

CONFIG = "config.json"


def read_config(workdir: str | Path) -> dict[str, Any]:
    """The content of a run directory's config.json; it has the form above, but only the config is sure to be there.

    Raises:
      UserError: it isn't a run directory, or the file can't be read, is damaged or holds something of another form.
    """
    record, advice = read_record(workdir), "pass a directory that alexnet_jax.train made"
    if not record and not (Path(workdir) / CONFIG).exists():
        raise UserError(f"{workdir} is not a run directory: it has no {CONFIG}; {advice}")
    if "config" not in record:
        raise UserError(f"{workdir} is not a run directory: its {CONFIG} describes no run; {advice}")
    return record


def machine(record: dict[str, Any]) -> str:
    """The devices and versions of a run, in words."""
    versions = record.get("versions", {})
    devices = ", ".join(record.get("devices", ["unknown devices"]))
    return f"{devices}; jax {versions.get('jax', 'unknown')}, python {versions.get('python', 'unknown')}"


def read_record(workdir: str | Path) -> dict[str, Any]:
    """What a directory's config.json holds, any part of which may be missing; empty if there is no such file.

    Raises:
      UserError: the file can't be read, is damaged or holds something of another form.
    """
    path = Path(workdir) / CONFIG
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error})") from None
    if not isinstance(record, dict):
        raise UserError(f"{workdir} is not a run directory: its {CONFIG} describes no run; pass a directory that alexnet_jax.train made")
    wrong = [name for name, fits in _FORM.items() if name in record and not fits(record[name])]
    if wrong:
        raise UserError(f"{path} is damaged: its {wrong[0]} is not of the form that alexnet_jax.train writes")
    return record


def _is_config(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(section, dict) and all(map(_is_value, section.values())) and not any("." in name for name in section)
        for section in value.values()
    )


def _is_value(value: Any) -> bool:
    """A field's: a number, a text, or a list of numbers."""
    return isinstance(value, bool | str) or _is_number(value) or _are(value, _is_number)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are(value: Any, each: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(each, value))


def _is_dataset(value: Any) -> bool:
    fields: dict[str, Callable[[Any], bool]] = {
        "name": _is_text,
        "classes": lambda classes: _are(classes, _is_text),
        "class_words": lambda words: _are(words, _is_text) and len(words) == len(value.get("classes", ())),
        "image_shape": lambda shape: _are(shape, _is_count) and len(shape) == 3,
        "split_sizes": lambda sizes: isinstance(sizes, dict) and all(map(_is_count, sizes.values())),
        "stats": lambda stats: isinstance(stats, dict),
        "resize": _is_text,
        "interpolation": _is_text,
        "digests": lambda digests: isinstance(digests, dict) and all(map(_is_text, digests.values())),
    }
    return isinstance(value, dict) and all(fits(value[name]) for name, fits in fields.items() if name in value)


def _are_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


_FORM: dict[str, Callable[[Any], bool]] = {
    "config": _is_config,
    "dataset": _is_dataset,
    "versions": _are_versions,
    "devices": lambda devices: _are(devices, _is_text),
    "xla_flags": _is_text,
    "command": _is_text,
    "numerics": lambda numerics: isinstance(numerics, dict),
    "resampling": lambda form: form in ("gather", "shear"),
    "processes": lambda processes: isinstance(processes, list),
    "replayed": lambda changes: changes is None or isinstance(changes, list),
}
