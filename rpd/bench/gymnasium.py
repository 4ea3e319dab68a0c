"""Steps per second of our worker processes and of Gymnasium's own vector environments, by turns in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import gymnasium
import numpy as np
import torch

from rpd.bench.clock import cpu_seconds, load_average
from rpd.bench.result import Benchmark, Column, spread, spread_columns
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.gym.build import single
from rpd.envs.gym.names import resolve
from rpd.envs.gym.spaces import Actions

STEPS = 200
"""Steps of every environment in one round."""
OURS, ASYNC, SYNC = "our workers", "AsyncVectorEnv", "SyncVectorEnv"


def measure(task: str, num_envs: int, rounds: int, num_threads: int | None) -> Benchmark:
    """Time random actions from state.

    `AsyncVectorEnv` has a process for each environment, with shared memory; we have one for each thread. Our side includes
    seeds of episodes, their statistics, and conversion to tensors.

    Args:
        task: a single Gymnasium environment.
        num_envs: N.
        rounds: rounds of `STEPS` steps, by turns.
        num_threads: number of our workers (None: one per core).

    Raises:
        ConfigError: a vector environment, or see `rpd.envs.registry.make`.
    """
    source, config = resolve(task), EnvConfig(num_envs=num_envs)
    if source.vector:
        raise ConfigError(f"{task} is a vector environment already: a comparison of processes needs a single one")
    ours, one = registry.make(task, config, num_threads=num_threads), partial(single, source, config)
    vectors = {
        ASYNC: gymnasium.vector.AsyncVectorEnv([one] * num_envs, autoreset_mode="SameStep"),
        SYNC: gymnasium.vector.SyncVectorEnv([one] * num_envs, autoreset_mode="SameStep"),
    }
    random = np.random.default_rng(0).uniform(-1, 1, (STEPS, num_envs, ours.spec.action.dim)).astype(np.float32)
    space = Actions(task, vectors[SYNC].single_action_space)
    tensors, physical = torch.from_numpy(random), [space.physical(action) for action in random]
    ways: dict[str, Callable[[], object]] = {OURS: lambda: [ours.step(action) for action in tensors]}
    ways |= {name: partial(_play, vector, physical) for name, vector in vectors.items()}
    load = load_average()
    try:
        ours.reset(0)
        for vector in vectors.values():
            vector.reset(seed=0)
        for play in ways.values():  # warms up
            play()
        rates: dict[str, list[float]] = {name: [] for name in ways}
        per_cpu: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds):
            for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
                began, cpu = time.perf_counter(), cpu_seconds()
                ways[name]()
                rates[name].append(STEPS * num_envs / (time.perf_counter() - began))
                if cpu is not None and (spent := (cpu_seconds() or cpu) - cpu) > 0:
                    per_cpu[name].append(STEPS * num_envs / spent)
    finally:
        ours.close()
        for vector in vectors.values():
            vector.close()
    columns = (Column("what"), *spread_columns("", ",.0f"), Column("per CPU second", ",.0f"))
    found = Benchmark(f"{task}: control steps/s of {num_envs} environments", columns, notes=[load])
    for name in ways:
        found.rows.append((name, *spread(rates[name]), statistics.median(per_cpu[name]) if per_cpu[name] else None))
    for name in vectors:
        low, median, high = spread([a / b for a, b in zip(rates[OURS], rates[name], strict=True)])
        times = f"{median:.2f} times as many steps per second ({low:.2f} to {high:.2f} in {rounds} rounds, by turns)"
        found.notes.append(f"{OURS} to {name}: {times}")
    return found


def _play(env: gymnasium.vector.VectorEnv, actions: list[np.ndarray]) -> None:
    for action in actions:
        env.step(action)
