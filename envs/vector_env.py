"""The vector-environment interface: N copies of one task, batch first, torch tensors on one device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line is parsed without torch, which takes seconds to import
    import torch
    from tensordict import TensorDict
    from torch import Tensor

    from rpd.envs.specs import EnvSpec


@dataclass(frozen=True)
class EpisodeInfo:
    """The K >= 1 episodes that ended in one step. All tensors are [K], in the order of `env`."""

    env: Tensor
    """Index of the environment, int64."""
    episode_return: Tensor
    """Undiscounted sum of rewards, float32."""
    length: Tensor
    """Control steps, int64."""
    success_once: Tensor
    """bool: the task was solved at some step."""
    success_at_end: Tensor
    """bool: the task was solved at the last step."""
    seed: Tensor
    """Seed of the episode, int64; equal seeds give equal first observations (see `VectorEnv.reset`)."""
    solved_after: Tensor | None = None
    """Control steps until first success, int64, valid where `success_once`. None: success ends episodes."""
    violated: Tensor | None = None
    """bool: hand, fingers or links came too near to the table, the base or each other. None: not measured."""
    limited: Tensor | None = None
    """Share of the commands that a limit of the arm changed, float32. None: not measured."""


@dataclass(frozen=True)
class Step:
    """Result of one control step of N environments; K of them ended an episode and were reset."""

    obs: TensorDict
    """[N] observation for the next action; the first of the new episode where one ended."""
    reward: Tensor
    """[N] float32."""
    terminated: Tensor
    """[N] bool: the task ended by success or (navigate) collision; the value after it is zero."""
    truncated: Tensor
    """[N] bool: the time limit was reached; bootstrap from the value of `final_obs`."""
    final_obs: TensorDict | None
    """[K] last observations of the ended episodes, in the order of `episode.env`; None if K = 0."""
    episode: EpisodeInfo | None
    """The ended episodes; None if K = 0."""


class VectorEnv(ABC):
    """N environments of one task, with automatic resets.

    An observation is a TensorDict with batch size [N] and the keys of `spec.observations` (``state`` [N, S] float32,
    ``image.<camera>`` [N, H, W, 3] uint8), plus ``privileged`` [N, D] float32 if the simulator provides it (see
    `rpd.envs.privileged_state`). Later steps do not modify returned tensors.
    """

    num_envs: int
    device: torch.device
    spec: EnvSpec
    exact_resume: bool = False
    """Whether load_state_dict(state_dict()) continues bit-identically."""
    added_keys: Mapping[str, str] = MappingProxyType({})
    """Observation keys that a wrapper adds for the policy, each with the component that computes it, for error messages.
    Teachers do not read them."""

    @property
    @abstractmethod
    def instructions(self) -> list[str]:
        """The language instruction of each environment's current episode, N strings."""

    @abstractmethod
    def reset(self, seed: int, random_start_length: bool = False) -> TensorDict:
        """Start a new episode in every environment.

        On a CPU the first episode of environment i is a pure function of ``seed + i`` and of the actions, independent of N and
        of earlier episodes, so that two policies can be compared on the same episodes; seeds of later episodes derive from it.

        Args:
            seed: seed of environment 0.
            random_start_length: shorten each first episode by a random amount, so that resets in training are not aligned.
        """

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Apply one action [N, A] in [-1, 1] (clipped) for one control step.

        Raises:
            NonFiniteError: the action or the simulation is not finite.
            WorkerDied: a worker process exited.
        """

    def teacher_images(self, envs: Tensor | None = None) -> dict[str, Tensor]:
        """Render the teacher-only cameras (`EnvConfig.teacher_cameras`) at the last observation.

        Separate from the observation: the student need not wait for these images, and not every observation is sent to the
        teacher.

        Args:
            envs: [K] indices, ascending; None: all.

        Returns:
            ``view.<camera>`` uint8 [K, H, W, 3]. Excludes cameras that the student has at the same size: their images are part
            of the observation.
        """
        return {}

    @abstractmethod
    def render(self, envs: list[int] | None = None, size: int = 256) -> Tensor:
        """Render environments (default: all) from the viewer camera: uint8 [len(envs), size, size, 3] on the CPU."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """State needed to continue, as flat tensors. Exact if `exact_resume`."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> TensorDict:
        """Restore a saved state; returns the observation for the next action."""

    @abstractmethod
    def close(self) -> None:
        """Release processes and devices. Idempotent."""
