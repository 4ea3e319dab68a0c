"""What a worker process of ManiSkill holds: several single-scene simulations."""

from __future__ import annotations

import gc
from typing import Any

from envs.base import EnvConfig
from envs.maniskill import fast_ik, tasks
from envs.maniskill.sim import Sim
from envs.simulation import Factory


def factory(task: str, config: dict[str, Any], render_backend: str) -> Factory:
    """Load a task; what is returned builds one simulation of it after the other."""
    built = EnvConfig(**config)
    tasks.load(task)

    def build() -> Sim:
        gc.freeze()  # ManiSkill collects garbage per scene: do not let it search all that was imported and built before
        sim = Sim(task, built, 1, "physx_cpu", render_backend)
        fast_ik.speed_up(sim.base.agent)
        return sim

    return build
