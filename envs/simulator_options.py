"""Options of single simulators, one class each.

`rpd.envs.config.EnvConfig` inherits all of them, so names are unique and any task is configured in one place;
``OPTIONS`` of a simulator lists the classes that it reads, and options of the others are refused by name.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

PUBLISHED, IDEAL = "published", "none"
COSTS = ("action_rate_cost", "jerk_cost", "limit_cost")
"""Options of tabletop tasks that change the reward of training alone."""


class TabletopOptions(BaseModel):
    """Options of tabletop tasks."""

    owners: ClassVar[str] = "tabletop"

    domain_randomization: tuple[str, ...] = ()
    """Domain randomization per episode, tabletop: any of friction, mass, colors, delay, age, noise, gains,
    limits, camera, exposure; real: what differs on a real arm, the last seven; all. See docs/domain-randomization.md."""
    limits: str = PUBLISHED
    """Limits of the arm, tabletop. published (default): the manufacturer's limits of velocity, acceleration and speed of the
    tool, the tool above the table and at most 60 degrees from straight down, and contacts of all links; none: an ideal arm,
    limited by the range of its joints alone, of which only the fingers touch anything; the name or the path of a robot
    file, see docs/deploy.md: as published, with the limits, the workspace and the boxes of that file."""
    action_rate_cost: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Cost per step of changing the action, tabletop: times the mean squared change, 1 for the largest possible one."""
    jerk_cost: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Cost per step of changing the joints' accelerations, tabletop: times the mean square, 1 for the largest one."""
    limit_cost: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Cost per step of motion that the limits of the arm withhold, tabletop: times the share of the wanted motion."""


class WorkerOptions(BaseModel):
    """Options of simulators that run in worker processes."""

    owners: ClassVar[str] = "maniskill, libero or gym"

    num_workers: int | None = Field(None, ge=1)
    """ManiSkill on CPU, LIBERO, Gymnasium: number of worker processes (default: one per core)."""


class LiberoOptions(BaseModel):
    """Options of LIBERO tasks."""

    owners: ClassVar[str] = "libero"

    rendering: Literal["stock", "cheap"] | None = None
    """LIBERO: stock (default) renders like the official demonstrations, as VLAs need; cheap omits shadows and reflections."""
    settled_with: Literal["3.3.0", "installed"] | None = None
    """LIBERO: version of MuJoCo that settles objects before an episode. 3.3.0 (default if settled states are stored): as in
    published results; installed: simulate again with the installed version."""


class ManiSkillOptions(BaseModel):
    """Options of ManiSkill tasks."""

    owners: ClassVar[str] = "maniskill"

    sim_backend: Literal["auto", "cpu", "gpu"] | None = None
    """ManiSkill: device of the physics (auto: gpu if the device of the run is cuda)."""
    control_mode: str | None = None
    """ManiSkill: controller, default pd_ee_delta_pose (pd_joint_delta_pos for robots without it)."""
    ignore_terminations: bool | None = None
    """ManiSkill: continue every episode to its last step after success, as in the evaluation of its papers."""
    reconfigure: bool | None = None
    """ManiSkill: rebuild the scene of every episode with objects sampled from its seed, as in the evaluation of its papers.
    On a GPU, only if all environments reset in the same step."""


class GymnasiumOptions(BaseModel):
    """Options of Gymnasium environments."""

    owners: ClassVar[str] = "gym"

    make_kwargs: tuple[str, ...] = ()
    """Gymnasium: arguments of the environment, KEY=VALUE with values as in YAML, e.g. env_name=reach-v3."""
    success: str | None = None
    """Gymnasium: what solves the task: a key of info, with dots if it is nested, or return>=NUMBER for the undiscounted return
    of a whole episode. Default: success or is_success of info, else the reward_threshold of the registration."""
    instruction: str | None = None
    """Gymnasium: the language instruction. Default: the name of the environment in words."""


SIMULATOR_OPTIONS = (TabletopOptions, WorkerOptions, LiberoOptions, ManiSkillOptions, GymnasiumOptions)
