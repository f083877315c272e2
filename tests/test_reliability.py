"""docs/reliability.md is true: every row names a test that exists, and the list that may differ on resume is the code's."""

import re
from pathlib import Path

import pytest

from alexnet_jax import run

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line.startswith("| ")][1:]


def test_there_are_at_least_forty_rows_of_three_cells():
    assert len(ROWS) >= 40
    assert all(len(row) == 3 and all(row) for row in ROWS)
    assert len({row[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_the_test_of_a_row_exists(row):
    """`test_x.py`: words ...: a test of that file, whose name has these words."""
    named = re.findall(r"`(test_\w+\.py)`(?:: ([^;`]+))?", row[2])
    assert named
    for file, words in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        name = words.removesuffix(" ...").strip().replace(" ", "_")
        assert not words or re.search(rf"def test_\w*{re.escape(name)}", source), f"{file} has no test of the name {name}"


def test_what_may_differ_on_resume_is_the_codes_list():
    (line,) = (line for line in PAGE.split("\n\n") if line.startswith("A run may go on with another"))
    assert re.findall(r"`([\w.]+)`", line.partition(":")[0]) == list(run.RESUMABLE)
