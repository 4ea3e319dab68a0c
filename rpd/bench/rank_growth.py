"""Work of each rank that grows with the number of ranks: random numbers of all rows, permutations, finished episodes."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from rpd.config.schema import PPOConfig
from rpd.core.distributed import World
from rpd.rollout.collector import EpisodeStats
from rpd.rollout.minibatches import Minibatches
from rpd.students.row_share import draw_rows

REPEATS = 5
EPISODE = [10, 1.0, 12.345678901234567, 50.0]
"""A finished episode: step, success, return, length."""


@dataclass(frozen=True)
class Growth:
    """Seconds per iteration, with a number of ranks."""

    ranks: int
    noise: float
    """Noise of the actions of all environments."""
    permutations: float
    """Permutations of the rows of all ranks, and this rank's rows of each minibatch."""
    episodes: float
    """Decoding and averaging of the finished episodes of all ranks."""

    @property
    def total(self) -> float:
        """Sum, seconds."""
        return self.noise + self.permutations + self.episodes


def measure(ranks: int, num_envs: int, dims: int, config: PPOConfig, episode_bytes: int) -> Growth:
    """Measure one rank's work with the code of the training loop; no other rank is needed.

    Args:
        ranks: number of ranks.
        num_envs: environments per rank.
        dims: dimensions of an action.
        config: steps, epochs and minibatches.
        episode_bytes: bytes of the gathered value with a rank's finished episodes.
    """
    world, generator = World(0, ranks), torch.Generator().manual_seed(0)
    share = world.share(num_envs * ranks)
    minibatches = Minibatches(config.num_minibatches, num_envs, world)
    message = json.dumps([EPISODE] * max(1, episode_bytes // len(json.dumps([EPISODE]))))

    def noise() -> None:
        for _ in range(config.num_steps):
            draw_rows(lambda n: torch.randn(n, dims, generator=generator), num_envs, share)
            draw_rows(lambda n: torch.rand(n, dims, generator=generator), num_envs, share)

    def permutations() -> None:
        for _ in range(config.update_epochs):
            minibatches.epoch(num_envs * config.num_steps, generator, torch.device("cpu"))

    def episodes() -> None:
        stats = EpisodeStats()
        ended = [episode for _ in range(ranks) for episode in json.loads(message)]
        for _, *episode in sorted(ended, key=lambda e: e[0]):
            stats.add(*episode)

    return Growth(ranks, *(_cpu_seconds(work) for work in (noise, permutations, episodes)))


def _cpu_seconds(work: Callable[[], None]) -> float:
    """CPU time of this process, median of `REPEATS` after one that warms up."""
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds[1:])
