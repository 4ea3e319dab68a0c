"""Adapter to the ``VecEnv`` of rsl_rl, for its PPO."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import missing_package
from rpd.envs.vector_env import VectorEnv

try:
    from rsl_rl.env import VecEnv
except ImportError:
    raise missing_package("RslRlVecEnv", "rsl-rl-lib", "rsl-rl") from None


class RslRlVecEnv(VecEnv):
    """Adapter from `VectorEnv` to rsl_rl.

    Observation groups: ``state`` [N, S], ``image_<camera>`` [N, C, H, W] float32 in [0, 1], and ``privileged`` where the
    simulator provides it, for a critic. Select them with ``obs_groups`` of the runner's configuration. The log has the success
    and the undiscounted return of episodes that ended in a step.
    """

    def __init__(self, env: VectorEnv, seed: int = 0) -> None:
        """Wrap an environment; environment i starts with the seed `seed` + i."""
        self.env, self._seed = env, seed
        self.num_envs, self.num_actions, self.device = env.num_envs, env.spec.action.dim, env.device
        self.max_episode_length = env.spec.max_episode_steps
        self.cfg = env.spec.model_dump(mode="json")
        self._lengths = torch.zeros(env.num_envs, dtype=torch.long, device=env.device)
        self._obs = env.reset(seed)

    @property
    def episode_length_buf(self) -> Tensor:
        """Steps [N] of the running episodes."""
        return self._lengths

    @episode_length_buf.setter
    def episode_length_buf(self, lengths: Tensor) -> None:
        """Start episodes of random lengths: rsl_rl's ``init_at_random_ep_len`` sets random steps to the same end."""
        self._lengths = torch.zeros_like(self._lengths)
        self._obs = self.env.reset(self._seed, random_start_length=True)

    def get_observations(self) -> TensorDict:
        """The current observation [N]."""
        return self._groups(self._obs)

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Step every environment with actions [N, A], which are clipped to [-1, 1]."""
        step = self.env.step(actions)
        self._obs = step.obs
        done = step.terminated | step.truncated
        self._lengths = (self._lengths + 1) * ~done
        extras: dict[str, Any] = {"time_outs": step.truncated.float()}
        if step.episode is not None:
            extras["log"] = {
                "/success": step.episode.success_once.float(), "/episode_return": step.episode.episode_return
            }  # fmt: skip
        return self._groups(step.obs), step.reward, done.long(), extras

    def _groups(self, obs: TensorDict) -> TensorDict:
        groups = {}
        for key, value in obs.items():
            image = key.startswith("image.")
            groups[key.replace(".", "_")] = value.permute(0, 3, 1, 2).float() / 255 if image else value
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)
