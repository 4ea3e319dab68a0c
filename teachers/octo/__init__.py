"""Octo checkpoints as teachers, read natively: PyTorch, msgpack and T5 from transformers; no JAX, flax or TensorFlow.

This module stays light; what needs transformers is imported when a teacher is built.
"""

from __future__ import annotations

import torch

from envs.specs import EnvSpec
from teachers.base import Description, Footprint, Teacher, Views
from teachers.bridge import connect
from teachers.octo.setup import resolve


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> Teacher:
    """Build ``octo:FOLDER_OR_HUB_ID,...``; see `teachers.registry` and `OctoOptions`.

    Raises:
        ConfigError: see `resolve` and `weights.load`.
        SpecMismatch: its actions do not fit the environment; said before weights are read.
    """
    setup = resolve(argument, options, weights=True)
    connect(setup.bridge, setup.statistics.dim, spec, setup.name)
    from teachers.octo.teacher import load_teacher

    return load_teacher(setup, spec, device)


def needs(argument: str | None, options: dict[str, str]) -> Views:
    """The cameras that the teacher looks through."""
    setup = resolve(argument, options)
    return Views(tuple(setup.cameras.values()), setup.image_size)


def describe(argument: str | None, options: dict[str, str], spec: EnvSpec, instruction: str) -> Description:
    """See `teachers.octo.explain`."""
    from teachers.octo.explain import explain

    return explain(resolve(argument, options), spec, instruction)


def footprint(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device, rows: int) -> Footprint:
    """See `teachers.octo.memory`."""
    from teachers.octo.memory import footprint as count

    return count(resolve(argument, options), spec, device, rows)
