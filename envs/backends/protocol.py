"""Protocols of simulators and backends. Neither handles episodes; see `rpd.envs.backends.episodic`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rpd.envs.specs import EnvSpec


@dataclass
class Outcome:
    """Result of a control step: observations by key, reward [B] and success [B], and where given, how episodes end."""

    obs: dict[str, Tensor]
    reward: Tensor
    success: Tensor
    terminated: Tensor | None = None
    """[B] bool: the episode ended, with value zero. None: it ended where `success`."""
    truncated: Tensor | None = None
    """[B] bool: the simulation stopped the episode. None: it stops none."""
    idle: Tensor | None = None
    """[B] bool: the step only started the next episode and does not count. None: every step counts."""


class Simulation(Protocol):
    """One environment in a worker process. Batches have B = 1. An observation is a pure function of the simulation state.

    Attributes:
        spec: spec of the environment.
        render_shape: shape (H, W, 3) of `render`.
        view_shapes: shape (H, W, 3) of each image that `teacher_images` returns, by key.
        exact_resume: whether `set_state` continues bit-identically.
        remarks: one line for each property of the simulation that a user should know of.
    """

    spec: EnvSpec
    exact_resume: bool
    remarks: tuple[str, ...]

    @property
    def render_shape(self) -> tuple[int, int, int]: ...  # noqa: D102

    @property
    def view_shapes(self) -> dict[str, tuple[int, int, int]]: ...  # noqa: D102

    def step(self, action: Tensor) -> Outcome:
        """Apply an action [1, A] in [-1, 1] for one control step."""

    def reset(self, seed: int, exact: bool = False) -> dict[str, Tensor]:
        """Start the episode of a seed and return its first observation.

        Args:
            seed: seed of the episode.
            exact: discard everything that earlier episodes left in the simulation, at any cost in time.
        """

    def observe(self) -> dict[str, Tensor]:
        """Observe the current state: ``state`` [1, S], ``image.<camera>`` [1, H, W, 3] uint8, optionally ``scene`` [1, D]."""

    def teacher_images(self) -> dict[str, Tensor]:
        """Render the teacher-only cameras: ``view.<camera>`` uint8 [1, H, W, 3]."""

    def render(self) -> Tensor:
        """Render from the viewer camera: uint8 [1, H, W, 3]."""

    def get_state(self) -> Tensor:
        """Return the part of the state that the episode seed does not determine, [1, D]; D = 0: it cannot be saved."""

    def set_state(self, state: Tensor) -> None:
        """Restore `get_state` within an episode of the same seed."""


Factory = Callable[[], Simulation]
"""Builds one simulation; called once per environment of a process."""


class Backend(Protocol):
    """N simulations. The next call may overwrite returned tensors."""

    spec: EnvSpec
    num_envs: int
    exact_resume: bool

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def step(self, action: Tensor) -> Outcome: ...  # noqa: D102

    def reset(self, envs: list[int], seeds: list[int], exact: bool) -> dict[str, Tensor]: ...  # noqa: D102

    def teacher_images(self, envs: list[int]) -> dict[str, Tensor]: ...  # noqa: D102

    def render(self, envs: list[int]) -> Tensor: ...  # noqa: D102

    def get_state(self) -> Tensor: ...  # noqa: D102

    def set_state(self, state: Tensor, seeds: list[int]) -> dict[str, Tensor]: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102
