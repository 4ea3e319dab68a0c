"""The zero and random baselines, and the wrapper of trained students."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor

if TYPE_CHECKING:
    from rpd.students.actor_critic import ActorCritic


class Memoryless:
    """Base class of deterministic, stateless policies that read the student's observations."""

    needs_teacher_images = False

    def reset(self, mask: Tensor) -> None:
        """Do nothing: there is no state."""

    def seed(self, seed: int) -> None:
        """Do nothing: there are no random numbers."""


class ZeroPolicy(Memoryless):
    """Zero actions: the success rate of a task without any action."""

    name = "zero"

    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return zeros [N, A]."""
        return torch.zeros(len(instructions), self.action_dim, device=obs.device)


class RandomPolicy(Memoryless):
    """Uniform actions in [-1, 1]."""

    name = "random"

    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim
        self.generator = torch.Generator()

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return uniform actions [N, A]."""
        return (2 * torch.rand(len(instructions), self.action_dim, generator=self.generator) - 1).to(obs.device or "cpu")

    def seed(self, seed: int) -> None:
        """Restart the sequence of actions from a seed."""
        self.generator.manual_seed(seed)


class StudentPolicy(Memoryless):
    """A student that acts deterministically; with an external base see `rpd.teachers.adapters.student.PolicyTeacher`."""

    def __init__(self, student: ActorCritic, name: str = "student") -> None:
        self.student, self.name = student, name

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return the student's deterministic actions [N, A]."""
        return self.student.act(obs, deterministic=True)
