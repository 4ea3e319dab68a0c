"""Checkpoints: ``<run>/checkpoints/<step>/{policy/, training_state/, manifest.json}`` and a relative link ``last``.

A checkpoint is written under a temporary name, with a manifest of sizes and SHA-256 digests as its last file, and renamed once
it is on disk, so a folder with a final name was complete at some time. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from rpd.core.distributed import SOLO, World
from rpd.core.files import write_json
from rpd.envs.errors import ConfigError, RunFault
from rpd.runs import checkpoint_folders as folders
from rpd.runs.checkpoint_folders import MANIFEST
from rpd.runs.provenance import trained_by
from rpd.runs.training_state import load_optimizer, load_rng, optimizer_tensors, rng_tensors
from rpd.students.io.files import digest, file_digest, mismatch, write_bytes
from rpd.students.io.policy_path import checkpoint_steps, resolve_policy

__all__ = [
    "Checkpoint", "CorruptCheckpoint", "RankState", "latest_valid_checkpoint", "load", "load_optimizer", "load_rng",
    "optimizer_tensors", "resolve_policy", "rng_tensors", "save",
]  # fmt: skip

TENSORS, STATE = "training_state/tensors.safetensors", "training_state/state.json"
RANK_TENSORS, RANK_STATE = "training_state/rank-{:05d}.safetensors", "training_state/rank-{:05d}.json"
FORMAT = 5
"""Version of the training state; increased whenever a trainer saves or expects something else. Version 1 had no number."""


class Saveable(Protocol):
    """A policy or another trained model."""

    def save_pretrained(self, folder: Path) -> None:
        """Write the model into a folder, which may not exist yet."""


class CorruptCheckpoint(RunFault):
    """A file of a checkpoint is missing, truncated or altered; the message names it."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    step: int
    """Environment steps taken."""
    policy_dir: Path
    """Folder that `Saveable.save_pretrained` wrote."""
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    ranks: int = 1
    """Number of ranks that wrote it."""
    own: RankState | None = None
    """State of this rank; None if another number of ranks wrote the checkpoint."""


