"""The expert of navigation: along the shortest path, a pure, memoryless function of the course, made for a wheeled base."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.errors import SpecMismatch, unknown_name
from envs.privileged import Course
from envs.specs import EnvSpec
from teachers.base import TeacherOutput
from teachers.registry import parse_options
from teachers.scripted.trembling import Tremble, TremblingTeacher

GAIN = 2.5  # 1/s: turning speed per radian that is left to turn
BRAKE = 1.2  # 1/s: speed per metre that is left to drive
ARRIVE = 0.35  # m: closer to the goal than this, the base stands and turns to its heading
FACE, FACED = 0.75, 0.2  # cosine of the angle to the way from which the base drives; at full speed from so much more
KEEP = 0.15  # m: it turns away from what is closer to its edge
CREEP = 0.15  # m/s: it comes near things slowly
PRESETS = {"noisy": {"noise": "0.8"}}
"""Weak planners by name."""


class PlannerTeacher(TremblingTeacher):
    """Reads the simulator's course and says what a planner would do; on other bases than a wheeled one, the same.

    Args:
        spec: the environment.
        dials: the imperfections.
        device: where it computes.
    """

    provides = frozenset({"mean", "std"})

    def __init__(self, spec: EnvSpec, dials: Tremble, device: torch.device | str = "cpu") -> None:
        super().__init__(spec, device)
        self.dials = dials

    def check_env(self, spec: EnvSpec) -> None:
        """Refuse an environment without a course, or with other commands.

        Raises:
            SpecMismatch: naming both sides.
        """
        ours, theirs = self._spec, spec
        if not theirs.course or theirs.action != ours.action or theirs.embodiment != ours.embodiment:
            raise SpecMismatch(
                f"teacher scripted was made for {ours.task} with {ours.embodiment.name}; "
                f"the environment is {theirs.task} with {theirs.embodiment.name}"
            )

    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Label N observations. Only ``obs["privileged"]`` is read."""
        body = self._spec.embodiment.descriptor
        command = plan(obs["privileged"].to(self._device), body["forward"], body["yaw_rate"], body["radius"])
        mean = (command / command.new_tensor(self._spec.action.scale)).clamp(-1, 1)
        if self.dials.noise:
            mean = (mean + self.dials.noise * self._noise(mean)).clamp(-1, 1)
        valid = torch.ones(len(mean), dtype=torch.bool, device=mean.device)
        return TeacherOutput(mean, valid, torch.full_like(mean, self.dials.declared_std))


def plan(course: Tensor, speed: float, yaw_rate: float, radius: float) -> Tensor:
    """Face the next corner of the path and drive there; at the goal, turn to its heading.

    Args:
        course: [N, Course.dim].
        speed: highest speed forward, m/s.
        yaw_rate: highest turning speed, rad/s.
        radius: of the footprint, m.

    Returns:
        [N, 3] velocity command: forward, left (always 0), turning; m/s and rad/s.
    """
    way, goal_yaw = Course.get(course, "way_pos"), Course.get(course, "goal_yaw")[:, 0]
    obstacle, left = Course.get(course, "obstacle_pos"), Course.get(course, "distance")[:, 0]
    ahead, gap = _unit(way), obstacle.norm(dim=-1) - radius
    away = (1 - gap / KEEP).clamp(0, 1)[:, None] * -_unit(obstacle)
    facing = _unit(ahead + away)
    driving = left > ARRIVE
    turn = GAIN * torch.where(driving, torch.atan2(facing[:, 1], facing[:, 0]), goal_yaw)
    forward = speed * ((facing[:, 0] - FACE) / FACED).clamp(0, 1)
    towards = _unit(obstacle)[:, 0].clamp(0, 1)  # how much driving forward closes the gap
    forward = torch.minimum(forward, CREEP + BRAKE * torch.where(towards > 0.5, gap.clamp(0), torch.full_like(gap, speed)))
    forward = driving * torch.minimum(forward, BRAKE * left)
    return torch.stack([forward, torch.zeros_like(forward), turn.clamp(-yaw_rate, yaw_rate)], -1)


def _unit(vector: Tensor) -> Tensor:
    """Directions of vectors [N, 2]; zero stays zero."""
    return vector / vector.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> PlannerTeacher:
    """Build a planner; see `teachers.scripted.from_string`."""
    preset: dict[str, str] = {}
    if argument is not None:
        if argument not in PRESETS:
            raise unknown_name(f"preset of teacher scripted for {spec.task}", argument, PRESETS)
        preset = PRESETS[argument]
    return PlannerTeacher(spec, parse_options(Tremble, {**preset, **options}, "scripted"), device)
