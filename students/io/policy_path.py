"""Find the policy folder of a run, a checkpoint or a policy path."""

from __future__ import annotations

from pathlib import Path

from rpd.envs.errors import ConfigError
from rpd.students.io.pretrained import CONFIG

EXPORTED = "spec.json"
"""Marks a folder of `rpd export`, see `rpd.export.runtime.SPEC`."""


def checkpoint_steps(checkpoints: Path) -> list[Path]:
    """Return the checkpoint folders ``<step>`` in a folder, oldest first, without links and temporary folders."""
    return sorted((p for p in checkpoints.glob("*") if p.name.isdecimal() and p.is_dir()), key=lambda p: int(p.name))


def resolve_policy(path: str | Path) -> Path:
    """Return the policy folder of a run (newest checkpoint), of a checkpoint, or the path itself if it is one.

    Raises:
        ConfigError: the folder does not exist, has no policy, or is an exported policy.
    """
    path = Path(path)
    checkpoint = next(reversed(checkpoint_steps(path / "checkpoints")), path)
    for folder in (checkpoint / "policy", checkpoint):
        if (folder / CONFIG).is_file():
            return folder
    if (path / EXPORTED).is_file():
        raise ConfigError(f"{path}: a folder of `rpd export`, which can only act: name the run that it was exported from")
    what = "is none" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
    raise ConfigError(f"{path}: {what}: expected a run with checkpoints, a checkpoint, or a policy folder (with {CONFIG})")
