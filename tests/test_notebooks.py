"""The notebooks as they are committed: executed in order, without errors or warnings, and small."""

import copy
import json
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 400_000  # bytes


def faults(notebook):
    """What a committed notebook must not have."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    kinds = {output.output_type for output in outputs} | {output.get("name") for output in outputs}
    found = {
        "not executed in order": [cell.execution_count for cell in code] != [*range(1, len(code) + 1)],
        "an error": "error" in kinds,
        "a warning": "stderr" in kinds,
        "no picture": not any("image/png" in output.get("data", {}) for output in outputs),
        "no title": not notebook.cells[0].source.startswith("# "),
        "too large": len(json.dumps(notebook)) > LARGEST,
    }
    return [name for name, is_so in found.items() if is_so]


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_four():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


def test_a_notebook_is_executed_whole_and_small(notebook):
    nbformat.validate(notebook)
    assert faults(notebook) == []


@pytest.mark.parametrize("fault", ["not executed in order", "an error", "a warning", "no title", "too large"])
def test_a_fault_is_seen(notebook, fault):
    broken = copy.deepcopy(notebook)
    cell = next(cell for cell in broken.cells if cell.cell_type == "code")
    added = {
        "an error": nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[]),
        "a warning": nbformat.v4.new_output("stream", name="stderr", text="careful"),
        "too large": nbformat.v4.new_output("stream", name="stdout", text="x" * LARGEST),
    }
    if fault in added:
        cell.outputs.append(added[fault])
    elif fault == "no title":
        broken.cells.pop(0)
    else:
        cell.execution_count = None
    assert faults(broken) == [fault]


def test_the_figure_of_the_readme_is_the_first_notebooks():
    readme = (FOLDER.parent / "README.md").read_text()
    assert "docs/figures/segments.svg" in readme
    assert (FOLDER.parent / "docs" / "figures" / "segments.svg").stat().st_size < 200_000
    assert "segments.svg" in NOTEBOOKS[0].read_text()
