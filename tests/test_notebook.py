import pytest

from conftest import ROOT
from support.folders import write_voc

pytest.importorskip("onnxscript", reason="the notebook exports a model")
jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
NotebookClient = pytest.importorskip("nbclient").NotebookClient

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
LIMIT = 3 * 2**20


def cells(notebook):
    """Return type and source of each cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_notebook_has_the_cells_of_its_source(notebook):
    assert cells(notebook) == cells(jupytext.read(NOTEBOOK.with_suffix(".py")))


def test_saved_outputs_are_small_and_clean(notebook):
    assert NOTEBOOK.stat().st_size < LIMIT
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 4
    text = "".join(output.get("text", "") for output in outputs)
    assert "/work/" not in text
    assert "/tmp/" not in text
    assert not any(output.get("name") == "stderr" for output in outputs)


def test_notebook_runs(notebook, tmp_path, monkeypatch):
    write_voc(tmp_path / "cells")
    for name, value in {
        "PYTHONPATH": ROOT,
        "REPOSITORY": ROOT,
        "DATA": "cells",
        "LENGTH": "--epochs 1 INPUT.AFFINE.SIZE [64,64] SOLVER.IMS_PER_BATCH 2 SOLVER.AMP.ENABLED False",
        "ITERATIONS": "1",
        "BARS": "8",
    }.items():
        monkeypatch.setenv(name, str(value))
    # A notebook has a kernel, which is another process; it runs all steps, so torch is imported only once.
    client = NotebookClient(notebook.copy(), timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert (tmp_path / "output" / "cells" / "report.html").is_file()
    assert (tmp_path / "exported" / "model.onnx").is_file()
    assert (tmp_path / "output" / "bars" / "model_final.pth").is_file()
