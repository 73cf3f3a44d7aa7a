"""The notebook in examples/ runs from its first cell to its last, and says what it should."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.documents import ROOT

NOTEBOOK = ROOT / "examples" / "first_look.ipynb"


def said(cell) -> str:
    """What a cell printed or showed as text."""
    return "".join(o.get("text", o.get("data", {}).get("text/plain", "")) for o in cell.outputs)


def test_it_is_committed_without_outputs():
    """They would be of some machine, and pictures make every change of it large."""
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.cell_type != "code" or (cell.outputs, cell.execution_count) == ([], None)


@pytest.fixture(scope="module")
def executed():
    """Its code cells as they stand after a run in its own folder, without a network."""
    patch = pytest.MonkeyPatch()
    for name, value in {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}.items():
        patch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    try:
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    finally:
        patch.undo()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_shows_what_its_text_says(executed):
    loaded, answers, plan, compared, budgets = executed
    assert any("image/png" in o.get("data", {}) for o in loaded.outputs + plan.outputs)
    assert "full: white    pruned: white" in said(answers)
    assert "(0, 9, 15) on: [18, 16, 14]" in said(plan)
    results = eval(said(compared).replace("np.float64", "float"))
    assert results["full model"] >= results["RCP"] >= 0.85 > 0.7 >= results["random"]
    assert "kept of the two rows: [72, 16]" in said(budgets)
    assert "visual_budget is 64. A budget of 44.44%" in said(budgets)
