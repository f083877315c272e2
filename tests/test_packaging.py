"""What goes out with the project agrees with itself."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_citation_names_the_projects_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == project["version"]
