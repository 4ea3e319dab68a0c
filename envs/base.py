"""The vector-environment contract: N copies of one task, batch first, torch tensors on one device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import tyro
from pydantic import BaseModel, ConfigDict, Field
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError
from envs.specs import EnvSpec


class EnvConfig(BaseModel):
    """How an environment is built. None means the simulator's or the task's own default."""

    model_config = ConfigDict(extra="forbid")

    robot: Annotated[str | None, tyro.conf.arg(aliases=("--robot",))] = None
    """Robot to use, see `rpd list`."""
    num_envs: int = Field(128, ge=1)
    """Environments stepped together."""
    reward: Literal["dense", "sparse"] | None = None
    """dense: shaped, in [-1, 0] per step and 0 on success (ManiSkill: normalized_dense; navigate: progress on the way, less
    for a collision); sparse: 1 on success. Default: dense; LIBERO: sparse."""
    obs: Literal["state", "image"] = "state"
    """state: everything as one vector; image: cameras and the robot's own proprioception, no object poses."""
    cameras: tuple[str, ...] | None = None
    """Cameras to observe with obs=image, by name."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Height and width of an observed image, pixels."""
    frames: int = Field(1, ge=1, le=16)
    """Frames per observed image: the last so many control steps, one behind the other in its channels. Memory grows with it."""
    teacher_cameras: tuple[str, ...] = ()
    """Cameras that only the teacher looks through, by name; default: those that the teacher asks for."""
    teacher_image_size: int | None = Field(None, ge=8, le=1024)
    """Height and width of an image that only the teacher sees, pixels."""
    max_episode_steps: int | None = Field(None, ge=1)
    """Control steps before an episode is truncated."""
    randomize: tuple[str, ...] = ()
    """Domain randomisation per episode, tabletop: any of friction, mass, camera, colors, delay; or all."""
    num_workers: int | None = Field(None, ge=1)
    """ManiSkill on CPU, LIBERO: worker processes (default: one per core)."""
    rendering: Literal["stock", "cheap"] | None = None
    """LIBERO: stock (default) renders as its demonstrations were, which a VLA needs; cheap, without shadows and reflections."""
    sim_backend: Literal["auto", "cpu", "gpu"] | None = None
    """ManiSkill: where the physics runs (auto: gpu when the run's device is cuda)."""
    control_mode: str | None = None
    """ManiSkill: controller, default pd_ee_delta_pose (pd_joint_delta_pos for robots without). LIBERO has only OSC_POSE."""
    ignore_terminations: bool | None = None
    """ManiSkill: play every episode to its last step, also when it has been solved, as its papers evaluate."""
    reconfigure: bool | None = None
    """ManiSkill: build the scene of every episode anew, objects drawn from its seed, as its papers evaluate. On a GPU, where
    all environments begin together."""

    @property
    def draws(self) -> bool:
        """Whether a camera is looked through, by the student or by a teacher."""
        return self.obs == "image" or bool(self.teacher_cameras)

    def refuse(self, task: str, *options: str) -> None:
        """Refuse options of worker processes and large simulators, for a task that has neither.

        Raises:
            ConfigError: naming the first of them that is given.
        """
        for option in options:
            if getattr(self, option) is not None:
                raise ConfigError(f"env.{option} does not apply to {task}: it is an option of maniskill or libero tasks")


SIMULATOR_OPTIONS = ("num_workers", "sim_backend", "control_mode", "rendering", "ignore_terminations", "reconfigure")
"""Options of large simulators, and of their worker processes."""


@dataclass(frozen=True)
class Episodes:
    """The K >= 1 episodes that ended in one step. All tensors are [K], in the order of `env`."""

    env: Tensor
    """Index of the environment, int64."""
    ret: Tensor
    """Undiscounted sum of rewards, float32."""
    length: Tensor
    """Control steps, int64."""
    success_once: Tensor
    """bool: the task was solved at some step."""
    success_at_end: Tensor
    """bool: the task was solved at the last step."""
    seed: Tensor
    """Seed that the episode was drawn from, int64; equal seeds give equal episodes."""
    solved_after: Tensor | None = None
    """Control steps until it was solved for the first time, int64, where it was. None: success ends episodes."""


@dataclass(frozen=True)
class Step:
    """What one control step returns. N environments; K of them ended an episode and were reset."""

    obs: TensorDict
    """[N] Observation to act on next: the first of the new episode where one ended."""
    reward: Tensor
    """[N] float32."""
    terminated: Tensor
    """[N] bool: the task ended, by success or (navigate) a collision; no value beyond."""
    truncated: Tensor
    """[N] bool: time ran out; the value of `final_obs` stands for what would follow."""
    final_obs: TensorDict | None
    """[K] the true last observations of the ended episodes, in the order of `episode.env`; None where K = 0."""
    episode: Episodes | None
    """The ended episodes; None where K = 0."""


class VectorEnv(ABC):
    """N environments of one task. Episodes reset by themselves.

    An observation is a TensorDict with batch size [N] and the keys of `spec.observations`
    (``state`` [N, S] float32, ``image.<camera>`` [N, H, W, 3] uint8), plus ``privileged`` [N, Scene.dim]
    float32 where the simulator offers it to teachers. Returned tensors belong to the caller: a later
    step does not change them.
    """

    num_envs: int
    device: torch.device
    spec: EnvSpec
    exact_resume: bool = False
    """Whether load_state_dict(state_dict()) continues bit-identically."""

    @property
    @abstractmethod
    def instructions(self) -> list[str]:
        """The language instruction of each environment's current episode, N strings."""

    @abstractmethod
    def reset(self, seed: int, stagger: bool = False) -> TensorDict:
        """Start a new episode in every environment.

        The first episode of environment i is a pure function of ``seed + i``, whatever N is, so that two
        policies can be compared on the same episodes; later episodes derive from it.

        Args:
            seed: of environment 0.
            stagger: shorten each first episode by a random amount, so that in training resets do not align.
        """

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Apply one action [N, A] in [-1, 1] (clipped) for one control step.

        Raises:
            NonFiniteError: if the action or the simulation is not finite.
            WorkerDied: if a worker process ended.
        """

    def look(self, envs: Tensor | None = None) -> dict[str, Tensor]:
        """Look through the cameras that only a teacher sees (`EnvConfig.teacher_cameras`), at what was observed last.

        Apart from the observation, because a student that sees no images, or others, need not wait for them, and a teacher
        is not asked about every observation.

        Args:
            envs: [K] indices, ascending; None: all.

        Returns:
            ``view.<camera>`` uint8 [K, H, W, 3]. A camera that the student has at the same size is left out: its image is
            part of the observation.
        """
        return {}

    @abstractmethod
    def render(self, envs: list[int] | None = None, size: int = 256) -> Tensor:
        """Render environments (default: all) for people: uint8 [len(envs), size, size, 3] on the CPU."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to continue, as flat tensors. Exact where `exact_resume`."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> TensorDict:
        """Restore a saved state and return the observation to act on next."""

    @abstractmethod
    def close(self) -> None:
        """Release processes and devices. May be called twice."""
