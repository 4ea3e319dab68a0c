"""From a path that a person typed to the policy folder that it means."""

from __future__ import annotations

from pathlib import Path

from envs.errors import ConfigError
from students.pretrained import CONFIG


def checkpoint_steps(checkpoints: Path) -> list[Path]:
    """Return the checkpoint folders ``<step>`` in a folder, oldest first; links and temporary folders aside."""
    return sorted((p for p in checkpoints.glob("*") if p.name.isdecimal() and p.is_dir()), key=lambda p: int(p.name))


def resolve_policy(path: str | Path) -> Path:
    """Find the policy of a run (in its newest checkpoint), of a checkpoint, or in the policy folder itself.

    Raises:
        ConfigError: there is no such folder, or no policy in it.
    """
    path = Path(path)
    checkpoint = next(reversed(checkpoint_steps(path / "checkpoints")), path)
    for folder in (checkpoint / "policy", checkpoint):
        if (folder / CONFIG).is_file():
            return folder
    what = "is none" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
    raise ConfigError(f"{path}: {what}: expected a run with checkpoints, a checkpoint, or a policy folder (with {CONFIG})")
