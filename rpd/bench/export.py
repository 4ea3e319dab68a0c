"""How long one action takes: the trained policy in torch, and the same exported, on one core."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from envs import registry as envs
from envs.base import EnvConfig
from rpd.export import formats, runtime
from rpd.export.command import write
from students.actor_critic import ActorCritic
from students.config import StudentConfig

CALLS = 200  # per round
TRAINED = "torch"


def fresh(task: str, image_size: int, folder: Path) -> dict[str, Path]:
    """New students of the default sizes, saved into `folder`: how fast they are does not depend on what they learnt."""
    kinds = {
        "MLP, state": EnvConfig(num_envs=1),
        f"CNN, {image_size} x {image_size}": EnvConfig(num_envs=1, obs="image", image_size=image_size),
    }
    saved = {}
    for i, (name, config) in enumerate(kinds.items()):
        with contextlib.closing(envs.make(task, config)) as env:
            ActorCritic(env.spec, StudentConfig()).save_pretrained(folder / f"{i}")
        saved[name] = folder / f"{i}"
    return saved


def latencies(source: Path, folder: Path, rounds: int) -> dict[str, np.ndarray]:
    """Export a policy in every format into `folder`, and time single actions; the ways take turns, on one core.

    Returns:
        Seconds of each call, by way: `TRAINED` and the formats. Observations come as numpy arrays, and so do actions.
    """
    policy = ActorCritic.from_pretrained(source)
    ways: dict[str, Callable[[dict[str, np.ndarray]], object]] = {TRAINED: _in_torch(policy)}
    exported = {name: write(policy, source, folder / name, name) for name in formats.FORMATS}
    ways |= {name: written.act for name, written in exported.items()}
    asked, (stacked, _) = exported["onnx"].examples(), runtime.read_selftest((folder / "onnx" / runtime.SELFTEST).read_bytes())
    whole = stacked | {"state": _whole(policy, exported["onnx"], asked["state"])}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with _one_core():
        for turn in range(rounds + 1):
            for way, act in ways.items():
                rows = whole if way == TRAINED else asked
                took = [_timed(act, {key: value[i % len(value)] for key, value in rows.items()}) for i in range(CALLS)]
                seconds[way] += took if turn else []  # the first round warms up
    return {way: np.array(values) for way, values in seconds.items()}


def _in_torch(policy: ActorCritic) -> Callable[[dict[str, np.ndarray]], object]:
    def act(obs: dict[str, np.ndarray]) -> object:
        return policy.act({key: torch.from_numpy(value)[None] for key, value in obs.items()})[0].numpy()

    return act


def _whole(policy: ActorCritic, exported: runtime.Policy, state: np.ndarray) -> np.ndarray:
    """The states as the trained policy takes them; what it does not read is zero."""
    names = policy.spec.state_names
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
