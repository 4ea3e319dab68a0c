"""Adapter to the ``VecEnv`` of stable-baselines3, so that its algorithms can serve as baselines and teachers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rpd.envs.errors import missing_package
from rpd.envs.vector_env import VectorEnv
from rpd.envs.wrappers.numpy_observations import NumpyObservations

try:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv
except ImportError:
    raise missing_package("SB3VecEnv", "stable-baselines3", "sb3") from None


class SB3VecEnv(VecEnv):
    """Adapter from `VectorEnv` to stable-baselines3.

    Observations are those of `NumpyObservations`. Infos contain the episode statistics of SB3's Monitor, and ``is_success``.
    """

    def __init__(self, env: VectorEnv, seed: int = 0) -> None:
        """Wrap an environment; `seed` is the seed of the first reset, unless `VecEnv.seed` is called before."""
        self.env = env
        self._next_seed = seed
        self._actions = torch.zeros(env.num_envs, env.spec.action.dim, device=env.device)
        self._start = time.time()
        self._numpy = NumpyObservations(env.spec)
        action_space = spaces.Box(-1.0, 1.0, (env.spec.action.dim,), np.float32)
        super().__init__(env.num_envs, self._numpy.space, action_space)

    def reset(self) -> Any:
        """Start new episodes in all environments; a reset without a new seed continues the sequence of seeds."""
        if self._seeds[0] is not None:
            self._next_seed = self._seeds[0]
        obs = self.env.reset(self._next_seed)
        self._next_seed += self.num_envs  # environment i takes seed + i
        self._reset_seeds()
        self._reset_options()
        return self._numpy(obs)

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions for `step_wait`."""
        self._actions = torch.as_tensor(actions, dtype=torch.float32, device=self.env.device)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step; infos of ended episodes have the last observation, the episode statistics and the truncation flag."""
        step = self.env.step(self._actions)
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        if step.episode is not None and step.final_obs is not None:
            last = self._numpy(step.final_obs)
            timed_out = (step.truncated & ~step.terminated).tolist()
            elapsed = round(time.time() - self._start, 6)
            episode = zip(
                step.episode.env.tolist(),
                step.episode.episode_return.tolist(),
                step.episode.length.tolist(),
                step.episode.success_at_end.tolist(),
                strict=True,
            )
            for k, (i, ret, length, success) in enumerate(episode):
                infos[i] = {
                    "terminal_observation": self._numpy.row(last, k),
                    "TimeLimit.truncated": timed_out[i],
                    "episode": {"r": ret, "l": length, "t": elapsed},
                    "is_success": success,
                }
        dones = (step.terminated | step.truncated).cpu().numpy()
        return self._numpy(step.obs), step.reward.cpu().numpy(), dones, infos

    def close(self) -> None:
        """Release the environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Render every environment."""
        return list(self.env.render().numpy())

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the batch, repeated per index."""
        value = "rgb_array" if attr_name == "render_mode" else getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the whole batch, for any indices."""
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of the batch once and return its value, repeated per index."""
        value = getattr(self.env, method_name)(*args, **kwargs)
        return [value for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return True for Monitor: infos contain its statistics, so SB3 reports true episode returns."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
