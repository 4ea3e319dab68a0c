"""Protocol of policies that act in a vector environment."""

from __future__ import annotations

from typing import Protocol

from tensordict import TensorDict
from torch import Tensor


class Policy(Protocol):
    """Interface of a policy for evaluation; `rpd.teachers.base.Teacher` satisfies it."""

    name: str
    """Name in results."""
    needs_teacher_images: bool
    """Whether its observations include the teacher-only images, see `VectorEnv.teacher_images`."""

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return actions [N, A] in [-1, 1] for N observations and instructions."""

    def reset(self, mask: Tensor) -> None:
        """Clear the episode state of environments where `mask` [N] is True."""

    def seed(self, seed: int) -> None:
        """Seed the policy's random numbers."""
