"""What an OpenVLA teacher is and what its actions mean in an environment, in words; reads no weights."""

from __future__ import annotations

import numpy as np
import torch

from envs.specs import EnvSpec
from teachers.base import Description
from teachers.meaning import action_rows
from teachers.openvla.config import ProcessorConfig
from teachers.openvla.model import OpenVLA
from teachers.openvla.setup import Setup


def explain(setup: Setup, spec: EnvSpec, instruction: str) -> Description:
    """Describe a teacher in an environment.

    Args:
        setup: the teacher.
        spec: the environment.
        instruction: an example.

    Raises:
        ConfigError: its actions do not fit the environment, or its prompts do not work.
    """
    config, options = setup.checkpoint.config, setup.options
    prompter = setup.checkpoint.prompter(setup.statistics.dim)
    said = options.instruction or instruction
    with torch.device("meta"):
        parameters = OpenVLA(config).num_parameters
    facts = {
        "checkpoint": setup.checkpoint.name,
        "parameters": f"{parameters:,} that are used",
        "dtype": options.dtype if options.dtype != "auto" else "bf16 on a GPU, fp32 on a CPU",
        "vision": ", ".join(config.timm_model_ids),
        "image": f"view.{setup.camera} or image.{setup.camera}, rendered at {setup.image_size} pixels",
        "processing": _processing(setup.checkpoint.processor, config.image_size, setup.crop),
        "visual tokens": f"{config.num_patches} per image"
        + ("" if options.cache is None else f", kept where no pixel changes by more than {options.cache:g}"),
        "prompt": f"{prompter.text(said)!r}, {len(prompter.ids(said))} tokens",
        "statistics": f"{setup.unnorm_key} (of {len(setup.checkpoint.statistics)})",
        "control rate": "any" if setup.bridge.control_hz is None else f"{setup.bridge.control_hz:g} Hz",
    }
    ends = setup.statistics.unnormalize(np.repeat([[-1.0], [1.0]], setup.statistics.dim, 1))
    return Description(facts, action_rows(setup.bridge, ends, spec, setup.name))


def _processing(processor: ProcessorConfig, size: int, crop: float | None) -> str:
    middle = "" if crop is None else f"middle {crop:.0%} of the area, "
    means = "; ".join(" ".join(f"{m:.4g}" for m in n.mean) for n in processor.tvf_normalize_params)
    return f"{middle}{processor.image_resize_strategy} to {size} pixels, normalised about {means}"
