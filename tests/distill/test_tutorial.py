"""docs/tutorial.ipynb runs as it stands, and shows what it says it does."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    folder = str(tmp_path_factory.mktemp("tutorial"))
    return NotebookClient(notebook, timeout=500, resources={"metadata": {"path": folder}}).execute()


def printed(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def test_distilling_brings_the_pictures_nearer(executed):
    converted, distilled = map(float, re.search(r"converted (\S+), distilled (\S+)", printed(executed)).groups())
    assert distilled < 0.8 * converted


def test_it_shows_pictures_and_keeps_the_blocks_alone(executed):
    data = [
        output.data
        for cell in executed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "data" in output
    ]
    assert sum("image/png" in shown for shown in data) == 2
    assert "['config.json', 'diffusion_pytorch_model.safetensors']" in printed(executed)


def test_it_is_kept_without_outputs():
    """Their pictures would change with every run."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
