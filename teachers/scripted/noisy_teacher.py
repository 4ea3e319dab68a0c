"""Base of scripted teachers: action noise with its own random state, and the declared uncertainty."""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import Tensor

from rpd.envs.specs import EnvSpec
from rpd.teachers.base import Teacher
from rpd.teachers.registry import Options


class ActionNoise(Options):
    """Action noise of an expert; zero: none."""

    noise: float = Field(0.0, ge=0, le=2)
    """Standard deviation of zero-mean Gaussian noise on the continuous action, drawn per label."""
    std: float | None = Field(None, gt=0)
    """Standard deviation in labels; default: the noise, at least 0.1."""

    @property
    def declared_std(self) -> float:
        """Standard deviation in the teacher's labels."""
        return max(self.noise, 0.1) if self.std is None else self.std


class NoisyTeacher(Teacher):
    """A function of the simulator's privileged observation, plus noise.

    Args:
        spec: the environment.
        device: device for the computation.
    """

    def __init__(self, spec: EnvSpec, device: torch.device | str = "cpu") -> None:
        self.name = "scripted"
        self._spec, self.space, self._device = spec, spec.action, torch.device(device)
        self._rng = torch.Generator(self._device).manual_seed(0)

    def new_session(self) -> NoisyTeacher:
        """See `Teacher.new_session`."""
        session = copy.copy(self)
        session._rng = torch.Generator(self._device).manual_seed(0)
        return session

    def seed(self, seed: int) -> None:
        """Reset the noise generator."""
        self._rng.manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """State of the noise generator."""
        return {"rng": self._rng.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self._rng.set_state(state["rng"].cpu())

    @property
    def device(self) -> torch.device:
        """Device for the computation."""
        return self._device

    def _noise(self, action: Tensor) -> Tensor:
        """Standard normal noise of the shape of an action."""
        return torch.randn(action.shape, generator=self._rng, device=self._device)
