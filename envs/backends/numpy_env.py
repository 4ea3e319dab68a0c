"""Environments whose state lies in numpy arrays, stepped together in this process: what their episodes have in common."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from envs.base import Episodes, Step, VectorEnv
from envs.errors import NonFiniteError
from envs.seeds import next_seed, uniforms


class ArrayEnv(VectorEnv):
    """N environments in arrays. A subclass says what happens in an episode; when it begins and ends is decided here.

    Attributes:
        _state: arrays [N, ...] by name, those of `episode_arrays` among them: what `state_dict` saves.
    """

    exact_resume = True
    _state: dict[str, np.ndarray]

    @abstractmethod
    def _begin(self, ids: np.ndarray, seeds: np.ndarray) -> None:
        """Start the episodes of `seeds` [K] in the environments `ids` [K], `_clear` first."""

    @abstractmethod
    def _observe(self, ids: np.ndarray) -> TensorDict:
        """Observation of the environments `ids` [K], as they are now."""

    def reset(self, seed: int, stagger: bool = False) -> TensorDict:
        """See `VectorEnv.reset`."""
        everyone = np.arange(self.num_envs)
        self._begin(everyone, seed + everyone)
        if stagger:
            u = uniforms(self._state["seed"], 1, stream=2)[:, 0]
            self._state["limit"] = np.ceil((0.02 + 0.98 * u) * self.spec.max_episode_steps).astype(np.int64)
        return self._observe(everyone)

    def state_dict(self) -> dict[str, Tensor]:
        """See `VectorEnv.state_dict`."""
        return {name: torch.from_numpy(np.array(a)) for name, a in self._state.items()}

    def close(self) -> None:
        """See `VectorEnv.close`: threads and memory go with the object."""

    def _clear(self, ids: np.ndarray, seeds: np.ndarray) -> None:
        """Note that the episodes of `seeds` [K] begin in the environments `ids` [K]."""
        s = self._state
        s["seed"][ids], s["limit"][ids] = seeds, self.spec.max_episode_steps
        for name in ("elapsed", "ret", "success_once"):
            s[name][ids] = 0

    def _restore(self, state: dict[str, Tensor]) -> None:
        """Take the arrays out of a saved state."""
        for name, array in self._state.items():
            array[...] = state[name].numpy()

    def _step(self, reward: np.ndarray, success: np.ndarray, terminated: np.ndarray) -> Step:
        """Count a control step [N] that has happened, and begin anew where the episode is over."""
        s = self._state
        s["elapsed"] += 1
        s["ret"] += reward
        s["success_once"] |= success
        truncated = (s["elapsed"] >= s["limit"]) & ~terminated
        ended = np.flatnonzero(terminated | truncated)
        final_obs, episode = None, None
        if len(ended):
            final_obs = self._observe(ended)
            episode = Episodes(
                env=self._tensor(ended),
                ret=self._tensor(s["ret"][ended].astype(np.float32)),
                length=self._tensor(s["elapsed"][ended]),
                success_once=self._tensor(s["success_once"][ended]),
                success_at_end=self._tensor(success[ended]),
                seed=self._tensor(s["seed"][ended]),
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
    """What `ArrayEnv` keeps of the episodes of N environments."""
    return {
        "seed": np.zeros(n, dtype=np.int64),
        "elapsed": np.zeros(n, dtype=np.int64),
        "limit": np.zeros(n, dtype=np.int64),
        "ret": np.zeros(n),
        "success_once": np.zeros(n, dtype=bool),
    }


def finite_action(action: Tensor) -> np.ndarray:
    """An action [N, A] in float64, clipped to [-1, 1].

    Raises:
        NonFiniteError: naming the first environment whose action is not finite.
    """
    command = action.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(command).all():
        raise NonFiniteError("policy", f"action of environment {int(np.argwhere(~np.isfinite(command))[0, 0])}")
    return np.clip(command, -1.0, 1.0)