class RankState(NamedTuple):
    """Training state of one rank: its environments, teacher and random numbers."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save(
    run_dir: Path,
    step: int,
    policy: Saveable,
    tensors: dict[str, Tensor],
    meta: dict[str, Any],
    own: RankState | None = None,
    keep: int = 3,
    world: World = SOLO,
) -> Path:
    """Write a checkpoint, point ``last`` at it, and prune old ones; all ranks call this.

    Checkpoints of later steps are removed: the run continues from `step`.

    Args:
        run_dir: the run's folder.
        step: environment steps taken.
        policy: the trained model.
        tensors: tensors of the training state that all ranks share, by name; any device. Written by rank 0, as the policy.
        meta: the rest of that state, as JSON values.
        own: state of this rank, if it has any; each writes its own, into a folder that they share.
        keep: number of newest checkpoints to keep.
        world: the ranks.

    Returns:
        The checkpoint's folder.

    Raises:
        RunFault: the checkpoint could not be written, e.g. the disk is full; earlier checkpoints are intact.
    """
    root = Path(run_dir) / "checkpoints"
    target = root / f"{step:09d}"
    temporary = root / f".tmp-{target.name}"
    try:
        with _written(target, world):
            if world.is_first:
                root.mkdir(parents=True, exist_ok=True)
                folders.clear(root)  # of a process that was killed
                _write(temporary, step, policy, tensors, meta, world.size)
        with _written(target, world):
            own = own or RankState({}, {})
            _write_state(temporary, RANK_TENSORS.format(world.rank), RANK_STATE.format(world.rank), own.tensors, own.meta)
        with _written(target, world):
            if world.is_first:
                folders.publish(temporary, target)
                folders.prune(root, step, keep)
    finally:
        if world.is_first:
            folders.clear(root)
    return target


def load(path: Path, world: World = SOLO, verify: bool = True) -> Checkpoint:
    """Read a checkpoint, after verifying all its files.

    Args:
        path: the checkpoint's folder.
        world: ranks of the run that resumes from it.
        verify: False: another rank has verified the files.

    Raises:
        CorruptCheckpoint: naming the file that is missing, truncated or altered.
    """
    path = Path(path).resolve()  # ``last`` may change while this reads
    if verify:
        _verify(path)
    if (found := _format(path)) not in (None, FORMAT):
        raise CorruptCheckpoint(f"{path}: has training state of format {found}, and this version of rpd reads {FORMAT}")
    try:
        state = json.loads((path / STATE).read_bytes())
        own = _read_own(path, world.rank) if state["ranks"] == world.size else None
        tensors = load_tensors((path / TENSORS).read_bytes())
        return Checkpoint(state["step"], path / "policy", tensors, state["meta"], state["ranks"], own)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:  # digests fit, so another version wrote it
        raise CorruptCheckpoint(f"{path}: not a checkpoint of this version of rpd: {error!r}") from None


def check_format(run_dir: Path) -> None:
    """Reject a run whose training state has a format of another version.

    Raises:
        ConfigError: names both formats and the version that trained the run.
    """
    known = (_format(path) for path in reversed(checkpoint_steps(Path(run_dir) / "checkpoints")))
    if (found := next((n for n in known if n is not None), FORMAT)) != FORMAT:
        raise ConfigError(
            f"{run_dir} was trained by another version of rpd{trained_by(Path(run_dir))}: its training state has format "
            f"{found}, this version resumes format {FORMAT}: resume it with that version, or start a new run from its policy "
            f"(rpd train TASK --pretrained-path {run_dir})"
        )


def latest_valid_checkpoint(run_dir: Path, world: World = SOLO) -> tuple[Checkpoint, list[str]]:
    """Load the checkpoint to resume from, remove temporary folders of a killed process, and point ``last`` at it.

    Args:
        run_dir: the run's folder.
        world: ranks of the run; rank 0 chooses the checkpoint.

    Returns:
        The newest valid checkpoint, and the problem of each newer one (at rank 0).

    Raises:
        ConfigError: no valid checkpoint exists.
    """
    found: list[tuple[Checkpoint, list[str]]] = []

    def choose() -> str:
        found.append(_latest(Path(run_dir), world))
        return found[0][0].policy_dir.parent.name

    name = world.first(choose)
    return found[0] if found else (load(Path(run_dir) / "checkpoints" / name, world, verify=False), [])


def _latest(run_dir: Path, world: World) -> tuple[Checkpoint, list[str]]:
    """Load the newest valid checkpoint, see `latest_valid_checkpoint`."""
    problems: list[str] = []
    root = run_dir / "checkpoints"
    for path in reversed(checkpoint_steps(root)):
        try:
            sound = load(path, world)
        except CorruptCheckpoint as problem:
            problems.append(str(problem))
        else:
            folders.clear(root)
            folders.link(root / "last", path.name)
            return sound, problems
    reason = "; ".join(problems) or "it has none (was the run interrupted before the first one?)"
    raise ConfigError(f"{run_dir}: no sound checkpoint to resume from: {reason}")


def _write(folder: Path, step: int, policy: Saveable, tensors: dict[str, Tensor], meta: dict[str, Any], ranks: int) -> None:
    policy.save_pretrained(folder / "policy")
    (folder / "training_state").mkdir()
    _write_state(folder, TENSORS, STATE, tensors, {"format": FORMAT, "step": step, "ranks": ranks, "meta": meta})


def _write_state(folder: Path, tensor_file: str, file: str, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    # copies, because views of one storage cannot be saved together
    write_bytes(folder / tensor_file, save_tensors({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}))
    write_json(folder / file, values)


def _read_own(path: Path, rank: int) -> RankState:
    tensors = load_tensors((path / RANK_TENSORS.format(rank)).read_bytes())
    return RankState(tensors, json.loads((path / RANK_STATE.format(rank)).read_bytes()))


@contextlib.contextmanager
def _written(target: Path, world: World) -> Iterator[None]:
    """Context of a part of `save`, which fails on all ranks at once.

    Raises:
        RunFault: the checkpoint could not be written.
    """
    with world.together():
        try:
            yield
        except OSError as error:
            raise RunFault(f"checkpoint {target} could not be written: {error.strerror}; earlier ones are intact") from error


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


def _format(path: Path) -> object:
    """Format of a checkpoint's training state; None if the file is unreadable or altered."""
    try:
        data = (path / STATE).read_bytes()
        whole = dict(json.loads((path / MANIFEST).read_bytes())["files"])[STATE] == digest(data)
        return dict(json.loads(data)).get("format", 1) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
