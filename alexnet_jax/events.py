"""What a line of events.jsonl must hold for the readers of a run to rely on it. history.py asks it of every line.

    known = Known()
    known.whole({"event": "train", "step": 7, ...})    # False where a field is missing or of another type

runlog.py lists the fields of each kind of event. Here stand those that a reader uses; kinds that aren't listed may hold anything. A line
that isn't whole counts as damaged: nobody guesses what it said.
"""

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

LARGEST = 1e30  # of a number: no run has larger ones, and figures can't show them

Check = Callable[[Any, float], bool]  # of a value, and of the number of members; infinite where no start event has told it


def _is_number(value: Any, _: float = 0) -> bool:
    """NaN is one: it stands for a loss that diverged."""
    return isinstance(value, int | float) and not isinstance(value, bool) and (value != value or abs(value) <= LARGEST)


def _is_positive(value: Any, _: float) -> bool:
    return _is_number(value) and value > 0


def _is_count(value: Any, _: float = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_text(value: Any, _: float) -> bool:
    return isinstance(value, str)


def _is_member(value: Any, members: float) -> bool:
    return _is_count(value) and value < members


def _of_each_member(value: Any, members: float) -> bool:
    return isinstance(value, list) and members in (len(value), math.inf) and all(map(_is_number, value))


def _are_texts(value: Any, _: float) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _are_names(value: Any, members: float) -> bool:
    return _are_texts(value, members) and len(value) == members


def _is_curve(value: Any, members: float) -> bool:
    row: dict[str, Check] = {"members": _is_count, "top1_error": _is_number, "std": _is_number}
    return isinstance(value, list) and all(_holds(item, row, members) for item in value)


def _is_test(value: Any, members: float) -> bool:
    each: dict[str, Check] = dict.fromkeys(("top1_error", "top5_error"), _of_each_member)
    numbers = ("mean_top1_error", "std_top1_error", "ensemble_top1_error", "ensemble_top5_error", "relative_cut")
    return _holds(value, _TESTED | each | dict.fromkeys(numbers, _is_number), members)


_TESTED: dict[str, Check] = {"split": _is_text, "count": _is_count, "diverged": _are_texts, "curve": _is_curve}
_RATE: dict[str, Check] = {"member": _is_member, "learning_rate": _is_number, "reason": _is_text}
_FIELDS: dict[str, dict[str, Check]] = {
    "start": {
        "members": _is_positive,
        "member_names": _are_names,
        "steps": _is_positive,
        "steps_per_epoch": _is_positive,
        "devices": _is_text,
        "images": _is_count,
    },
    "memory": {"message": _is_text},
    "split": {"message": _is_text},
    "profile": {"message": _is_text},
    "train": {
        "epoch": _is_number,
        **dict.fromkeys(("loss", "error", "learning_rate"), _of_each_member),
        **dict.fromkeys(("images_per_second", "member_images_per_second"), _is_positive),
    },
    "eval": {
        "split": _is_text,
        "epoch": _is_number,
        "count": _is_count,
        **dict.fromkeys(("loss", "top1_error", "top5_error"), _of_each_member),
        "ensemble_top1_error": _is_number,
    },
    "drop": _RATE,
    "rate": _RATE,
    "checkpoint": {"path": _is_text},
    "warning": {"message": _is_text},
    "end": {"reason": _is_text, "seconds": _is_number},
}
_OPTIONAL: dict[str, dict[str, Check]] = {
    "train": {"waiting": _is_number},
    "drop": {"factor": _is_number},
    "rate": {"value": _is_number},
    "resume": {"evaluated": _is_count},
    "warning": {"member": _is_member, "sentinel": _is_text},
    "end": {"test": _is_test},
}


class Known:
    """Judges the lines of a log one after the other: the number of members comes with the start event."""

    def __init__(self) -> None:
        self._members = math.inf

    def whole(self, event: Any) -> bool:
        """Whether an event holds what its readers use of it, as they expect it."""
        if not isinstance(event, dict) or not isinstance(event.get("event"), str) or not _is_count(event.get("step")) or not _timed(event):
            return False
        kind, members = event["event"], self._members
        if kind == "start" and _is_count(event.get("members")):
            members = event["members"]
        optional = {name: check for name, check in _OPTIONAL.get(kind, {}).items() if name in event}
        whole = _holds(event, _FIELDS.get(kind, {}) | optional, members)
        if kind == "start" and whole:
            self._members = members
        return whole


def _timed(event: dict) -> bool:
    try:
        return datetime.fromisoformat(event["time"]).tzinfo is not None
    except (KeyError, TypeError, ValueError):
        return False


def _holds(value: Any, fields: dict[str, Check], members: float) -> bool:
    return isinstance(value, dict) and all(name in value and check(value[name], members) for name, check in fields.items())
