"""The results of a part: rows that are printed in aligned columns as they are measured, and stored as JSON. Every part makes one:

    table = Table("train", "Training step, batch 128", {"side": "<20", "images/s": "10,.1f"}, settings, out)
    table.row(side="ours", images_s=1234.5)

`publish` prints a stored table with `text`.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from alexnet_jax.errors import cannot_write
from alexnet_jax.history import plain
from alexnet_jax.runlog import command
from alexnet_jax.tables import heading_line, row_line
from experiments.benchmark import measure
from experiments.benchmark.settings import Settings


class Table:
    """Prints each row and then writes DIR/PART.json, so that an interrupted measurement keeps its rows.

    `columns` and the values of a row have the form that `tables.heading_line` and `tables.row_line` need.

    Raises:
      UserError: PART.json can't be written.
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
        self._write()  # fails now, and not after the first measurement, if the file can't be written
        self._print(f"\n{title}")
        self._print(heading_line(columns))

    def row(self, **values: Any) -> None:
        """Add a row. A heading is written with `_` for a space or a slash; values without a column go only into the JSON file."""
        self._print(row_line(self._columns, values))
        self._record["rows"].append(values)
        self._write()

    def timed(self, timing: measure.Timing, **values: Any) -> None:
        """Add a row; the JSON file also gets the seconds of each turn."""
        self.row(**values, seconds=list(timing.seconds))

    def note(self, text: str) -> None:
        """Add a line below the rows; it is stored too."""
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
            raise cannot_write(self._path, error, "choose another --out") from None


def text(record: dict[str, Any]) -> str:
    """The table of a PART.json as it was printed, without its title."""
    columns = record["columns"]
    rows = [row_line(columns, row) for row in record["rows"]]
    return "\n".join([heading_line(columns), *rows, *(f"  {note}" for note in record["notes"])])
