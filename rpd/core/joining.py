"""Joining the ranks of a training run, which torchrun has started."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from rpd.core import rank_reports, ranks
from rpd.core.attempts import fresh_part
from rpd.core.device import resolve_device
from rpd.core.distributed import SOLO, World, line_of
from rpd.envs.errors import ConfigError, RunFault

JOIN_TIMEOUT = timedelta(minutes=5)
"""Longest wait for the other ranks to start."""
TIMEOUT = timedelta(minutes=60)
"""Longest wait for another rank, e.g. one that records more specialists. A killed process is noticed at once, because its
connections close; a lost machine, or one cut off from the network, after this time."""
REPORT_S = 1.0
"""Seconds that rank 0 has to report an error of all ranks, before torchrun ends it because another rank has failed."""


@contextlib.contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the other ranks of the run, if torchrun has started this process, until the block ends.

    Args:
        device: the run's device, see `rank_device`; nccl needs a GPU per rank.

    Raises:
        ConfigError: the ranks do not find each other.
        RunFault: a rank ended during the block.
        SystemExit: on ranks other than 0, in place of an error that rank 0 raises too.
    """
    if ranks.world_size() == 1:
        yield SOLO
        return
    world = World(ranks.rank(), ranks.world_size())
    if dist.is_initialized():  # by a program that calls `rpd.train` in ranks of its own
        yield world
        return
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"
        store, _, _ = next(dist.rendezvous("env://", world.rank, world.size, timeout=JOIN_TIMEOUT))
        store = fresh_part(store, world.rank, world.size, JOIN_TIMEOUT)
        dist.init_process_group(backend, store=store, timeout=TIMEOUT, rank=world.rank, world_size=world.size)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"rank {world.rank} of {world.size} cannot reach the others: {line_of(error)}") from None
    rank_reports.note_joined(store)
    try:
        yield world
    except (ConfigError, RunFault, OSError) as error:
        if not world.is_shared(error):
            raise
        if world.is_first:
            rank_reports.note_shared()
            raise
        time.sleep(REPORT_S)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from error  # rank 0 reports it
    finally:
        dist.destroy_process_group()


def rank_device(device: str) -> str:
    """Return the device of this rank: the GPU of its local rank.

    Args:
        device: device of the run, see `resolve_device`.

    Raises:
        ConfigError: see `resolve_device`; fewer GPUs than ranks on this machine, or a GPU chosen by index.
    """
    device = resolve_device(device)
    if ranks.world_size() == 1 or torch.device(device).type != "cuda":
        return device
    if torch.device(device).index is not None:
        raise ConfigError(f"device {device}: each of {ranks.world_size()} ranks uses a GPU of its own: ask for cuda, no index")
    if ranks.local_world_size() > torch.cuda.device_count():
        raise ConfigError(
            f"{ranks.local_world_size()} ranks on a machine with {torch.cuda.device_count()} GPUs: start at most one per GPU, "
            "or add --device cpu"
        )
    return f"cuda:{ranks.local_rank()}"
