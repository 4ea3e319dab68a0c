"""Checkpoints: ``<run>/checkpoints/<step>/{policy/, training_state/, manifest.json}`` and a relative link ``last``.

A checkpoint is written beside the others under a temporary name, with a manifest of sizes and SHA-256 digests as its
last file, and renamed when it is on the disk: at any moment, whatever has its final name was once whole. Nothing is
pickled.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from envs.errors import ConfigError, RunFault
from rpd.atomic import write_json
from rpd.training_state import load_optimizer, load_rng, optimizer_tensors, rng_tensors
from students.files import file_digest, mismatch, sync_folder, write_bytes
from students.locate import checkpoint_steps, resolve_policy

__all__ = [
    "Checkpoint", "CorruptCheckpoint", "load", "load_optimizer", "load_rng", "newest_sound", "optimizer_tensors",
    "resolve_policy", "rng_tensors", "save",
]  # fmt: skip

TENSORS, STATE, MANIFEST = "training_state/tensors.safetensors", "training_state/state.json", "manifest.json"


class Saveable(Protocol):
    """A policy, or another model that is trained."""

    def save_pretrained(self, folder: Path) -> None:
        """Write it into a folder, which may not exist yet."""


class CorruptCheckpoint(RunFault):
    """A checkpoint with a missing, truncated or altered file; the message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns."""

    step: int
    """Environment steps taken."""
    policy_dir: Path
    """Folder that `Saveable.save_pretrained` wrote."""
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save(run_dir: Path, step: int, policy: Saveable, tensors: dict[str, Tensor], meta: dict[str, Any], keep: int = 3) -> Path:
    """Write a checkpoint, point ``last`` at it, and prune old ones.

    Checkpoints of later steps are removed: a run that is at `step` has abandoned them.

    Args:
        run_dir: the run's folder.
        step: environment steps taken.
        policy: what is trained.
        tensors: the rest of the training state, by name; any device.
        meta: the rest of it, as JSON.
        keep: newest checkpoints that stay.

    Returns:
        The checkpoint's folder.

    Raises:
        RunFault: it could not be written, e.g. the disk is full; earlier checkpoints are intact.
    """
    root = Path(run_dir) / "checkpoints"
    target = root / f"{step:09d}"
    temporary = root / f".tmp-{target.name}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _clear(root)  # of a process that was killed
        _write(temporary, step, policy, tensors, meta)
        if target.exists():
            target.rename(root / f".tmp-old-{target.name}")
        temporary.rename(target)
        sync_folder(root)
        _link(root / "last", target.name)
        _prune(root, step, keep)
    except OSError as error:
        raise RunFault(f"checkpoint {target} could not be written: {error.strerror}; earlier ones are intact") from error
    finally:
        _clear(root)
    return target


def load(path: Path) -> Checkpoint:
    """Read one checkpoint, after verifying every file of it.

    Raises:
        CorruptCheckpoint: naming the file that is missing, truncated or altered.
    """
    path = Path(path).resolve()  # ``last`` may move on while we read
    _verify(path)
    try:
        state = json.loads((path / STATE).read_bytes())
        return Checkpoint(state["step"], path / "policy", load_tensors((path / TENSORS).read_bytes()), state["meta"])
    except (ValueError, KeyError, TypeError, SafetensorError) as error:  # digests fit, so another version wrote it
        raise CorruptCheckpoint(f"{path}: not a checkpoint of this version of rpd: {error!r}") from None


def newest_sound(run_dir: Path) -> tuple[Checkpoint, list[str]]:
    """Find the checkpoint to resume from, and do what a killed process did not come to: tidy up, point ``last`` at it.

    Returns:
        The newest that is whole, and what is wrong with each newer one.

    Raises:
        ConfigError: there is none.
    """
    problems: list[str] = []
    root = Path(run_dir) / "checkpoints"
    for path in reversed(checkpoint_steps(root)):
        try:
            sound = load(path)
        except CorruptCheckpoint as problem:
            problems.append(str(problem))
        else:
            _clear(root)
            _link(root / "last", path.name)
            return sound, problems
    reason = "; ".join(problems) or "it has none (was the run interrupted before the first one?)"
    raise ConfigError(f"{run_dir}: no sound checkpoint to resume from: {reason}")


def _write(folder: Path, step: int, policy: Saveable, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    policy.save_pretrained(folder / "policy")
    (folder / "training_state").mkdir()
    # copies, because views of one storage cannot be saved together
    write_bytes(folder / TENSORS, save_tensors({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}))
    write_json(folder / STATE, {"step": step, "meta": meta})
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(folder / MANIFEST, {"files": {str(path.relative_to(folder)): file_digest(path) for path in files}})


def _verify(path: Path) -> None:
    """Check a checkpoint's files against its manifest."""
    name = MANIFEST
    try:
        digests = dict(json.loads((path / MANIFEST).read_bytes())["files"])
        for name in {TENSORS: None, STATE: None, **digests}:
            if problem := mismatch(file_digest(path / name), digests.get(name)):
                raise CorruptCheckpoint(f"{path / name}: {problem}")
    except OSError as error:
        raise CorruptCheckpoint(f"{path / name}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise CorruptCheckpoint(f"{path / name}: truncated or altered: not a manifest") from None


def _link(link: Path, target: str) -> None:
    """Create or replace a relative symbolic link atomically."""
    temporary = link.with_name(f".tmp-{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _prune(root: Path, step: int, keep: int) -> None:
    """Keep the newest `keep` checkpoints up to `step`, which was written a moment ago."""
    steps = checkpoint_steps(root)
    past = [p for p in steps if int(p.name) <= step]
    for path in steps:
        if path not in past[-keep:]:  # renamed first, so that half of it is never taken for a checkpoint
            path.rename(path.with_name(f".tmp-{path.name}"))
    _clear(root)


def _clear(root: Path) -> None:
    """Delete temporary folders."""
    for path in root.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
