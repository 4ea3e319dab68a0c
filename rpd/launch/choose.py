"""The launcher of a configuration."""

from __future__ import annotations

from rpd.config.launch import LaunchConfig, SlurmConfig
from rpd.envs.errors import ConfigError
from rpd.launch.base import Launcher
from rpd.launch.local import LocalLauncher
from rpd.launch.ray_launcher import RayLauncher
from rpd.launch.slurm import SlurmLauncher

RETRIES = 3


def make(config: LaunchConfig, gpus: int) -> Launcher:
    """Build the launcher, connected to its cluster.

    Args:
        config: the options.
        gpus: number of GPUs of this machine.

    Raises:
        ConfigError: an option of another launcher, a missing package, or no cluster.
    """
    kind = config.launcher
    if config.launcher_address is not None and kind != "ray":
        raise ConfigError(f"--launcher-address {config.launcher_address}: add --launcher ray")
    if config.slurm != SlurmConfig() and kind != "slurm":
        raise ConfigError("--slurm.*: add --launcher slurm")
    if config.retries is not None and kind == "local":
        raise ConfigError(f"--retries {config.retries}: add --launcher ray or --launcher slurm; nothing is lost on one machine")
    retries = RETRIES if config.retries is None else config.retries
    if kind == "ray":
        return RayLauncher(config.launcher_address or "auto", retries)
    return SlurmLauncher(config.slurm, retries) if kind == "slurm" else LocalLauncher(gpus)
