"""Every room names what it holds."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = sorted(path.parent for folder in ("alexnet_jax", "experiments") for path in (ROOT / folder).glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_the_room_names_every_file(room):
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    files = {path.name for path in room.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert files - set(re.findall(r"\w+\.py", docstring)) == set()
