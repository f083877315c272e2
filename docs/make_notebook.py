"""Makes docs/alexnet.ipynb of docs/alexnet_notebook.py: executes every cell and keeps what it shows.

Edit the script, then (minutes on two cores):

    make notebook

The two have the same cells; tests/test_notebook.py says so, and executes them.
"""

import os
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
SCRIPT, NOTEBOOK = HERE / "alexnet_notebook.py", HERE / "alexnet.ipynb"
LONGEST = 600  # seconds of a cell


def executed() -> NotebookNode:
    """The script as a notebook, executed from the first cell to the last.

    Raises:
      CellExecutionError: a cell failed.
    """
    notebook = jupytext.read(SCRIPT)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # not drawn at random, which would change the whole file each time
    where = {"metadata": {"path": str(HERE)}}
    client = NotebookClient(notebook, timeout=LONGEST, resources=where, record_timing=False, coalesce_streams=True)
    return client.execute(env={**os.environ, "LOGNAME": "student"})  # a run's log says who sent a command


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
