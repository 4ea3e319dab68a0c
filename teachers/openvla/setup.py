"""What a teacher's name asks for: checkpoint, statistics, bridge and camera, before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from envs.errors import ConfigError
from teachers.bridge import Bridge, find_bridge
from teachers.openvla.actions import ActionStatistics, select
from teachers.openvla.checkpoint import Checkpoint, locate, read_checkpoint
from teachers.registry import Options, parse_options

CAMERA = "front"


class OpenVLAOptions(Options):
    """What follows the commas in ``openvla:...``."""

    bridge: str | None = None
    """What its actions mean: a shipped bridge or a file (default: bridge.yaml beside the weights)."""
    unnorm_key: str | None = None
    """Action statistics to use (default: the bridge's, or the only ones)."""
    camera: str | None = None
    """Camera that it looks through (default: the bridge's, or front)."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Pixels to render for it (default: the bridge's, or what the model sees)."""
    crop: float | None = Field(None, gt=0, le=1)
    """Fraction of the image's area to look at (default: the bridge's, or all)."""
    instruction: str | None = None
    """Told to it in place of the task's."""
    dtype: Literal["auto", "fp32", "bf16", "fp16", "int8", "nf4"] = "auto"
    """Of weights and arithmetic; auto is bf16 on a GPU, fp32 on a CPU. int8 and nf4 are for the language model's layers."""
    batch: int = Field(32, ge=1)
    """Observations per forward pass."""
    cache: float | None = Field(None, ge=0, lt=1)
    """Keep the visual tokens of patches in which no pixel changed by more than this, of its range (default: no cache)."""


@dataclass(frozen=True)
class Setup:
    """One teacher, without weights."""

    name: str
    folder: Path
    options: OpenVLAOptions
    checkpoint: Checkpoint
    bridge: Bridge
    unnorm_key: str
    statistics: ActionStatistics

    @property
    def camera(self) -> str:
        """Camera that the teacher looks through."""
        return self.options.camera or self.bridge.camera or CAMERA

    @property
    def image_size(self) -> int:
        """Pixels to render for it."""
        return self.options.image_size or self.bridge.image_size or self.checkpoint.config.image_size

    @property
    def crop(self) -> float | None:
        """Fraction of the image's area to look at; None: all."""
        return self.options.crop or self.bridge.crop


def resolve(argument: str | None, options: dict[str, str], weights: bool = False) -> Setup:
    """Read everything about a teacher but its weights.

    Args:
        argument: folder or hub id.
        options: see `OpenVLAOptions`.
        weights: whether a checkpoint from the hub is downloaded with its weights.

    Raises:
        ConfigError: no such checkpoint, or one that is not supported; no such statistics or bridge, or none chosen.
    """
    if argument is None:
        raise ConfigError("teacher 'openvla' needs a checkpoint, e.g. openvla:runs/vla or openvla:hf://openvla/openvla-7b")
    chosen = parse_options(OpenVLAOptions, options, "openvla")
    folder = locate(argument, weights)
    checkpoint = read_checkpoint(folder, argument)
    bridge = find_bridge(chosen.bridge, checkpoint.name, checkpoint.files, "openvla")
    key, statistics = select(checkpoint.statistics, chosen.unnorm_key or bridge.unnorm_key, argument)
    return Setup(f"openvla:{argument}", folder, chosen, checkpoint, bridge, key, statistics)
