"""Base class of environments whose state is in numpy arrays and that are stepped as a batch in this process."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import NonFiniteError
from rpd.envs.seeding import next_seed, uniforms
from rpd.envs.vector_env import EpisodeInfo, Step, VectorEnv


class ArrayEnv(VectorEnv):
    """N environments in arrays. Handles episode starts, ends and statistics; subclasses implement the task.

    Attributes:
        _state: arrays [N, ...] by name, including those of `episode_arrays`; saved by `state_dict`.
    """

    exact_resume = True
    _state: dict[str, np.ndarray]

    @abstractmethod
    def _begin(self, ids: np.ndarray, seeds: np.ndarray) -> None:
        """Start episodes with `seeds` [K] in the environments `ids` [K]; must call `_clear` first."""

    @abstractmethod
    def _observe(self, ids: np.ndarray) -> TensorDict:
        """Current observation of the environments `ids` [K]."""

    def _arm_measures(self, ids: np.ndarray) -> dict[str, Tensor]:
        """Measures of the arm in the ending episodes of the environments `ids` [K], by field of `EpisodeInfo`."""
        return {}

    def reset(self, seed: int, random_start_length: bool = False) -> TensorDict:
        """See `VectorEnv.reset`."""
        everyone = np.arange(self.num_envs)
        self._begin(everyone, seed + everyone)
        if random_start_length:
            u = uniforms(self._state["seed"], 1, stream=2)[:, 0]
            self._state["limit"] = np.ceil((0.02 + 0.98 * u) * self.spec.max_episode_steps).astype(np.int64)
        return self._observe(everyone)

    def state_dict(self) -> dict[str, Tensor]:
        """See `VectorEnv.state_dict`."""
        return {name: torch.from_numpy(np.array(a)) for name, a in self._state.items()}

    def close(self) -> None:
        """See `VectorEnv.close`: nothing to release explicitly."""

    def _clear(self, ids: np.ndarray, seeds: np.ndarray) -> None:
        """Reset the episode statistics of the environments `ids` [K] and set their `seeds` [K]."""
        s = self._state
        s["seed"][ids], s["limit"][ids] = seeds, self.spec.max_episode_steps
        for name in ("elapsed", "ret", "success_once"):
            s[name][ids] = 0

    def _restore(self, state: dict[str, Tensor]) -> None:
        """Restore the arrays from a saved state."""
        for name, array in self._state.items():
            array[...] = state[name].numpy()

    def _step(self, reward: np.ndarray, success: np.ndarray, terminated: np.ndarray) -> Step:
        """Finish a control step given reward, success and termination [N], and start a new episode where one has ended."""
        s = self._state
        s["elapsed"] += 1
        s["ret"] += reward
        s["success_once"] |= success
        truncated = (s["elapsed"] >= s["limit"]) & ~terminated
        ended = np.flatnonzero(terminated | truncated)
        final_obs, episode = None, None
        if len(ended):
            final_obs = self._observe(ended)
            episode = EpisodeInfo(
                env=self._tensor(ended),
                episode_return=self._tensor(s["ret"][ended].astype(np.float32)),
                length=self._tensor(s["elapsed"][ended]),
                success_once=self._tensor(s["success_once"][ended]),
                success_at_end=self._tensor(success[ended]),
                seed=self._tensor(s["seed"][ended]),
                **self._arm_measures(ended),
            )
            self._begin(ended, next_seed(s["seed"][ended]))
        return Step(
            obs=self._observe(np.arange(self.num_envs)),
            reward=self._tensor(reward.astype(np.float32)),
            terminated=self._tensor(terminated),
            truncated=self._tensor(truncated),
            final_obs=final_obs,
            episode=episode,
        )

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x.copy()).to(self.device)


def episode_arrays(n: int) -> dict[str, np.ndarray]:
    """Per-episode arrays of `ArrayEnv` for N environments."""
    return {
        "seed": np.zeros(n, dtype=np.int64),
        "elapsed": np.zeros(n, dtype=np.int64),
        "limit": np.zeros(n, dtype=np.int64),
        "ret": np.zeros(n),
        "success_once": np.zeros(n, dtype=bool),
    }


def finite_action(action: Tensor) -> np.ndarray:
    """Convert an action [N, A] to float64, clipped to [-1, 1].

    Raises:
        NonFiniteError: names the first environment whose action is not finite.
    """
    command = action.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(command).all():
        raise NonFiniteError("policy", f"action of environment {int(np.argwhere(~np.isfinite(command))[0, 0])}")
    return np.clip(command, -1.0, 1.0)
