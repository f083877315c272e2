"""A running run's side of its control.jsonl, its lock and its signals. The loop (loop.py) owns one of each; control.py writes the lines.

with Inbox(workdir) as inbox, StopSignal() as stop:
    commands = inbox.poll()
"""

import hashlib
import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from alexnet_jax import cluster
from alexnet_jax.locks import is_locked, locked

CONTROL = "control.jsonl"
LOCK = ".running"
POLL = 0.2  # seconds between two looks at control.jsonl
LONGEST = 10_000  # bytes of a command
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # ask a run to save and stop


class StopSignal:
    """Turns the first of some signals into `requested`, so that the loop can save. A second one ends the process at once.

    Ctrl-C (SIGINT), SIGTERM, SIGHUP of a terminal that closes, SIGUSR1 of a batch system. One that the process was started to ignore, as by
    nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopSignal":
        heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._request) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, _frame: object) -> None:
        self.requested = True
        if not cluster.watched():  # else the same signal may come again from the parent, which ends this process on a second one
            signal.signal(number, self._previous[signal.Signals(number)])


class Inbox:
    """The commands of a run's control.jsonl, each once; a context manager that marks the directory as one in which a process is training.

    A command is told by its id, not by its line: control.jsonl may be deleted, replaced or written by anybody. With `read=False`, as in
    every process except the first, there are none, and nothing is marked.
    """

    def __init__(self, workdir: Path, read: bool = True) -> None:
        self.taken: list[str] = []  # ids of the commands that the run has taken up; saved in every checkpoint
        self._workdir, self._path, self._read = workdir, workdir / CONTROL, read
        self._looked = 0.0
        self._seen: tuple[int, ...] = ()  # the file's identity, size and time at the last look
        self._lines: list[bytes] = []  # of that look

    def __enter__(self) -> "Inbox":
        self._held = ExitStack()
        if self._read:
            busy = f"another process is training in {self._workdir}; stop it, or use another --workdir"
            self._held.enter_context(locked(self._workdir / LOCK, busy))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def look(self, now: bool = False) -> bool:
        """Whether control.jsonl has changed since the last `poll`. Looks every `POLL` seconds at most, unless it has to be `now`."""
        if not self._read or (not now and time.monotonic() - self._looked < POLL):
            return bool(self._lines)
        self._looked = time.monotonic()
        try:
            found = os.stat(self._path)
            if (seen := (found.st_ino, found.st_size, found.st_mtime_ns)) != self._seen:
                self._lines, self._seen = self._path.read_bytes().split(b"\n")[:-1], seen
        except OSError:  # there is none, or it can't be read just now
            pass
        return bool(self._lines)

    def poll(self, now: bool = False) -> list[dict[str, Any]]:
        """Take the commands that have come; a line that is still being written waits."""
        if not self.look(now):
            return []
        lines, self._lines = self._lines, []
        new = []
        for number, line in enumerate(lines):
            command = _parse(line)
            if command is None:
                continue
            name = command["id"] if isinstance(command.get("id"), str) else f"{number} {hashlib.sha256(line).hexdigest()[:16]}"
            if name not in self.taken:
                self.taken.append(name)
                new.append(command)
        return new


def is_running(workdir: Path) -> bool:
    """Whether a process is training in the directory, on this machine or one that shares its file locks."""
    return is_locked(workdir / LOCK)


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line as a command; None for one that isn't, which somebody else must have written."""
    if len(line) > LONGEST:
        return None
    try:
        command = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(command, dict) or not isinstance(command.get("command"), str):
        return None
    nested = any(isinstance(value, list | dict) for value in command.values())  # no command has such a value
    return None if nested else command
