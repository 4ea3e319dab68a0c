"""What a simulator gives to `envs.episodes` and `envs.workers`: simulations that know nothing of episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from envs.specs import EnvSpec


@dataclass
class Outcome:
    """What a control step led to: observations by key, reward [B] and success [B]."""

    obs: dict[str, Tensor]
    reward: Tensor
    success: Tensor


class Simulation(Protocol):
    """One environment, in a worker process. Batches have B = 1, and an observation is a function of the state.

    Attributes:
        spec: what it is.
        render_shape: H, W, 3 of `render`.
        view_shapes: H, W, 3 of what `look` returns, by key.
    """

    spec: EnvSpec

    @property
    def render_shape(self) -> tuple[int, int, int]: ...  # noqa: D102

    @property
    def view_shapes(self) -> dict[str, tuple[int, int, int]]: ...  # noqa: D102

    def step(self, action: Tensor) -> Outcome:
        """Apply an action [1, A] in [-1, 1] for one control step."""

    def reset(self, seed: int) -> dict[str, Tensor]:
        """Begin the episode that a seed means, and observe it."""

    def observe(self) -> dict[str, Tensor]:
        """Observe the current state: ``state`` [1, S], ``image.<camera>`` [1, H, W, 3] uint8, perhaps ``scene`` [1, D]."""

    def look(self) -> dict[str, Tensor]:
        """Look through the cameras that only a teacher sees: ``view.<camera>`` uint8 [1, H, W, 3]."""

    def render(self) -> Tensor:
        """Render for people: uint8 [1, H, W, 3]."""

    def get_state(self) -> Tensor:
        """Copy what the episode's seed does not say [1, D]."""

    def set_state(self, state: Tensor) -> None:
        """Restore `get_state`, within the episode of the same seed."""


Factory = Callable[[], Simulation]
"""Builds one more simulation of those that a process shall hold."""


class Backend(Protocol):
    """N simulations. What they return may be overwritten by the next call."""

    spec: EnvSpec
    num_envs: int

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def step(self, action: Tensor) -> Outcome: ...  # noqa: D102

    def reset(self, envs: list[int], seeds: list[int], exact: bool) -> dict[str, Tensor]: ...  # noqa: D102

    def look(self, envs: list[int]) -> dict[str, Tensor]: ...  # noqa: D102

    def render(self, envs: list[int]) -> Tensor: ...  # noqa: D102

    def get_state(self) -> Tensor: ...  # noqa: D102

    def set_state(self, state: Tensor, seeds: list[int]) -> dict[str, Tensor]: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102
