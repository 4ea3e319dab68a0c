"""Describe an OpenVLA teacher and the units of its actions in an environment; reads no weights."""

from __future__ import annotations

import numpy as np
import torch

from rpd.envs.specs import EnvSpec
from rpd.teachers import inputs
from rpd.teachers.base import Description
from rpd.teachers.openvla.config import ProcessorConfig
from rpd.teachers.openvla.model import OpenVLA
from rpd.teachers.openvla.setup import Setup
from rpd.teachers.vla.action_table import LEVELS, describe_teacher
from rpd.teachers.vla.images import describe_crop


def describe_setup(setup: Setup, spec: EnvSpec, instruction: str) -> Description:
    """Describe a teacher in an environment.

    Args:
        setup: the teacher.
        spec: the environment.
        instruction: an example instruction.

    Raises:
        ConfigError: its actions do not fit the environment, or its prompts are invalid.
    """
    config, options = setup.checkpoint.config, setup.options
    prompter = setup.prompter()
    said = options.instruction or instruction
    processing = _processing(setup.checkpoint.processor, config.image_size, setup.crop)
    count = f"{len(prompter.ids(said))} tokens" + _style(setup)
    given = [
        inputs.image("pixel_values", setup.camera, setup.image_size, processing),
        inputs.prompt("input_ids", prompter.text(said), count, options.instruction is not None),
    ]
    with torch.device("meta"):
        parameters = OpenVLA(config).num_parameters
    facts = {
        "checkpoint": setup.checkpoint.name,
        "parameters": f"{parameters:,} in use",
        "dtype": options.dtype if options.dtype != "auto" else "bf16 on a GPU, fp32 on a CPU",
        "vision": ", ".join(config.timm_model_ids),
        "processing": processing,
        "visual tokens": f"{config.num_patches} per image"
        + ("" if options.cache is None else f", kept where no pixel changes by more than {options.cache:g}"),
        "prompt": given[1].sent,
        "statistics": f"{setup.unnorm_key} (of {len(setup.checkpoint.statistics)})",
        "control rate": "any" if setup.action_mapping.control_hz is None else f"{setup.action_mapping.control_hz:g} Hz",
    }
    meaning = setup.statistics.unnormalize(np.repeat(LEVELS[:, None], setup.statistics.dim, 1))
    return describe_teacher(facts, given, setup.action_mapping, meaning, spec, setup.name, setup.reach)


def _style(setup: Setup) -> str:
    asked, backbone = setup.options.prompt, setup.checkpoint.config.llm_backbone_id
    return f", as {setup.checkpoint.style(asked)} prompts ({'prompt=' if asked else f'llm_backbone_id {backbone}'})"


def _processing(processor: ProcessorConfig, size: int, crop: float | None) -> str:
    means = "; ".join(" ".join(f"{m:.4g}" for m in n.mean) for n in processor.tvf_normalize_params)
    return f"{describe_crop(crop)}, {processor.image_resize_strategy} to {size} pixels, normalized about {means}"
