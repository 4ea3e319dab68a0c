"""Folders of checkpoints: published by renaming, linked as ``last``, and pruned, so that a final name is never of a part."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rpd.core.files import write_json
from rpd.students.io.files import file_digest, sync_folder
from rpd.students.io.policy_path import checkpoint_steps

MANIFEST = "manifest.json"


def publish(temporary: Path, target: Path) -> None:
    """Add the manifest to a folder that every rank has written to, and give it its final name."""
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    write_json(temporary / MANIFEST, {"files": {str(path.relative_to(temporary)): file_digest(path) for path in files}})
    if target.exists():
        target.rename(target.with_name(f".tmp-old-{target.name}"))
    temporary.rename(target)
    sync_folder(target.parent)
    link(target.with_name("last"), target.name)


def link(path: Path, target: str) -> None:
    """Create or replace a relative symbolic link atomically."""
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)


def prune(root: Path, step: int, keep: int) -> None:
    """Keep the newest `keep` checkpoints up to `step`."""
    steps = checkpoint_steps(root)
    past = [p for p in steps if int(p.name) <= step]
    for path in steps:
        if path not in past[-keep:]:  # renamed first, so that a partly deleted one is never taken for a checkpoint
            path.rename(path.with_name(f".tmp-{path.name}"))
    clear(root)


def clear(root: Path) -> None:
    """Delete temporary folders."""
    for path in root.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
