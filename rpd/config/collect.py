"""Configuration of `rpd data collect`."""

from __future__ import annotations

from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from rpd.envs.config import EnvConfig


class CollectConfig(BaseModel):
    """Options of a recording. Equal settings give equal files, if the environment is deterministic."""

    model_config = ConfigDict(extra="forbid")

    tasks: tyro.conf.Positional[tuple[str, ...]] = ()
    """Tasks, e.g. tabletop/PickCube tabletop/PushCube; see `rpd list`."""
    policy: str = ""
    """Policy reference of the actor, e.g. scripted or runs/x; see `rpd list teachers`."""
    episodes: int = Field(1000, ge=1)
    """Number of episodes to keep, per task."""
    keep: Literal["successes", "all"] = "successes"
    """Episodes to keep."""
    noise: float = Field(0.0, ge=0, le=2)
    """Standard deviation of the noise added to executed actions, in normalized action units; labels are the policy's own
    actions. 0.1 to 0.3 adds recoveries from small errors to the data (DART, arXiv 1703.09327)."""
    noise_turn: float | None = Field(None, ge=0, le=2)
    """The same for rotations (default: noise). Use 0 where a small tilt is not observable: labels that undo it are noise."""
    privileged: bool = False
    """Also record the privileged state of the simulator."""
    seed: int = Field(5_000_000, ge=0)
    """Seed of the first episode; training and evaluations use other ranges."""
    per_file: int = Field(128, ge=1)
    """Episodes per file, the most that a crash can lose; rounded up to a multiple of env.num_envs."""
    env: EnvConfig = Field(default_factory=lambda: EnvConfig(num_envs=32, obs_mode="rgb"))
