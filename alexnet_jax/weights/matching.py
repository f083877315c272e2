"""Which tensors of a file are a network's.

The readers (formats.py) call it:

    check(path, tensors, {"conv1.kernel": (11, 11, 3, 96), ...})        # of a file that holds one network, by its own names
    tensors, notes = find(path, tree, shapes_of)   # of one that may hold a network anywhere

People save a network under a name (`state_dict`, `model`), beside its moving average, inside another module (Lightning's `model.`), or
wrapped (DataParallel adds `module.`, around the whole network or around its features; torch.compile adds `_orig_mod.`). Each of these is a
prefix of the tensors' names: `find` searches the one prefix under which the file has every tensor of the network.
"""

import collections
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from alexnet_jax.errors import UserError, did_you_mean

Shapes = Mapping[str, tuple[int, ...]]
WRAPPERS = ("module", "_orig_mod")  # what DataParallel and torch.compile put into a name
SHOWN = 3  # differences in an error


class Tensor(Protocol):
    """What is asked of a tensor before its numbers are read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...


class _Found(NamedTuple):
    """A tensor in a tree: where the dict stands that holds it, its name there, and itself."""

    place: str
    name: str
    tensor: Any


class _Candidate(NamedTuple):
    """The tensors under one prefix, by their names without it."""

    prefix: str  # "state_dict.module."
    tensors: dict[str, Any]
    wrapped: str  # the wrapper inside names: "module", as in features.module.0.weight
    wrong: list[str]  # in what they differ from the network's


def check(path: Path, tensors: Mapping[str, Tensor], expected: Shapes) -> None:
    """Hold the tensors of a file against the names and shapes that a network has.

    Raises:
      UserError: they differ; the message names in what, the nearest first.
    """
    if wrong := differences(tensors, expected):
        raise UserError(f"{path} holds another network: {_some(wrong)}")
    for name in expected:
        if tensors[name].dtype != np.float32:
            raise UserError(f"{path}: {name} is {tensors[name].dtype}, it must be float32")


def differences(tensors: Mapping[str, Tensor], expected: Shapes) -> list[str]:
    """In what tensors differ from a network's, in words: other shapes, then what is missing, then what is too many."""
    shapes = [
        f"{name} has shape {tensors[name].shape}, this network's has {shape}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    spare = {name: tensor.shape for name, tensor in tensors.items() if name not in expected}
    missing = []
    for name, shape in expected.items():
        if name not in tensors:
            missing.append(f"it has no {name} of shape {shape}{_perhaps(name, shape, spare)}")
    return shapes + missing + [f"{name} of shape {shape} has no place in this network" for name, shape in spare.items()]


def _perhaps(name: str, shape: tuple[int, ...], spare: dict[str, tuple[int, ...]]) -> str:
    """Which tensor may be meant, in words; it is taken out of `spare`. Of those of that shape, or else of all, the nearest by name."""
    same_shape = [other for other, its_shape in spare.items() if its_shape == shape]
    near = difflib.get_close_matches(name, same_shape or spare, 1, cutoff=0 if same_shape else 0.6)
    return "".join(f", but {other} of shape {spare.pop(other)}" for other in near)


def _some(wrong: list[str]) -> str:
    more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return "; ".join(wrong[:SHOWN]) + more


def find(path: Path, tree: Any, shapes_of: Callable[[Mapping[str, Tensor]], Shapes], under: str = "") -> tuple[dict[str, Any], list[str]]:
    """The tensors of the one network in a tree, by the names that they have in a network of its own.

    Args:
      tree: dicts and lists of tensors and of anything else.
      shapes_of: the shapes that a network's tensors have; some follow from the tensors, as the number of classes does.
      under: the prefix to take, where several networks fit; "." is none.

    Returns:
      The tensors, and what was taken off their names or left out, in words.

    Raises:
      UserError: none fits, or several do.
    """
    found = list(_tensors(tree))
    if not found:
        raise UserError(f"{path} holds no tensors{_contents(tree)}; save the network's state_dict()")
    candidates = _candidates(found, shapes_of)
    if under:
        known = [candidate.prefix.rstrip(".") or "." for candidate in candidates]
        candidates = [candidate for candidate in candidates if candidate.prefix.rstrip(".") == under.rstrip(".")]
        if not candidates:
            raise UserError(f"--under {under}: {path} holds no such network{did_you_mean(under, known)}")
    fitting = [candidate for candidate in candidates if not candidate.wrong]
    distinct = [c for i, c in enumerate(fitting) if not any(c.tensors == other.tensors for other in fitting[:i])]  # one may have two names
    if len(distinct) > 1:
        names = [candidate.prefix.rstrip(".") or "." for candidate in distinct]
        raise UserError(f"{path} holds {len(names)} networks that fit, under {' and '.join(names)}; say which with --under {names[0]}")
    if not distinct:
        nearest = min(candidates, key=lambda candidate: len(candidate.wrong))
        where = f" (under {nearest.prefix.rstrip('.')})" if nearest.prefix else ""
        raise UserError(f"{path} holds another network{where}: {_some(nearest.wrong)}")
    (taken,) = distinct
    return taken.tensors, _said(taken, found)


def _tensors(tree: Any) -> Iterable[_Found]:
    """All tensors of a tree, with their places as dotted names."""
    waiting, seen = [("", tree)] if isinstance(tree, Mapping | list | tuple) else [], set[int]()
    while waiting:
        place, node = waiting.pop(0)
        if id(node) in seen:  # a pickle may make a tree that holds itself; and two names of one dict are two places
            continue
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            if isinstance(value, Mapping | list | tuple):
                waiting.append((f"{place}{_text(key)}.", value))
            elif hasattr(value, "shape"):
                yield _Found(place, _text(key), value)
        seen.add(id(node))


def _candidates(found: list[_Found], shapes_of: Callable[[Mapping[str, Tensor]], Shapes]) -> list[_Candidate]:
    """The tensors by prefix, and how those under each differ from a network's. Without any such name, all that there is."""
    names = {name: _wrapped(name) for name in shapes_of({})}
    groups = collections.defaultdict[str, dict[str, Any]](dict)
    places, twice = collections.defaultdict[str, set[str]](set), collections.defaultdict[str, list[str]](list)
    wrapped, matched = dict[str, str](), set[str]()
    for place, own, tensor in found:
        for name, pattern in names.items():
            if match := pattern.fullmatch(place + own):
                prefix = match["prefix"]
                if name in groups[prefix]:
                    twice[prefix].append(f"{name} is in it twice, the second time as {own}")
                groups[prefix][name] = tensor
                wrapped[prefix] = match["wrapper"].rstrip(".") or wrapped.get(prefix, "")
                places[prefix].add(place)
                matched.add(place + own)
    if not groups:
        groups[""] = {place + own: tensor for place, own, tensor in found}
    longest_first = sorted(groups, key=len, reverse=True)
    for place, own, tensor in found:  # what else the same dict holds under the same prefix belongs to the network too
        prefix = next((prefix for prefix in longest_first if (place + own).startswith(prefix)), None)
        if prefix is not None and place in places[prefix] and place + own not in matched:
            groups[prefix][(place + own).removeprefix(prefix)] = tensor
    return [
        _Candidate(prefix, tensors, wrapped.get(prefix, ""), twice[prefix] + differences(tensors, shapes_of(tensors)))
        for prefix, tensors in groups.items()
    ]


def _wrapped(name: str) -> re.Pattern:
    """`features.0.weight` behind any prefix, `features.module.0.weight` too."""
    first, rest = name.split(".", 1)
    wrapper = f"(?P<wrapper>(?:(?:{'|'.join(WRAPPERS)})\\.)*)"
    return re.compile(rf"(?P<prefix>(?:.*\.)?){re.escape(first)}\.{wrapper}{re.escape(rest)}")


def _said(taken: _Candidate, found: list[_Found]) -> list[str]:
    notes = []
    if taken.prefix:
        notes.append(f"taken: the tensors whose names begin with {taken.prefix}")
    if taken.wrapped:
        notes.append(f"taken out of the tensors' names, as a wrapper's: {taken.wrapped}.")
    mine = set(taken.tensors.values())
    others = [place + name for place, name, tensor in found if tensor not in mine]
    if others:
        tops = list(dict.fromkeys(name.split(".")[0] for name in others))
        notes.append(
            f"left out: {len(others)} other tensor{'s' * (len(others) > 1)}, under {', '.join(tops[:4])}{' ...' if len(tops) > 4 else ''}"
        )
    return notes


def _contents(tree: Any) -> str:
    return f", but {', '.join(map(_text, list(tree)[:4]))}" if isinstance(tree, Mapping) and tree else f", but a {type(tree).__name__}"


def _text(key: Any) -> str:
    """A key of a file's tree on one line, without what a terminal would obey."""
    text = str(key)
    return text if text.isprintable() else ascii(text)[1:-1]
