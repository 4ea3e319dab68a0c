"""What a worker process of ManiSkill holds: several single-scene simulations."""

from __future__ import annotations

import gc
from typing import Any

from torch import Tensor

from envs.base import EnvConfig
from envs.maniskill import fast_ik, tasks
from envs.maniskill.sim import Sim
from envs.simulation import Factory


def factory(task: str, config: dict[str, Any], render_backend: str) -> Factory:
    """Load a task; what is returned builds one simulation of it after the other."""
    built = EnvConfig(**config)
    tasks.load(task)

    def build() -> FastSim:
        gc.freeze()  # ManiSkill collects garbage per scene: do not let it search all that was imported and built before
        return FastSim(task, built, 1, "physx_cpu", render_backend)

    return build


class FastSim(Sim):
    """A `Sim` of one scene whose controllers are the faster ones; a scene that is built anew has new controllers."""

    def reset(self, seed: int) -> dict[str, Tensor]:
        """Begin the episode that a seed means, and observe it."""
        obs = super().reset(seed)
        fast_ik.speed_up(self.base.agent)
        return obs
