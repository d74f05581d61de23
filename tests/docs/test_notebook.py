"""The notebook runs, and what is saved of it is whole and small."""

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.conftest import ROOT

PATH = ROOT / "examples" / "notebook.ipynb"


def figures(notebook: Any) -> int:
    """The pictures among the outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", ()) for output in outputs)


def test_the_notebook_runs(tmp_path: Path) -> None:
    saved = nbformat.read(PATH, as_version=4)
    assert figures(saved) == 3
    assert PATH.stat().st_size < 200_000
    assert [cell.execution_count for cell in saved.cells if cell.cell_type == "code"] == [1, 2, 3, 4, 5, 6, 7]
    done = NotebookClient(saved, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert figures(done) == 3
