"""The quickstart runs from top to bottom, and its copy in the repository holds what such a run printed."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat")
NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "quickstart.ipynb"


def assert_both_axes_are_drawn(notebook):
    """The curves of mode rpd, in matplotlib's first color, are in the left half of the figure and in the right."""
    cell = next(c for c in notebook.cells if "plt.subplots" in c.source)
    data = next(o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {}))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    blue = np.abs(pixels - (31, 119, 180)).max(-1) < 30  # [H, W]
    axes = blue[:, : int(0.85 * blue.shape[1])]  # the legend is right of them
    for half in np.array_split(axes, 2, axis=1):
        assert half.any(0).mean() > 0.25  # of its width, and not the few points that an unfit axis would show


def test_quickstart_runs_and_its_student_beats_its_teacher(tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert_both_axes_are_drawn(notebook)
    result = json.loads((tmp_path / "runs/quickstart/rpd/result.json").read_text())
    assert result["paired"]["lo"] > 0.2
    assert result["student"]["rate"] > 0.9


def test_committed_outputs_are_of_a_whole_run():
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    assert_both_axes_are_drawn(nbformat.read(NOTEBOOK, as_version=4))
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    kinds = [o.output_type for c in cells for o in c.outputs]
    assert "error" not in kinds and kinds.count("execute_result") + kinds.count("display_data") >= 3
    assert NOTEBOOK.stat().st_size < 500_000
