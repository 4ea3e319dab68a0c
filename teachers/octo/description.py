"""What an Octo teacher is and what its actions mean in an environment, in words; reads no weights."""

from __future__ import annotations

import numpy as np

from envs.errors import ConfigError
from envs.specs import EnvSpec
from teachers.base import Description
from teachers.meaning import action_rows
from teachers.octo.checkpoint import CONVERTED, weights_file
from teachers.octo.config import ContinuousHead, DiffusionHead
from teachers.octo.setup import PRIMARY, Setup


def explain(setup: Setup, spec: EnvSpec, instruction: str) -> Description:
    """Describe a teacher in an environment.

    Args:
        setup: the teacher.
        spec: the environment.
        instruction: an example.

    Raises:
        ConfigError: its actions do not fit the environment.
    """
    config, options = setup.checkpoint.config, setup.options
    t, head = config.transformer, config.head
    facts = {
        "checkpoint": setup.checkpoint.name,
        "weights": _weights(setup),
        "dtype": options.dtype,
        "transformer": f"{t.num_layers} layers, {config.width} wide, {t.num_attention_heads} heads",
        "head": f"{type(head).__name__}, {head.action_horizon} actions of {head.action_dim} numbers" + _steps(setup),
        "images": "; ".join(_image(setup, key) for key in setup.checkpoint.cameras),
        "window": f"{options.window} of at most {config.max_horizon} time steps",
        "instruction": _said(setup, options.instruction or instruction),
        "label": "one action" if isinstance(head, ContinuousHead) else f"{options.samples} samples",
        "as a policy": f"executes {options.execute} of a chunk's {head.action_horizon} actions"
        if options.ensemble is None
        else f"averages the last {head.action_horizon} chunks, weights exp(-{options.ensemble:g} i)",
        "statistics": f"{setup.unnorm_key}, {options.normalization}",
        "control rate": "any" if setup.bridge.control_hz is None else f"{setup.bridge.control_hz:g} Hz",
    }
    gain, offset = setup.statistics.affine(options.normalization)
    return Description(facts, action_rows(setup.bridge, np.stack([offset - gain, offset + gain]), spec, setup.name))


def _weights(setup: Setup) -> str:
    try:
        file = weights_file(setup.folder, setup.options.step)
    except ConfigError:
        return "on the hub, not downloaded yet"
    kind = "" if file.name == CONVERTED else " of msgpack; `rpd convert octo` makes it load faster"
    return f"{file.relative_to(setup.folder)}, {file.stat().st_size / 1e6:.0f} MB{kind}"


def _steps(setup: Setup) -> str:
    head = setup.checkpoint.config.head
    if not isinstance(head, DiffusionHead):
        return ""
    how = f"in {setup.options.ddim} steps of DDIM" if setup.options.ddim else f"in {head.diffusion_steps} steps"
    return f", denoised {how}"


def _image(setup: Setup, key: str) -> str:
    height, width = setup.checkpoint.cameras[key]
    if key not in setup.cameras:
        return f"{key} ({height} x {width}): not shown"
    camera = setup.cameras[key]
    crop = f", middle {setup.crop:.0%} of the area" if setup.crop is not None and key == PRIMARY else ""
    return f"{key} ({height} x {width}): view.{camera} or image.{camera}, rendered at {setup.image_size} pixels{crop}"


def _said(setup: Setup, instruction: str) -> str:
    words = setup.words()
    if instruction in words.embeddings:
        return f"{instruction!r}, embedding of its own"
    try:
        return f"{instruction!r}, {len(words.ids(instruction))} tokens of at most {setup.checkpoint.config.max_tokens}"
    except ConfigError as error:
        return f"{instruction!r}: {error}"
