"""The quickstart runs from top to bottom, and its copy in the repository holds what such a run printed."""

import json
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "quickstart.ipynb"


def test_quickstart_runs_and_its_student_beats_its_teacher(tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    result = json.loads((tmp_path / "runs/quickstart/rpd/result.json").read_text())
    assert result["paired"]["lo"] > 0.2
    assert result["student"]["rate"] > 0.9


def test_committed_outputs_are_of_a_whole_run():
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    kinds = [o.output_type for c in cells for o in c.outputs]
    assert "error" not in kinds and kinds.count("execute_result") + kinds.count("display_data") >= 3
    assert NOTEBOOK.stat().st_size < 500_000
