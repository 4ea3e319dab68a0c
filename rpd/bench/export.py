"""How long one action takes: the trained policy in torch, and the same exported, on one core."""

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

from envs import registry as envs
from envs.base import EnvConfig
from envs.specs import EnvSpec
from rpd.export import formats, runtime
from rpd.export.command import write
from rpd.policies import StudentPolicy
from students import pretrained
from students.actor_critic import ActorCritic
from students.config import StudentConfig
from students.diffusion.actor import DiffusionActor
from students.diffusion.config import DiffusionConfig
from students.diffusion.policy import DiffusionPolicy

CALLS = 200  # per round
TRAINED = "torch"
SAMPLERS = ("euler:steps=16", "rti:levels=3")


class Case(NamedTuple):
    """What is timed."""

    source: Path
    """Of a policy."""
    sampler: str | None = None
    """How it draws, if it is a diffusion policy."""


def fresh(task: str, image_size: int, folder: Path) -> dict[str, Case]:
    """New students of the default sizes, saved into `folder`: how fast they are does not depend on what they learnt."""
    state = _spec(task, EnvConfig(num_envs=1))
    image = _spec(task, EnvConfig(num_envs=1, obs="image", image_size=image_size))
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
    """Export a policy in every format into `folder`, and time single actions; the ways take turns, on one core.

    Returns:
        Seconds of each call, by way: `TRAINED` and the formats. Observations come as numpy arrays, and so do actions.
    """
    policy = pretrained.load(case.source)
    ways: dict[str, Callable[[dict[str, np.ndarray]], object]] = {TRAINED: _in_torch(policy, case.sampler)}
    exported = {name: write(policy, case.source, folder / name, name, sampler=case.sampler) for name in formats.FORMATS}
    ways |= {name: written.act for name, written in exported.items()}
    asked, (stacked, _) = exported["onnx"].examples(), runtime.read_selftest((folder / "onnx" / runtime.SELFTEST).read_bytes())
    images = {key: stacked[key] for key in policy.spec.cameras}
    whole = {"state": _whole(policy.spec, exported["onnx"], asked["state"]), **images}
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
    """The states as the trained policy takes them; what it does not read is zero."""
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
    """Keep this process on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
