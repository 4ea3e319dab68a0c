"""The configuration of an environment: every field is a command-line option, and its docstring the help."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from rpd.envs.errors import ConfigError
from rpd.envs.simulator_options import (
    SIMULATOR_OPTIONS,
    GymnasiumOptions,
    LiberoOptions,
    ManiSkillOptions,
    TabletopOptions,
    WorkerOptions,
)
from rpd.envs.specs import MAX_STEPS


class CommonOptions(BaseModel):
    """Options of every simulator."""

    robot: Annotated[str | None, tyro.conf.arg(aliases=("--robot",))] = None
    """Robot, see `rpd list`."""
    num_envs: int = Field(128, ge=1)
    """Number of environments stepped in parallel."""
    reward: Literal["dense", "sparse"] | None = None
    """dense: shaped reward, in [-1, 0] per step and 0 on success (ManiSkill: normalized_dense; navigate: progress along the
    path minus a collision penalty); sparse: 1 on success. Default: dense; LIBERO: sparse."""
    obs_mode: Literal["state", "rgb"] = "state"
    """state: one vector with the full state; rgb: camera images and proprioception, without object poses."""
    cameras: tuple[str, ...] | None = None
    """Cameras of the student with obs_mode rgb, by name."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Height and width of an image observation, pixels."""
    frame_stack: int = Field(1, ge=1, le=16)
    """Number of stacked frames K per image observation, concatenated along channels: [H, W, 3K]. Memory grows with K."""
    teacher_cameras: tuple[str, ...] = ()
    """Teacher-only cameras, by name; default: the cameras that the teacher requires."""
    teacher_image_size: int | None = Field(None, ge=8, le=1024)
    """Height and width of the images of teacher-only cameras, pixels."""
    max_episode_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Control steps before an episode is truncated."""


class EnvConfig(GymnasiumOptions, ManiSkillOptions, LiberoOptions, WorkerOptions, TabletopOptions, CommonOptions):
    """Options of an environment. None selects the default of the simulator or the task."""

    model_config = ConfigDict(extra="forbid")

    @property
    def draws(self) -> bool:
        """Whether any camera is rendered, for the student or a teacher."""
        return self.obs_mode == "rgb" or bool(self.teacher_cameras)

    def check_simulator(self, task: str, read: Collection[type[BaseModel]]) -> None:
        """Refuse options of other simulators.

        Args:
            task: the task.
            read: option classes of `rpd.envs.simulator_options` that its simulator reads.

        Raises:
            ConfigError: names the first option that is set and not read.
        """
        for options in SIMULATOR_OPTIONS:
            for name, field in options.model_fields.items() if options not in read else ():
                if getattr(self, name) != field.default:
                    raise ConfigError(f"env.{name} does not apply to {task}: it is an option of {options.owners} tasks")
