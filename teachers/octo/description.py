"""Describe an Octo teacher and the units of its actions in an environment; reads no weights."""

from __future__ import annotations

import numpy as np

from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.teachers import inputs
from rpd.teachers.base import Description, Input
from rpd.teachers.octo.checkpoint import CONVERTED, weights_file
from rpd.teachers.octo.config import ContinuousHead, DiffusionHead
from rpd.teachers.octo.setup import PRIMARY, Setup
from rpd.teachers.vla.action_table import LEVELS, describe_teacher
from rpd.teachers.vla.images import describe_crop


def describe_setup(setup: Setup, spec: EnvSpec, instruction: str) -> Description:
    """Describe a teacher in an environment.

    Args:
        setup: the teacher.
        spec: the environment.
        instruction: an example instruction.

    Raises:
        ConfigError: its actions do not fit the environment.
    """
    config, options = setup.checkpoint.config, setup.options
    t, head = config.transformer, config.head
    said = _instruction_input(setup, instruction)
    facts = {
        "checkpoint": setup.checkpoint.name,
        "weights": _weights(setup),
        "dtype": options.dtype,
        "transformer": f"{t.num_layers} layers, {config.width} wide, {t.num_attention_heads} heads",
        "head": f"{type(head).__name__}, {head.action_horizon} actions of {head.action_dim} numbers" + _steps(setup),
        "window": f"{options.window} of at most {config.max_horizon} time steps",
        "instruction": said.sent,
        "label": "one action" if isinstance(head, ContinuousHead) else f"{options.samples} samples",
        "as a policy": f"executes {options.n_action_steps} of a chunk's {head.action_horizon} actions"
        if options.ensemble is None
        else f"averages the last {head.action_horizon} chunks, weights exp(-{options.ensemble:g} i)",
        "statistics": f"{setup.unnorm_key}, {setup.normalization}",
        "control rate": "any" if setup.action_mapping.control_hz is None else f"{setup.action_mapping.control_hz:g} Hz",
    }
    gain, offset = setup.statistics.affine(setup.normalization)
    given = [*(_image(setup, key) for key in setup.checkpoint.cameras), said]
    return describe_teacher(facts, given, setup.action_mapping, offset + np.outer(LEVELS, gain), spec, setup.name, setup.reach)


def _weights(setup: Setup) -> str:
    try:
        file = weights_file(setup.folder, setup.options.step)
    except ConfigError:
        return "on the hub, not downloaded yet"
    kind = "" if file.name == CONVERTED else " of msgpack; `rpd teacher convert octo` makes it load faster"
    return f"{file.relative_to(setup.folder)}, {file.stat().st_size / 1e6:.0f} MB{kind}"


def _steps(setup: Setup) -> str:
    head = setup.checkpoint.config.head
    if not isinstance(head, DiffusionHead):
        return ""
    how = f"in {setup.options.ddim} steps of DDIM" if setup.options.ddim else f"in {head.diffusion_steps} steps"
    return f", denoised {how}"


def _image(setup: Setup, key: str) -> Input:
    height, width = setup.checkpoint.cameras[key]
    if key not in setup.cameras:
        return Input(key, "none", f"not shown, as in parts of its training ({height} x {width})")
    crop = f"{describe_crop(setup.crop)}, " if key == PRIMARY else ""
    steps = "" if setup.options.window == 1 else f", {setup.options.window} time steps"
    return inputs.image(key, setup.cameras[key], setup.image_size, f"{crop}resized to {height} x {width}{steps}")


def _instruction_input(setup: Setup, instruction: str) -> Input:
    words, text = setup.words(), (setup.options.instruction or instruction).strip()
    if text in words.embeddings:
        about = "its own embedding"
    else:
        try:
            about = f"{len(words.ids(text))} tokens of at most {setup.checkpoint.config.max_tokens}"
        except ConfigError as error:
            about = str(error)
    return inputs.prompt("language_instruction", text, about, setup.options.instruction is not None)
