"""Tables as plain text with aligned columns.

Commands that print a table call `aligned` with its rows:

    aligned([("member", "top-1"), ("seed=0", "1.03 %"), ("seed=10", "12.50 %")], "<>")

    member     top-1
    seed=0    1.03 %
    seed=10  12.50 %

A benchmark prints each row when it is measured, so its columns have a given width: `heading_line` and `row_line` print it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any


def aligned(rows: Sequence[Sequence[str]], align: str = "<", gap: int = 2) -> str:
    """Rows of cells as lines, without spaces at their ends; an empty string for no rows.

    Args:
      align: `<` (left) or `>` (right) for each column. The last one is also for all further columns.
      gap: how many spaces are between two columns.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = align.ljust(len(widths), align[-1])
    lines = ((" " * gap).join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=False)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def heading_line(columns: Mapping[str, str]) -> str:
    """The first line of a table that is printed row by row. `columns` maps each heading to the format of its cells, with their width:

    {"side": "<20", "images/s": ">10,.1f"}
    """
    return "  ".join(_cell(heading, spec) for heading, spec in columns.items()).rstrip()


def row_line(columns: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """A further line: `values` has a value for each heading, with `_` for a space or a slash. Any column accepts text and None."""
    return "  ".join(_cell(values.get(re.sub(r"\W", "_", heading)), spec) for heading, spec in columns.items()).rstrip()


def _cell(value: Any, spec: str) -> str:
    if value is None:
        value = "-"
    if isinstance(value, str):
        align, width = re.match(r"([<>]?)(\d+)", spec).groups()  # type: ignore[union-attr]
        return f"{value:{align or '>'}{width}}"
    return format(value, spec)
