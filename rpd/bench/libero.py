"""LIBERO: speed of the original and of `rpd.envs.libero`, rendering, and memory per worker."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.processes import without_working_dir

WORKERS = (1, 2)
STEPS = {"state": 20, "cheap": 4, "stock": 2}
"""Control steps per round."""


@dataclass
class Row:
    """One table row: rates per round, control steps per second summed over environments."""

    what: str
    workers: int
    rates: list[float]
    private_mb: list[float] = field(default_factory=list)
    """Private memory of each worker, MB."""


def measure(task: str, image_size: int, rounds: int) -> list[Row]:
    """Measure a LIBERO task.

    Args:
        task: one task.
        image_size: image size of the main camera, pixels.
        rounds: repetitions.

    Raises:
        ConfigError: the name selects several tasks.
    """
    from rpd.envs.libero.tasks import resolve

    if len(resolve(task)) > 1:
        raise ConfigError(f"--task {task}: one task, e.g. libero/spatial-0")
    with without_working_dir(), multiprocessing.get_context("spawn").Pool(1) as pool:  # the original changes global state
        stock, fast = pool.apply(_step_single, (task, rounds))
    rows = [Row("original, state", 1, stock), Row("fast, state, no worker", 1, fast)]
    for obs, rendering in (("state", None), ("rgb", "cheap"), ("rgb", "stock")):
        for workers in WORKERS:
            config = EnvConfig(num_envs=workers, num_workers=workers, rendering=rendering, obs_mode=obs)
            if obs == "rgb":
                config = config.model_copy(update={"image_size": image_size})
            what = "fast, state" if obs == "state" else f"{rendering} images, {image_size} x {image_size}"
            rows.append(_step_workers(what, task, config, rounds))
    return rows


def _step_workers(what: str, task: str, config: EnvConfig, rounds: int) -> Row:
    with contextlib.closing(envs.make(task, config)) as env:
        env.reset(0)
        generator = torch.Generator().manual_seed(0)
        count = STEPS[config.rendering or "state"]

        def steps() -> int:
            for _ in range(count):
                env.step(torch.rand(env.num_envs, env.spec.action.dim, generator=generator) * 2 - 1)
            return count * env.num_envs

        steps()
        rates = [_rate(steps) for _ in range(rounds)]
        return Row(what, config.num_envs, rates, [_private_mb(pid) for pid in env.backend.pids])  # type: ignore[attr-defined]


def _step_single(task: str, rounds: int) -> tuple[list[float], list[float]]:
    """Rates of the original and of `World`, alternating in one process, with the same actions."""
    from rpd.envs.libero.tasks import bddl_file, resolve
    from rpd.envs.libero.world import World, import_envs

    torch.set_num_threads(1)
    (chosen,) = resolve(task)
    world = World(chosen)
    original = import_envs().ControlEnv(
        bddl_file_name=str(bddl_file(chosen)), has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False
    )
    original.seed(0)
    original.reset()
    original.set_init_state(world.init_states[0])
    slot = world.slot()
    world.reset(slot, 0)
    rng = np.random.default_rng(0)
    stock, fast = [], []
    for _ in range(rounds + 1):
        actions = rng.uniform(-1, 1, (STEPS["state"], 7))
        stock.append(_rate(lambda actions=actions: len([original.step(a) for a in actions])))  # type: ignore[misc]
        fast.append(_rate(lambda actions=actions: len([world.step(slot, a) for a in actions])))  # type: ignore[misc]
    return stock[1:], fast[1:]


def _rate(work: Callable[[], int]) -> float:
    began = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - began)


def _private_mb(pid: int) -> float:
    """Memory that a process does not share, MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
