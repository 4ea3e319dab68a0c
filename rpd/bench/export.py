"""Latency of one action on one core: the trained policy in torch, and its export."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tensordict import TensorDict

from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.specs import EnvSpec
from rpd.export import runtime
from rpd.export.write import write
from rpd.policies.builtin import StudentPolicy
from rpd.policies.made_for import made_for
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig
from rpd.students.diffusion.actor import DiffusionActor
from rpd.students.diffusion.config import DiffusionConfig
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.loading import load

CALLS = 200  # per round
TRAINED, EXPORTED = "torch", runtime.FORMAT
SAMPLERS = ("euler:steps=16", "rti:timesteps=3")


class Case(NamedTuple):
    """A benchmark case."""

    source: Path
    """Policy to time."""
    sampler: str | None = None
    """Sampler of a diffusion policy."""


def fresh(task: str, image_size: int, folder: Path) -> dict[str, Case]:
    """New students of default size, saved to `folder`: latency does not depend on training."""
    state = _spec(task, EnvConfig(num_envs=1))
    image = _spec(task, EnvConfig(num_envs=1, obs_mode="rgb", image_size=image_size))
    students: dict[str, ActorCritic | DiffusionPolicy] = {
        "mlp": ActorCritic(state, StudentConfig()),
        "cnn": ActorCritic(image, StudentConfig()),
        "diffusion": DiffusionPolicy(state, StudentConfig(), DiffusionConfig(process="flow")),
    }
    for name, student in students.items():
        student.save_pretrained(folder / name)
    plain = {"MLP, state": Case(folder / "mlp"), f"CNN, {image_size} x {image_size}": Case(folder / "cnn")}
    return plain | {f"diffusion, {sampler}": Case(folder / "diffusion", sampler) for sampler in SAMPLERS}


def _spec(task: str, config: EnvConfig) -> EnvSpec:
    with contextlib.closing(envs.make(task, config)) as env:
        return env.spec


def latencies(case: Case, folder: Path, rounds: int) -> dict[str, np.ndarray]:
    """Export a policy to `folder` and time single actions; the two runtimes alternate, on one core.

    Returns:
        Seconds per call, by runtime: `TRAINED` and `EXPORTED`. Observations and actions are numpy arrays.
    """
    policy = load(case.source)
    ways: dict[str, Callable[[dict[str, np.ndarray]], object]] = {TRAINED: _in_torch(policy, case.sampler)}
    written = write(policy, case.source, made_for(case.source), folder / EXPORTED, sampler=case.sampler)
    ways[EXPORTED] = written.act
    asked, (stacked, _) = written.examples(), runtime.read_selftest((folder / EXPORTED / runtime.SELFTEST).read_bytes())
    images = {key: stacked[key] for key in policy.spec.cameras}
    whole = {"state": _whole(policy.spec, written, asked["state"]), **images}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with _one_core():
        for turn in range(rounds + 1):
            for way, act in ways.items():
                rows = whole if way == TRAINED else asked
                took = [_timed(act, {key: value[i % len(value)] for key, value in rows.items()}) for i in range(CALLS)]
                seconds[way] += took if turn else []  # the first round warms up
    return {way: np.array(values) for way, values in seconds.items()}


def _in_torch(policy: ActorCritic | DiffusionPolicy, sampler: str | None) -> Callable[[dict[str, np.ndarray]], object]:
    actor = DiffusionActor(policy, sampler) if isinstance(policy, DiffusionPolicy) else StudentPolicy(policy)

    def act(obs: dict[str, np.ndarray]) -> object:
        rows = TensorDict({key: torch.from_numpy(value)[None] for key, value in obs.items()}, batch_size=[1])
        return actor.act(rows, [""])[0].numpy()

    return act


def _whole(spec: EnvSpec, exported: runtime.Policy, state: np.ndarray) -> np.ndarray:
    """Full states of the trained policy; entries that it does not read are zero."""
    names = spec.state_names
    full = np.zeros((len(state), len(names)), np.float32)
    full[:, [names.index(name) for name in exported.spec["state_names"]]] = state
    return full


def _timed(act: Callable[[dict[str, np.ndarray]], object], obs: dict[str, np.ndarray]) -> float:
    began = time.perf_counter()
    act(obs)
    return time.perf_counter() - began


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Pin this process to one core, if the system supports it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
