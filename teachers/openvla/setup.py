"""Resolve a teacher's name and options: checkpoint, statistics, action mapping and camera, without reading weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from rpd.envs.errors import ConfigError
from rpd.teachers.openvla.actions import ActionBins, ActionStatistics, select
from rpd.teachers.openvla.checkpoint import Checkpoint, checkpoint_folder, read_checkpoint
from rpd.teachers.openvla.prompt import Prompter
from rpd.teachers.registry import Options, parse_options
from rpd.teachers.vla.action_mapping import ActionMapping, find_action_mapping
from rpd.teachers.vla.reach import Reach

CAMERA = "front"
AUGMENTED = "image_aug"
"""Part of the run names of OpenVLA's finetune.py; its run_libero_eval.py then requires a center crop."""


class OpenVLAOptions(Options):
    """Options of ``openvla:...``."""

    action_mapping: str | None = None
    """Action mapping: a shipped one or a file (default: action_mapping.yaml in the checkpoint folder)."""
    unnorm_key: str | None = None
    """Key of the action statistics (default: the action mapping's, or the only one)."""
    camera: str | None = None
    """Camera of its images (default: the action mapping's, or front)."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Rendered size of its images, pixels (default: the action mapping's, or the model's input size)."""
    crop: float | None = Field(None, gt=0, le=1)
    """Fraction of the image area to use (default: the action mapping's, or all; 0.9 for training with image augmentation)."""
    instruction: str | None = None
    """Instruction that replaces the task's."""
    prompt: Literal["openvla", "v01"] | None = None
    """Prompt style: openvla's, or that of the v01 models (default: determined by the language model in config.json)."""
    dtype: Literal["auto", "fp32", "bf16", "fp16", "int8", "nf4"] = "auto"
    """Dtype of weights and activations; auto: bf16 on a GPU, fp32 on a CPU. int8 and nf4 apply to the language model's
    layers."""
    batch: int = Field(32, ge=1)
    """Observations per forward pass."""
    cache: float | None = Field(None, ge=0, lt=1)
    """Keep the visual tokens of patches whose pixels changed by at most this fraction of their range (default: no cache)."""


@dataclass(frozen=True)
class Setup:
    """Everything about a teacher except its weights."""

    name: str
    folder: Path
    options: OpenVLAOptions
    checkpoint: Checkpoint
    action_mapping: ActionMapping
    unnorm_key: str
    statistics: ActionStatistics

    @property
    def camera(self) -> str:
        """Camera of the teacher's images."""
        return self.options.camera or self.action_mapping.camera or CAMERA

    @property
    def image_size(self) -> int:
        """Rendered size of its images, pixels."""
        return self.options.image_size or self.action_mapping.image_size or self.checkpoint.config.image_size

    @property
    def crop(self) -> float | None:
        """Fraction of the image area to use; None: unknown, use all."""
        return self.options.crop or self.action_mapping.crop

    def prompter(self) -> Prompter:
        """Prompter of this teacher.

        Raises:
            ConfigError: see `Checkpoint.prompter`.
        """
        return self.checkpoint.prompter(self.statistics.dim, self.options.prompt)

    @property
    def reach(self) -> Reach:
        """Range of its actions: the ends of its bins, and its data in dimensions that are not normalized."""
        config = self.checkpoint.config
        ends = ActionBins(config.vocab, config.n_action_bins).centers[[0, -1]]
        return self.statistics.reach(ends, f"its bins and the statistics of '{self.unnorm_key}'")


def resolve(argument: str | None, options: dict[str, str], weights: bool = False) -> Setup:
    """Read everything about a teacher except its weights.

    Args:
        argument: folder or hub id.
        options: see `OpenVLAOptions`.
        weights: whether to download the weights of a checkpoint on the hub.

    Raises:
        ConfigError: the checkpoint does not exist or is not supported; unknown, or no, statistics or action mapping.
    """
    if argument is None:
        raise ConfigError("teacher 'openvla' needs a checkpoint, e.g. openvla:runs/vla or openvla:hf://openvla/openvla-7b")
    chosen = parse_options(OpenVLAOptions, options, "openvla")
    folder = checkpoint_folder(argument, weights)
    checkpoint = read_checkpoint(folder, argument)
    datasets = [chosen.unnorm_key] if chosen.unnorm_key else list(checkpoint.statistics)
    action_mapping = find_action_mapping(chosen.action_mapping, checkpoint.name, checkpoint.files, "openvla", datasets)
    asked = chosen.unnorm_key or action_mapping.unnorm_key
    key, statistics = select(checkpoint.statistics, asked, argument, checkpoint.config.norm_stats)
    checkpoint.style(chosen.prompt)  # refuses a model with an unknown prompt style
    setup = Setup(f"openvla:{argument}", folder, chosen, checkpoint, action_mapping, key, statistics)
    if setup.crop is None and AUGMENTED in f"{argument} {folder.resolve().name}":
        raise ConfigError(
            f"{argument}: its name has '{AUGMENTED}', which OpenVLA's fine-tuning adds for models trained on random crops, but "
            "the checkpoint does not store it: add crop=0.9 for their middle, or crop=1 for the whole image"
        )
    return setup
