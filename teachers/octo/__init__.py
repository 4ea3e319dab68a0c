"""Octo checkpoints as teachers, read natively: PyTorch, msgpack and T5 from transformers; no JAX, flax or TensorFlow.

This module is light; modules that need transformers are imported when a teacher is built.
"""

from __future__ import annotations

import torch

from rpd.envs.specs import EnvSpec
from rpd.students.identity import folder_identity
from rpd.teachers.base import CameraRequest, Description, Footprint, Teacher
from rpd.teachers.octo.setup import resolve
from rpd.teachers.vla.action_mapping import connect


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> Teacher:
    """Build ``octo:FOLDER_OR_HUB_ID,...``; see `rpd.teachers.registry` and `OctoOptions`.

    Raises:
        ConfigError: see `resolve` and `weights.load`.
        SpecMismatch: its actions do not fit the environment; raised before weights are read.
    """
    setup = resolve(argument, options, weights=True)
    connect(setup.action_mapping, setup.statistics.dim, spec, setup.name, setup.reach)
    from rpd.teachers.octo.teacher import load_teacher

    return load_teacher(setup, spec, device)


def camera_request(argument: str | None, options: dict[str, str]) -> CameraRequest:
    """Cameras that the teacher needs."""
    setup = resolve(argument, options)
    return CameraRequest(tuple(setup.cameras.values()), setup.image_size)


def identity(argument: str | None, options: dict[str, str]) -> str:
    """See `rpd.teachers.registry.identity`: digest of all files of the checkpoint."""
    return folder_identity(resolve(argument, options, weights=True).folder)


def describe(argument: str | None, options: dict[str, str], spec: EnvSpec, instruction: str) -> Description:
    """See `rpd.teachers.octo.description`."""
    from rpd.teachers.octo.description import describe_setup

    return describe_setup(resolve(argument, options), spec, instruction)


def footprint(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device, rows: int) -> Footprint:
    """See `rpd.teachers.octo.memory`."""
    from rpd.teachers.octo.memory import footprint as count

    return count(resolve(argument, options), spec, device, rows)
