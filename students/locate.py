"""From a path that a person typed to the policy folder that it means."""

from __future__ import annotations

from pathlib import Path

from envs.errors import ConfigError
from students.pretrained import CONFIG


def resolve_policy(path: str | Path) -> Path:
    """Find the policy of a run (its last checkpoint), of a checkpoint, or in the policy folder itself.

    ``runs/x`` -> ``runs/x/checkpoints/last/policy``; ``runs/x/checkpoints/2000`` -> its ``policy``.

    Raises:
        ConfigError: there is no such folder, or no policy in it.
    """
    path = Path(path)
    for folder in (path, path / "policy", path / "checkpoints" / "last" / "policy"):
        if (folder / CONFIG).is_file():
            return folder
    if not path.exists():
        raise ConfigError(f"no policy at {path}: there is no such folder")
    raise ConfigError(f"no policy at {path}: expected a run with checkpoints, a checkpoint, or a folder with {CONFIG}")
