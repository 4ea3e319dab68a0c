"""Resolve a teacher's name and options: checkpoint, statistics, action mapping and cameras, without reading weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from rpd.envs.errors import ConfigError, unknown_name
from rpd.teachers.octo.checkpoint import Checkpoint, checkpoint_folder, read_checkpoint, weights_file
from rpd.teachers.octo.config import DiffusionHead
from rpd.teachers.octo.heads import action_range
from rpd.teachers.octo.language import Words
from rpd.teachers.octo.statistics import ActionStatistics, Normalization, select
from rpd.teachers.registry import Options, parse_options
from rpd.teachers.vla.action_mapping import ActionMapping, find_action_mapping
from rpd.teachers.vla.reach import Reach

CAMERA = "front"
PRIMARY, WRIST = "image_primary", "image_wrist"


class OctoOptions(Options):
    """Options of ``octo:...``."""

    action_mapping: str | None = None
    """Action mapping: a shipped one or a file (default: action_mapping.yaml in the checkpoint folder)."""
    unnorm_key: str | None = None
    """Key of the action statistics (default: the action mapping's, or the only one)."""
    normalization: Normalization | None = None
    """Normalization of actions in training (default: as stored in the checkpoint, or normal)."""
    camera: str | None = None
    """Camera for image_primary (default: the action mapping's, or front)."""
    wrist: str | None = None
    """Camera for image_wrist (default: none, as in parts of the model's training)."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Rendered size of their images, pixels (default: the action mapping's, or the model's input size)."""
    crop: float | None = Field(None, gt=0, le=1)
    """Fraction of the area of image_primary to use (default: the action mapping's, or all; Octo's own evaluation: 0.9).
    Required for checkpoints trained on random crops."""
    instruction: str | None = None
    """Instruction that replaces the task's."""
    tokenizer: str | None = None
    """T5 tokenizer: folder, tokenizer.json, or model on the hub (default: in the checkpoint folder, or the configuration's)."""
    language: Path | None = None
    """Token ids (JSON) or embeddings (safetensors) by instruction, instead of a tokenizer."""
    samples: int = Field(32, ge=2)
    """Actions drawn per label, S."""
    window: int = Field(1, ge=1)
    """Time steps in the model's input, W."""
    ddim: int | None = Field(None, ge=1)
    """Number of denoising steps without noise (default: all steps, as in training)."""
    n_action_steps: int = Field(1, ge=1)
    """As a policy: actions of a chunk that are executed before the next chunk is drawn."""
    ensemble: float | None = Field(None, ge=0)
    """As a policy: average the chunks drawn so far, with weights exp(-ensemble * i), oldest first (default: off)."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Dtype of weights and activations; the action head always uses fp32."""
    batch: int = Field(32, ge=1)
    """Observations per forward pass of the transformer."""
    compile: bool = False
    """Compile the transformer with torch.compile; takes minutes at the start."""
    step: int | None = None
    """Training step of the checkpoint (default: the last)."""


@dataclass(frozen=True)
class Setup:
    """Everything about a teacher except its weights."""

    name: str
    folder: Path
    options: OctoOptions
    checkpoint: Checkpoint
    action_mapping: ActionMapping
    unnorm_key: str
    statistics: ActionStatistics
    normalization: Normalization
    """Normalization of actions in training."""
    cameras: dict[str, str]
    """Camera of the environment for each image input of the model."""

    @property
    def image_size(self) -> int:
        """Rendered size of the images, pixels."""
        largest = max(max(self.checkpoint.cameras[key]) for key in self.cameras)
        return self.options.image_size or self.action_mapping.image_size or largest

    @property
    def crop(self) -> float | None:
        """Fraction of the area of image_primary to use; None: unknown, use all."""
        return self.options.crop or self.action_mapping.crop

    @property
    def reach(self) -> Reach:
        """Range of its actions: that of its head, limited to its data."""
        source = f"its head and the statistics of '{self.unnorm_key}'"
        return self.statistics.reach(self.normalization, action_range(self.checkpoint.config.head), source)

    def words(self) -> Words:
        """Tokenizer or table for instructions.

        Raises:
            ConfigError: the file of ``language`` cannot be read.
        """
        return Words(self.options.tokenizer or self.checkpoint.tokenizer, self.options.language, self.name)


def resolve(argument: str | None, options: dict[str, str], weights: bool = False) -> Setup:
    """Read everything about a teacher except its weights.

    Args:
        argument: folder or hub id.
        options: see `OctoOptions`.
        weights: whether to download the weights of a checkpoint on the hub.

    Raises:
        ConfigError: the checkpoint does not exist or is not supported; unknown statistics, action mapping or camera; or an
        option
            that does not fit the model.
    """
    if argument is None:
        raise ConfigError("teacher 'octo' needs a checkpoint, e.g. octo:runs/octo or octo:hf://rail-berkeley/octo-small-1.5")
    chosen = parse_options(OctoOptions, options, "octo")
    folder = checkpoint_folder(argument, weights)
    checkpoint = read_checkpoint(folder, argument)
    if weights or Path(argument).is_dir():
        weights_file(folder, chosen.step)
    _check(chosen, checkpoint)
    datasets = [chosen.unnorm_key] if chosen.unnorm_key else list(checkpoint.statistics)
    action_mapping = find_action_mapping(chosen.action_mapping, checkpoint.name, checkpoint.files, "octo", datasets)
    training = checkpoint.training
    kind = chosen.normalization or training.normalization or "normal"
    key, statistics = select(checkpoint.statistics, chosen.unnorm_key or action_mapping.unnorm_key, kind, argument)
    if statistics.dim > checkpoint.config.head.action_dim:
        raise ConfigError(
            f"{argument}: the action statistics of {key} have {statistics.dim} dimensions, the model "
            f"{checkpoint.config.head.action_dim}: they are of another data set"
        )
    cameras = _cameras(chosen, action_mapping, checkpoint)
    setup = Setup(f"octo:{argument}", folder, chosen, checkpoint, action_mapping, key, statistics, kind, cameras)
    if setup.crop is None and training.crop_scale is not None and PRIMARY in cameras:
        low, high = training.crop_scale
        raise ConfigError(
            f"{argument}: according to {training.source}, it was trained on random crops of {low:g} to {high:g} of the area of "
            f"{PRIMARY}: add crop={(low + high) / 2:g} for their middle, or crop=1 for the whole image"
        )
    return setup


def _check(options: OctoOptions, checkpoint: Checkpoint) -> None:
    """Refuse options that the model does not support."""
    config, where = checkpoint.config, f"teacher octo:{checkpoint.name}"
    if options.window > config.max_horizon:
        raise ConfigError(f"{where}: window={options.window}: this model's horizon is {config.max_horizon} time steps")
    if options.n_action_steps > config.head.action_horizon:
        raise ConfigError(
            f"{where}: n_action_steps={options.n_action_steps}: a chunk of this model has {config.head.action_horizon} actions"
        )
    if options.n_action_steps > 1 and options.ensemble is not None:
        raise ConfigError(f"{where}: n_action_steps and ensemble exclude each other: an ensemble needs a chunk per step")
    if options.ddim is not None:
        if not isinstance(config.head, DiffusionHead):
            raise ConfigError(f"{where}: ddim={options.ddim}: this model's head does not denoise")
        if options.ddim > config.head.diffusion_steps:
            raise ConfigError(f"{where}: ddim={options.ddim}: this model was trained on {config.head.diffusion_steps} steps")


def _cameras(options: OctoOptions, action_mapping: ActionMapping, checkpoint: Checkpoint) -> dict[str, str]:
    """Camera of the environment for each image input of the model."""
    there = checkpoint.cameras
    asked = {WRIST: options.wrist} if options.wrist is not None else {}
    if PRIMARY in there or options.camera is not None or not asked:
        asked = {PRIMARY: options.camera or action_mapping.camera or CAMERA, **asked}
    for key in asked:
        if key not in there:
            raise unknown_name(f"image of {checkpoint.name}", key, there)
    return asked
