"""Names inside a run folder, and the run folder that contains a path."""

from __future__ import annotations

from pathlib import Path

from rpd.runs.reader import _mapping

FILM = "grid.mp4"
"""Name of the video in a run's folder."""


def run_of(path: Path) -> Path | None:
    """Return the run folder that contains a path (a run, a checkpoint, or a policy in it), or None."""
    path = Path(path)
    inside = (path, *path.parents[:3])
    return next((p for p in inside if (p / "config.yaml").is_file() and (p / "checkpoints").is_dir()), None)


def is_generalist_run(run: Path) -> bool:
    """Whether a run folder belongs to `rpd generalist`: one policy distilled from several specialists."""
    file = run / "config.yaml"
    return file.is_file() and "runs" in _mapping(file, file.read_text())
