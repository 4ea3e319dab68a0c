"""ManiSkill on a GPU: all environments in one simulation; tensors stay on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rpd.envs.backends.protocol import Outcome
from rpd.envs.config import EnvConfig
from rpd.envs.maniskill.sim import Sim
from rpd.envs.seeding import in_32_bits
from rpd.envs.specs import EnvSpec


class DeviceSim:
    """N scenes of one `physx_cuda` simulation, as the backend of `rpd.envs.backends.episodic.EpisodicEnv`.

    Args:
        task: name without the simulator's prefix.
        config: options of the environment.
        device: CUDA device of physics and cameras.

    Raises:
        ConfigError: the task does not support an option.
    """

    spec: EnvSpec
    exact_resume = False

    def __init__(self, task: str, config: EnvConfig, device: torch.device) -> None:
        number = "" if device.index is None else f":{device.index}"
        self.sim = Sim(task, config, config.num_envs, f"physx_cuda{number}", f"sapien_cuda{number}")
        self.spec = self.sim.spec
        self.num_envs = config.num_envs

    @property
    def device(self) -> torch.device:
        """Device of returned tensors."""
        return self.sim.base.device

    def step(self, action: Tensor) -> Outcome:
        """Step every environment with actions [N, A]."""
        return self.sim.step(action)

    def reset(self, envs: list[int], seeds: list[int], exact: bool) -> dict[str, Tensor]:
        """Start episodes in some environments; returns the observations of all.

        ManiSkill samples the initial states of all environments of one reset from one generator: for an episode that depends
        only on its own seed, the environment must be reset alone (some milliseconds each).

        Args:
            envs: indices of the environments.
            seeds: one per environment.
            exact: reset one by one, each from its own seed; otherwise in one batch, from all seeds. With
                `EnvConfig.reconfigure` and all environments, in scenes rebuilt from these seeds.
        """
        base = self.sim.base
        if self.sim.config.reconfigure and exact and len(envs) == self.num_envs:
            base.reset(seed=[in_32_bits(seed) for seed in seeds], options={"reconfigure": True})
        groups = [([env], [seed]) for env, seed in zip(envs, seeds, strict=True)] if exact else [(envs, seeds)]
        with torch.random.fork_rng():
            for some, their_seeds in groups:
                # Not `reset(seed=...)`: with `env_idx` it would also replace the generators of the other environments.
                generators = [np.random.RandomState(in_32_bits(seed)) for seed in their_seeds]
                for env, generator in zip(some, generators, strict=True):
                    base._batched_episode_rng[env] = generator
                base._episode_rng = generators[0]
                torch.manual_seed(their_seeds[0])
                base.reset(options={"env_idx": torch.tensor(some, device=self.device)})
        return self.sim.observe()

    def teacher_images(self, envs: list[int]) -> dict[str, Tensor]:
        """Render the teacher-only cameras: ``view.<camera>`` uint8 [len(envs), H, W, 3]."""
        return {key: image[envs] for key, image in self.sim.teacher_images().items()}

    def render(self, envs: list[int]) -> Tensor:
        """Render environments: uint8 [len(envs), H, W, 3]."""
        return self.sim.render()[envs]

    def get_state(self) -> Tensor:
        """Copy the simulation states [N, D]."""
        return self.sim.get_state()

    def set_state(self, state: Tensor, seeds: list[int]) -> dict[str, Tensor]:
        """Restore `get_state`; returns the observations. Other effects of the seed than poses are not restored."""
        self.reset(list(range(self.num_envs)), seeds, exact=False)
        self.sim.set_state(state)
        return self.sim.observe()

    def close(self) -> None:
        """Release the simulation."""
        self.sim.base.close()
