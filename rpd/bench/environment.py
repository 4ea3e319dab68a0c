"""Speed of an environment: control steps and images per second."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from rpd.bench.clock import clock, cpu_seconds
from rpd.bench.result import Benchmark, Column, spread, spread_columns
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.vector_env import VectorEnv

STEPS, STEPS_WITH_IMAGES = 30, 5
"""Control steps per round."""


def measure(
    task: str,
    plain: EnvConfig,
    randomization: tuple[str, ...],
    size: int,
    rounds: int,
    device: str,
    threads: int | None,
) -> Benchmark:
    """Measure an environment from state and, if it has any, with images.

    Args:
        task: the task.
        plain: options of the environment, without images.
        randomization: conditions that are measured too, by turns with `plain`; empty: none.
        size: height and width of an image, pixels.
        rounds: repetitions.
        device: device of the observations.
        threads: CPU threads.
    """
    columns = (Column("what"), *spread_columns("", ",.0f"), Column("per CPU second", ",.0f"))
    found = Benchmark(f"{task}, {plain.num_envs} environments", columns)
    for label, options in (
        ("control steps/s, state", {}),
        (f"images/s, {size} x {size}, stepping included", {"obs_mode": "rgb", "image_size": size}),
    ):
        config = plain.model_copy(update=options)
        variants = {label: config}
        if randomization:
            named = " ".join(randomization)
            variants[f"{label}, {named}"] = config.model_copy(update={"domain_randomization": randomization})
        made = {name: envs.make(task, variant, device, threads) for name, variant in variants.items()}
        rates = _by_turns(made, STEPS if config.obs_mode == "state" else STEPS_WITH_IMAGES, rounds)
        found.rows += [(name, *spread(values), spent) for name, (values, spent) in rates.items()]
        if len(rates) == 2:
            (without, _), (randomized, _) = rates.values()
            ratio = statistics.median(b / a for a, b in zip(without, randomized, strict=True))
            found.notes.append(f"{label}: {ratio:.2f} times as fast with {named} (median of {rounds} rounds by turns)")
        for env in made.values():
            env.close()
        if env.spec.course:  # navigation has no images
            break
    return found


def _by_turns(made: dict[str, VectorEnv], count: int, rounds: int) -> dict[str, tuple[list[float], float | None]]:
    """Steps per second in every round, and steps per second of processor time, by name; after one round of warming up."""
    now = clock(next(iter(made.values())).device)
    rates: dict[str, list[float]] = {name: [] for name in made}
    spent: dict[str, list[float | None]] = {name: [] for name in made}
    workers = {name: stepper(env, count) for name, env in made.items()}
    for env, work in zip(made.values(), workers.values(), strict=True):
        env.reset(0)
        work()
    steps = 0
    for _ in range(rounds):
        for name, work in workers.items():
            began, used = now(), cpu_seconds()
            steps = work()
            rates[name].append(steps / (now() - began))
            spent[name].append(_between(used, cpu_seconds()))
    return {name: (rates[name], _per_second(steps, spent[name])) for name in made}


def _between(began: float | None, ended: float | None) -> float | None:
    return None if began is None or ended is None else ended - began


def _per_second(steps: int, spent: list[float | None]) -> float | None:
    known = [seconds for seconds in spent if seconds is not None]
    return steps * len(known) / sum(known) if known and sum(known) else None


def stepper(env: VectorEnv, count: int) -> Callable[[], int]:
    """Take `count` random control steps; returns how many that is over all environments."""
    generator = torch.Generator(env.device).manual_seed(0)
    action = torch.zeros(env.num_envs, env.spec.action.dim, device=env.device)

    def steps() -> int:
        for _ in range(count):
            env.step(action.uniform_(-1, 1, generator=generator))
        return count * env.num_envs

    return steps
