"""Options of `rpd export`."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import BaseModel, ConfigDict


class ExportOptions(BaseModel):
    """Export a trained policy for a robot's computer, which needs only numpy and onnxruntime, and test the export."""

    model_config = ConfigDict(extra="forbid")

    run: tyro.conf.Positional[str]
    """Policy reference to a run, a checkpoint or a policy folder."""
    robot: str | None = None
    """Robot, for a policy that fits several (a generalist, or one with `state_keys`); default: its own."""
    task: str | None = None
    """Task, for a policy of several tasks; default: its own."""
    sampler: str | None = None
    """Sampler of a diffusion policy: ddpm, ddim:steps=16, euler, rti:timesteps=3, ...; see docs/diffusion.md."""
    out: Path | None = None
    """Folder to write, must not exist; default: export/onnx in the run."""
