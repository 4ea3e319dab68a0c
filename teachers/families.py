"""Families of teachers: the prefixes of policy references, and the module that builds each."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """A family of teachers."""

    module: str
    """Module with ``from_string(argument, options, spec, device) -> Teacher``, and optionally
    ``camera_request(argument, options) -> CameraRequest``, ``describe(argument, options, spec, instruction) -> Description``,
    ``footprint(argument, options, spec, device, rows) -> Footprint`` and ``identity(argument, options) -> str | None``, the
    digest of its files."""
    pattern: str
    """Syntax of its references."""
    description: str
    """One line for `rpd list`."""


CONNECTION = ("token_file", "token", "timeout", "retries", "rows")
"""Options of the connection to a server, which do not change what the teacher is."""

FAMILIES = {
    "scripted": Family(
        "rpd.teachers.scripted",
        "scripted[:PRESET][,DIAL=VALUE]...",
        "the task's privileged expert, optionally with errors of chosen kinds",
    ),
    "openvla": Family(
        "rpd.teachers.openvla",
        "openvla:FOLDER_OR_HUB_ID[,action_mapping=NAME][,unnorm_key=KEY][,camera=NAME]...",
        "an OpenVLA checkpoint, read natively; inputs: images and instructions",
    ),
    "octo": Family(
        "rpd.teachers.octo",
        "octo:FOLDER_OR_HUB_ID[,action_mapping=NAME][,unnorm_key=KEY][,samples=N][,window=N]...",
        "an Octo checkpoint, read natively; inputs: images and instructions; labels with samples",
    ),
    "remote": Family(
        "rpd.teachers.adapters.remote",
        "remote:ws://HOST:PORT[,ws://HOST:PORT]...[,token_file=FILE][,timeout=S][,retries=N][,rows=N][,action_mapping=NAME]",
        "a policy behind `rpd serve`, or behind openpi's server (action_mapping=libero, droid or a file, see docs/serving.md)",
    ),
    "sb3": Family(
        "rpd.teachers.adapters.sb3",
        "sb3:FILE.zip[,normalize=FILE]",
        "a stable-baselines3 policy (PPO, A2C, SAC, TD3, DDPG, TRPO, TQC) on vector states",
    ),
}
"""By prefix: ``family:argument``. A user's own teacher is one more entry."""
