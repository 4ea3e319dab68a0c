"""What experts that are written down have in common: noise with a random state of its own, and what they say of it."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from envs.specs import EnvSpec
from teachers.base import Teacher
from teachers.registry import Options


class Tremble(Options):
    """How much an expert trembles. All zero: the expert."""

    noise: float = Field(0.0, ge=0, le=2)
    """Standard deviation of zero-mean Gaussian noise on the continuous action, drawn per label."""
    std: float | None = Field(None, gt=0)
    """Standard deviation that the teacher declares; default: its noise, at least 0.1."""

    @property
    def declared_std(self) -> float:
        """What the teacher says about its own uncertainty."""
        return max(self.noise, 0.1) if self.std is None else self.std


class TremblingTeacher(Teacher):
    """A teacher that is a function of the simulator's privileged observation, but for its noise.

    Args:
        spec: the environment.
        device: where it computes.
    """

    def __init__(self, spec: EnvSpec, device: torch.device | str = "cpu") -> None:
        self.name = "scripted"
        self._spec, self._device = spec, torch.device(device)
        self._rng = torch.Generator(self._device).manual_seed(0)

    def seed(self, seed: int) -> None:
        """Restart the noise."""
        self._rng.manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the noise."""
        return {"rng": self._rng.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue the noise."""
        self._rng.set_state(state["rng"].cpu())

    @property
    def device(self) -> torch.device:
        """Where the teacher computes."""
        return self._device

    def _noise(self, action: Tensor) -> Tensor:
        """Standard normal numbers, as many as an action has."""
        return torch.randn(action.shape, generator=self._rng, device=self._device)
