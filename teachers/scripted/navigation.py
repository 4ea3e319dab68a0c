"""Navigation expert: follows the shortest path; a pure, memoryless function of the course for a wheeled base."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import SpecMismatch, unknown_name
from rpd.envs.privileged_state import NavigationState
from rpd.envs.specs import EnvSpec
from rpd.teachers.base import TeacherOutput
from rpd.teachers.registry import parse_options
from rpd.teachers.scripted.noisy_teacher import ActionNoise, NoisyTeacher

GAIN = 2.5  # 1/s: turning speed per radian of heading error
BRAKE = 1.2  # 1/s: speed per meter of remaining distance
ARRIVE = 0.35  # m: closer to the goal than this, the base stops and turns to the goal's heading
FACE, FACED = 0.75, 0.2  # cosine of the heading error at which the base starts to drive; increase to full speed
KEEP = 0.15  # m: clearance below which the base turns away from an obstacle
CREEP = 0.15  # m/s: speed close to obstacles
PRESETS = {"noisy": {"noise": "0.8"}}
"""Weak planners by name."""


class PlannerTeacher(NoisyTeacher):
    """Planner on the simulator's privileged course, for wheeled bases; other bases get the same commands.

    Args:
        spec: the environment.
        errors: the planner's noise.
        device: device for the computation.
    """

    output_fields = frozenset({"mean", "std"})

    def __init__(self, spec: EnvSpec, errors: ActionNoise, device: torch.device | str = "cpu") -> None:
        super().__init__(spec, device)
        self.errors = errors

    def check_env(self, spec: EnvSpec) -> None:
        """Refuse an environment without a course, or with other commands.

        Raises:
            SpecMismatch: another task or robot; names both sides.
        """
        ours, theirs = self._spec, spec
        if not theirs.course or theirs.action != ours.action or theirs.embodiment != ours.embodiment:
            raise SpecMismatch(
                f"teacher scripted was made for {ours.task} with {ours.embodiment.name}; "
                f"the environment is {theirs.task} with {theirs.embodiment.name}"
            )

    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Label N observations; reads only ``obs["privileged"]``."""
        body = self._spec.embodiment.descriptor
        course = obs["privileged"].to(self._device, torch.float64)  # see `ScriptedTeacher._modes`
        command = plan(course, body["forward"], body["yaw_rate"], body["radius"])
        mean = (command / command.new_tensor(self._spec.action.scale)).clamp(-1, 1).float()
        if self.errors.noise:
            mean = (mean + self.errors.noise * self._noise(mean)).clamp(-1, 1)
        valid = torch.ones(len(mean), dtype=torch.bool, device=mean.device)
        return TeacherOutput(mean, valid, torch.full_like(mean, self.errors.declared_std))


def plan(course: Tensor, speed: float, yaw_rate: float, radius: float) -> Tensor:
    """Face the next corner of the path and drive there; at the goal, turn to the goal's heading.

    Args:
        course: [N, NavigationState.dim].
        speed: maximum forward speed, m/s.
        yaw_rate: maximum turning speed, rad/s.
        radius: radius of the footprint, m.

    Returns:
        [N, 3] velocity command: forward, left (always 0), turning; m/s and rad/s.
    """
    way, goal_yaw = NavigationState.get(course, "way_pos"), NavigationState.get(course, "goal_yaw")[:, 0]
    obstacle, left = NavigationState.get(course, "obstacle_pos"), NavigationState.get(course, "distance")[:, 0]
    ahead, gap = _unit(way), obstacle.norm(dim=-1) - radius
    away = (1 - gap / KEEP).clamp(0, 1)[:, None] * -_unit(obstacle)
    facing = _unit(ahead + away)
    driving = left > ARRIVE
    turn = GAIN * torch.where(driving, torch.atan2(facing[:, 1], facing[:, 0]), goal_yaw)
    forward = speed * ((facing[:, 0] - FACE) / FACED).clamp(0, 1)
    towards = _unit(obstacle)[:, 0].clamp(0, 1)  # closing speed per forward speed
    forward = torch.minimum(forward, CREEP + BRAKE * torch.where(towards > 0.5, gap.clamp(0), torch.full_like(gap, speed)))
    forward = driving * torch.minimum(forward, BRAKE * left)
    return torch.stack([forward, torch.zeros_like(forward), turn.clamp(-yaw_rate, yaw_rate)], -1)


def _unit(vector: Tensor) -> Tensor:
    """Directions of vectors [N, 2]; zero vectors stay zero."""
    return vector / vector.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> PlannerTeacher:
    """Build a planner; see `rpd.teachers.scripted.from_string`."""
    preset: dict[str, str] = {}
    if argument is not None:
        if argument not in PRESETS:
            raise unknown_name(f"preset of teacher scripted for {spec.task}", argument, PRESETS)
        preset = PRESETS[argument]
    return PlannerTeacher(spec, parse_options(ActionNoise, {**preset, **options}, "scripted"), device)
