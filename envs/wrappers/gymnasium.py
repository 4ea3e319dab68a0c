"""Gymnasium's interface to our environments: a vector environment and a single one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rpd.envs.vector_env import Step, VectorEnv
from rpd.envs.wrappers.numpy_observations import NumpyObservations

RGB = "rgb_array"


class GymnasiumVectorEnv(gymnasium.vector.VectorEnv):
    """Adapter from `VectorEnv` to Gymnasium's vector environment, with autoreset in the same step.

    Observations are those of `NumpyObservations`, actions are in [-1, 1]. In a step that ends episodes, infos have
    ``final_obs`` (an array of objects) and ``final_info`` with ``success``, ``success_once``, ``seed``, and the return and
    length of the ``episode``, each with its mask.
    """

    def __init__(self, env: VectorEnv, render_mode: str | None = None) -> None:
        """Wrap an environment; `render_mode`: None or ``rgb_array``."""
        self.env, self.num_envs, self.render_mode = env, env.num_envs, render_mode
        self._numpy = NumpyObservations(env.spec)
        self.autoreset_mode = AutoresetMode.SAME_STEP  # read by TorchRL
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": [RGB], "render_fps": env.spec.control_hz}
        self.single_observation_space, self.single_action_space = self._numpy.space, _actions(env)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start episodes in all environments: environment i has the seed `seed` + i. None: random seeds.

        Raises:
            ValueError: options has a reset_mask: ended environments are reset in the same step.
        """
        if options and "reset_mask" in options:
            raise ValueError("reset_mask: ended environments are reset in the same step, and others cannot be")
        super().reset(seed=seed)
        return self._numpy(self.env.reset(_seed(seed, self.np_random))), {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment with actions [N, A]."""
        step = self.env.step(torch.as_tensor(actions, dtype=torch.float32, device=self.env.device))
        arrays = (value.cpu().numpy() for value in (step.reward, step.terminated, step.truncated))
        return self._numpy(step.obs), *arrays, self._infos(step)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """A frame [256, 256, 3] of each environment, with render_mode ``rgb_array``."""
        return tuple(self.env.render().numpy()) if self.render_mode == RGB else None

    def close_extras(self, **kwargs: Any) -> None:
        """Release the environment."""
        self.env.close()

    def _infos(self, step: Step) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        if step.episode is not None and step.final_obs is not None:
            last = self._numpy(step.final_obs)
            for k, (env, info) in enumerate(zip(step.episode.env.tolist(), _final_infos(step), strict=True)):
                infos = self._add_info(infos, {"final_obs": self._numpy.row(last, k), "final_info": info}, env)
        return infos


class GymnasiumEnv(gymnasium.Env):
    """Adapter from a `VectorEnv` of one environment to Gymnasium's single environment.

    ``info`` is empty until an episode ends, see `GymnasiumVectorEnv`. The seed of an episode after a reset without one is drawn
    from `np_random`.
    """

    metadata = {"render_modes": [RGB]}  # noqa: RUF012  (declared so by Gymnasium)

    def __init__(self, env: VectorEnv, render_mode: str | None = None) -> None:
        """Wrap an environment; `render_mode`: None or ``rgb_array``."""
        self.env, self.render_mode = env, render_mode
        self.metadata = self.metadata | {"render_fps": self.env.spec.control_hz}
        self._numpy = NumpyObservations(self.env.spec)
        self.observation_space, self.action_space = self._numpy.space, _actions(self.env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the episode of a seed."""
        super().reset(seed=seed)
        return self._numpy.row(self._numpy(self.env.reset(_seed(seed, self.np_random))), 0), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply an action [A]."""
        step = self.env.step(torch.as_tensor(action, dtype=torch.float32, device=self.env.device)[None])
        obs = step.obs if step.final_obs is None else step.final_obs
        info = _final_infos(step)[0] if step.episode is not None else {}
        ends = bool(step.terminated), bool(step.truncated)
        return self._numpy.row(self._numpy(obs), 0), float(step.reward), *ends, info

    def render(self) -> Any:
        """A frame [256, 256, 3], with render_mode ``rgb_array``."""
        return self.env.render()[0].numpy() if self.render_mode == RGB else None

    def close(self) -> None:
        """Release the environment."""
        self.env.close()


def _actions(env: VectorEnv) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (env.spec.action.dim,), np.float32)


def _seed(seed: int | None, random: np.random.Generator) -> int:
    return int(random.integers(2**31)) if seed is None else seed


def _final_infos(step: Step) -> list[dict[str, Any]]:
    """Info of each ended episode."""
    episode = step.episode
    assert episode is not None
    columns = (episode.success_at_end, episode.success_once, episode.seed, episode.episode_return, episode.length)
    return [
        {"success": success, "success_once": once, "seed": seed, "episode": {"r": ret, "l": length}}
        for success, once, seed, ret, length in zip(*(column.tolist() for column in columns), strict=True)
    ]
