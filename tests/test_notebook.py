"""The notebook has the cells of its script, with what they showed when they were executed; and they still run."""

import jupytext
import nbformat
import pytest

from docs import make_notebook


def test_the_notebook_has_the_cells_of_its_script():
    script, notebook = jupytext.read(make_notebook.SCRIPT), nbformat.read(make_notebook.NOTEBOOK, as_version=4)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [(cell.cell_type, cell.source) for cell in script.cells]


def test_the_notebook_shows_every_figure_and_stays_small():
    notebook = nbformat.read(make_notebook.NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert_figures_are_shown(code)
    assert make_notebook.NOTEBOOK.stat().st_size < 1_000_000


def assert_figures_are_shown(code):
    drawing = [cell for cell in code if "plt.show(" in cell.source or "display(" in cell.source]
    assert len(drawing) >= 8
    for cell in drawing:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")  # with the compiler's settings that users have
    notebook = make_notebook.executed()
    assert_figures_are_shown([cell for cell in notebook.cells if cell.cell_type == "code"])
