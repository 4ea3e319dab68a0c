"""Worker process of ManiSkill: several single-scene simulations."""

from __future__ import annotations

import gc
from typing import Any

from torch import Tensor

from rpd.envs.backends.protocol import Factory
from rpd.envs.config import EnvConfig
from rpd.envs.maniskill import fast_ik, tasks
from rpd.envs.maniskill.sim import Sim


def factory(task: str, config: dict[str, Any], render_backend: str) -> Factory:
    """Load a task; returns a factory that builds simulations of it."""
    built = EnvConfig(**config)
    tasks.load(task)

    def build() -> FastSim:
        gc.freeze()  # ManiSkill runs the garbage collector per scene: exclude existing objects from it
        return FastSim(task, built, 1, "physx_cpu", render_backend)

    return build


class FastSim(Sim):
    """A `Sim` of one scene with faster controllers, installed again after the scene is rebuilt."""

    def reset(self, seed: int, exact: bool = False) -> dict[str, Tensor]:
        """Start the episode of a seed and return its first observation."""
        obs = super().reset(seed, exact)
        fast_ik.speed_up(self.base.agent)
        return obs
