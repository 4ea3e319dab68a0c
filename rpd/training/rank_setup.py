"""Environments, seeds and threads of one rank of a run."""

from __future__ import annotations

import os

import numpy as np
import torch

from rpd.config.schema import RunConfig
from rpd.core import ranks
from rpd.core.distributed import World
from rpd.envs.config import EnvConfig
from rpd.students.row_share import RowShare

SEED_STEP = 1_000_003
"""Distance between the seeds of the ranks."""


def own_environments(config: EnvConfig, world: World) -> EnvConfig:
    """Return the configuration of a rank's environments: an equal part of `num_envs`.

    Raises:
        ConfigError: the environments cannot be divided equally.
    """
    if config.num_envs % world.size:
        raise world.fault(f"env.num_envs {config.num_envs} cannot be divided by {world.size} ranks: use a multiple")
    return config.model_copy(update={"num_envs": config.num_envs // world.size})


def on_this_machine(config: RunConfig, world: World) -> RunConfig:
    """Return a configuration with as many environments as all ranks on this machine have, to estimate memory."""
    count = max(1, config.env.num_envs * ranks.local_world_size() // world.size) if world.size > 1 else config.env.num_envs
    return config.model_copy(update={"env": config.env.model_copy(update={"num_envs": count})})


def rank_seed(seed: int, world: World) -> int:
    """Return the seed of random numbers that must differ between ranks, e.g. of teachers; rank 0 has that of the run."""
    return seed + SEED_STEP * world.rank


def own_generator(shared: torch.Generator, world: World) -> torch.Generator:
    """Return the generator of random numbers that only this rank draws.

    Args:
        shared: the run's generator, whose state is the same on all ranks. The only rank of a run uses it for everything.
        world: the ranks.
    """
    return shared if world.size == 1 else torch.Generator(shared.device)


def seed_rank(seed: int, world: World, own: torch.Generator | None = None) -> None:
    """Seed the global generators of torch and numpy, and `own_generator`, by rank, once the networks are initialized alike.

    Args:
        seed: seed of the run.
        world: the ranks; the only rank of a run keeps its random numbers.
        own: the rank's generator, if it has one.
    """
    if world.size > 1:
        seed = rank_seed(seed, world)
        if own is not None:
            own.manual_seed(seed)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)


def batch_share(batch_size: int, world: World, option: str) -> RowShare:
    """Return a rank's share of the rows of a batch.

    Raises:
        ConfigError: fewer rows than ranks.
    """
    if batch_size < world.size:
        raise world.fault(f"{option} {batch_size} is less than one row for each of {world.size} ranks")
    return world.share(batch_size)


def simulator_threads(num_threads: int | None) -> int | None:
    """Return the CPU threads of a rank's simulator: by default an equal part of the machine's cores."""
    if num_threads is not None or ranks.world_size() == 1:
        return num_threads
    return max(1, (os.cpu_count() or 1) // ranks.local_world_size())
