"""Every room names what it holds, and imports nothing: a command that needs one file of it pays for that alone."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = sorted(path.parent for folder in ("alexnet_jax", "experiments") for path in (ROOT / folder).glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_the_room_names_every_file_and_imports_none(room):
    tree = ast.parse((room / "__init__.py").read_text())
    docstring = ast.get_docstring(tree) or ""
    files = {path.name for path in room.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert files - set(re.findall(r"\w+\.py", docstring)) == set()
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
