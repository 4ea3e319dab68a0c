"""Evidence of a run stopped by NaN or Inf: the last batch and weights, written into its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from rpd.core.files import write_json
from rpd.envs.errors import NonFiniteError
from rpd.students.io.files import write_bytes

EVIDENCE = "evidence"


def write(run_dir: Path, fault: NonFiniteError, step: int, tensors: Mapping[str, Tensor]) -> Path:
    """Write ``evidence/fault.json`` and ``evidence/tensors.safetensors``.

    Args:
        run_dir: the run's folder.
        fault: the error. Tensors of the exchange in which it was detected are written as ``crossed.<name>``.
        step: steps so far.
        tensors: further tensors by name.

    Returns:
        The folder.

    Raises:
        OSError: e.g. the disk is full.
    """
    folder = run_dir / EVIDENCE
    folder.mkdir(parents=True, exist_ok=True)
    everything = {**tensors, **{f"crossed.{name}": tensor for name, tensor in fault.evidence.items()}}
    # clones: safetensors refuses tensors that share memory
    alone = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in everything.items()}
    write_bytes(folder / "tensors.safetensors", save(alone))
    write_json(folder / "fault.json", {"step": step, "source": fault.source, "fault": str(fault)})
    return folder
