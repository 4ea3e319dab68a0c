"""What a teacher's name asks for: checkpoint, statistics, bridge and cameras, before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from envs.errors import ConfigError, unknown_name
from teachers.bridge import Bridge, find_bridge
from teachers.octo.checkpoint import Checkpoint, locate, read_checkpoint, weights_file
from teachers.octo.config import DiffusionHead
from teachers.octo.language import Words
from teachers.octo.statistics import ActionStatistics, Normalization, select
from teachers.registry import Options, parse_options

CAMERA = "front"
PRIMARY, WRIST = "image_primary", "image_wrist"


class OctoOptions(Options):
    """What follows the commas in ``octo:...``."""

    bridge: str | None = None
    """What its actions mean: a shipped bridge or a file (default: bridge.yaml beside the weights)."""
    unnorm_key: str | None = None
    """Action statistics to use (default: the bridge's, or the only ones)."""
    normalization: Normalization = "normal"
    """How actions were normalised in training."""
    camera: str | None = None
    """Camera for image_primary (default: the bridge's, or front)."""
    wrist: str | None = None
    """Camera for image_wrist (default: none, which the model knows from its training)."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Pixels to render for them (default: the bridge's, or what the model sees)."""
    crop: float | None = Field(None, gt=0, le=1)
    """Fraction of the area of image_primary to look at (default: the bridge's, or all; Octo's own evaluation: 0.9)."""
    instruction: str | None = None
    """Told to it in place of the task's."""
    tokenizer: str | None = None
    """T5 tokenizer: folder, tokenizer.json, or model on the hub (default: beside the weights, or the configuration's)."""
    language: Path | None = None
    """Token ids (JSON) or embeddings (safetensors) by instruction, in place of a tokenizer."""
    samples: int = Field(32, ge=2)
    """Actions drawn per label, S."""
    window: int = Field(1, ge=1)
    """Time steps that it sees, W."""
    ddim: int | None = Field(None, ge=1)
    """Denoise in so many steps without noise (default: in all of them, as in training)."""
    execute: int = Field(1, ge=1)
    """As a policy: actions of a chunk that are executed before the next is drawn."""
    ensemble: float | None = Field(None, ge=0)
    """As a policy: average the chunks drawn so far, with weights exp(-ensemble * i), the oldest first (default: do not)."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of weights and arithmetic; the action head is always fp32."""
    batch: int = Field(32, ge=1)
    """Observations per pass of the transformer."""
    compile: bool = False
    """Compile the transformer with torch.compile: minutes at the start."""
    step: int | None = None
    """Training step of the checkpoint (default: the last)."""


@dataclass(frozen=True)
class Setup:
    """One teacher, without weights."""

    name: str
    folder: Path
    options: OctoOptions
    checkpoint: Checkpoint
    bridge: Bridge
    unnorm_key: str
    statistics: ActionStatistics
    cameras: dict[str, str]
    """The environment's camera for each image that the model is shown."""

    @property
    def image_size(self) -> int:
        """Pixels to render."""
        largest = max(max(self.checkpoint.cameras[key]) for key in self.cameras)
        return self.options.image_size or self.bridge.image_size or largest

    @property
    def crop(self) -> float | None:
        """Fraction of the area of image_primary to look at; None: all."""
        return self.options.crop or self.bridge.crop

    def words(self) -> Words:
        """How instructions become tokens.

        Raises:
            ConfigError: what ``language`` names cannot be read.
        """
        return Words(self.options.tokenizer or self.checkpoint.tokenizer, self.options.language, self.name)


def resolve(argument: str | None, options: dict[str, str], weights: bool = False) -> Setup:
    """Read everything about a teacher but its weights.

    Args:
        argument: folder or hub id.
        options: see `OctoOptions`.
        weights: whether a checkpoint from the hub is downloaded with its weights.

    Raises:
        ConfigError: no such checkpoint, or one that is not supported; no such statistics, bridge or camera; or an option that
            does not fit the model.
    """
    if argument is None:
        raise ConfigError("teacher 'octo' needs a checkpoint, e.g. octo:runs/octo or octo:hf://rail-berkeley/octo-small-1.5")
    chosen = parse_options(OctoOptions, options, "octo")
    folder = locate(argument, weights)
    checkpoint = read_checkpoint(folder, argument)
    if weights or Path(argument).is_dir():
        weights_file(folder, chosen.step)
    _check(chosen, checkpoint)
    bridge = find_bridge(chosen.bridge, checkpoint.name, checkpoint.files, "octo")
    key, statistics = select(checkpoint.statistics, chosen.unnorm_key or bridge.unnorm_key, chosen.normalization, argument)
    if statistics.dim > checkpoint.config.head.action_dim:
        raise ConfigError(
            f"{argument}: the action statistics of {key} have {statistics.dim} dimensions, the model "
            f"{checkpoint.config.head.action_dim}: they are of another data set"
        )
    cameras = _cameras(chosen, bridge, checkpoint)
    return Setup(f"octo:{argument}", folder, chosen, checkpoint, bridge, key, statistics, cameras)


def _check(options: OctoOptions, checkpoint: Checkpoint) -> None:
    """Refuse options that the model cannot follow."""
    config, where = checkpoint.config, f"teacher octo:{checkpoint.name}"
    if options.window > config.max_horizon:
        raise ConfigError(f"{where}: window={options.window}: this model's horizon is {config.max_horizon} time steps")
    if options.execute > config.head.action_horizon:
        raise ConfigError(f"{where}: execute={options.execute}: a chunk of this model has {config.head.action_horizon} actions")
    if options.execute > 1 and options.ensemble is not None:
        raise ConfigError(f"{where}: execute and ensemble exclude each other: an ensemble needs a chunk per step")
    if options.ddim is not None:
        if not isinstance(config.head, DiffusionHead):
            raise ConfigError(f"{where}: ddim={options.ddim}: this model's head does not denoise")
        if options.ddim > config.head.diffusion_steps:
            raise ConfigError(f"{where}: ddim={options.ddim}: this model was trained on {config.head.diffusion_steps} steps")


def _cameras(options: OctoOptions, bridge: Bridge, checkpoint: Checkpoint) -> dict[str, str]:
    """The environment's camera for each image that the model is shown."""
    there = checkpoint.cameras
    asked = {WRIST: options.wrist} if options.wrist is not None else {}
    if PRIMARY in there or options.camera is not None or not asked:
        asked = {PRIMARY: options.camera or bridge.camera or CAMERA, **asked}
    for key in asked:
        if key not in there:
            raise unknown_name(f"image of {checkpoint.name}", key, there)
    return asked
