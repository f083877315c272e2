"""A part's results: rows that are printed as they come, aligned, and kept as JSON."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError
from alexnet_jax.history import plain
from alexnet_jax.runlog import command
from alexnet_jax.tables import heading_line, row_line
from experiments.benchmark import measure
from experiments.benchmark.settings import Settings


class Table:
    """Prints a line for each row and writes DIR/PART.json after each, so that a measurement cut short leaves what it has.

    `columns` and the values of a row are those of `tables.heading_line` and `tables.row_line`.
    """

    def __init__(self, part: str, title: str, columns: dict[str, str], settings: Settings, out: Path) -> None:
        self._columns, self._path = columns, out / f"{part}.json"
        self._record: dict[str, Any] = {
            "part": part,
            "title": title,
            "columns": columns,
            "command": command(),
            "settings": dataclasses.asdict(settings),
            "machine": measure.machine(),
            "notes": [],
            "rows": [],
        }
        self._write()  # a place that can't be written is better known before the work
        self._print(f"\n{title}")
        self._print(heading_line(columns))

    def row(self, **values: Any) -> None:
        """Add a row; values of no column go to the JSON alone. Headings are written with `_` for a space or a slash."""
        self._print(row_line(self._columns, values))
        self._record["rows"].append(values)
        self._write()

    def timed(self, timing: measure.Timing, **values: Any) -> None:
        """Add a row with the seconds of each turn in the JSON."""
        self.row(**values, seconds=list(timing.seconds))

    def note(self, text: str) -> None:
        """A line below the rows, also kept."""
        self._print(f"  {text}")
        self._record["notes"].append(text)
        self._write()

    @staticmethod
    def _print(line: str) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)  # the progress line
        print(line, flush=True)

    def _write(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(plain(self._record), indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror}; choose another --out") from None


def text(record: dict[str, Any]) -> str:
    """The table of PART.json as it was printed, without its title."""
    columns = record["columns"]
    rows = [row_line(columns, row) for row in record["rows"]]
    return "\n".join([heading_line(columns), *rows, *(f"  {note}" for note in record["notes"])])
