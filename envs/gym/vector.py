"""A Gymnasium vector environment, which resets its own episodes, as a backend of `EpisodicEnv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from torch import Tensor

from rpd.envs.backends.protocol import Outcome
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, RunFault
from rpd.envs.gym import build, success
from rpd.envs.gym.names import Source
from rpd.envs.gym.plan import batch_of, cameras, describe
from rpd.envs.gym.sim import RENDER_SIZE
from rpd.envs.gym.spaces import Actions, Observations, square

MODES = ", ".join(mode.value for mode in AutoresetMode)


class VectorBackend:
    """N environments that are stepped by one object of another package, in this process.

    Autoreset. ``Disabled``: ended episodes are reset by a mask. ``SameStep``: the next episode's first observation comes with
    the last step. ``NextStep``: Gymnasium's own vectors are reset by a mask; in others the next step of an ended environment
    ignores its action and returns the first observation: that step does not count, and the observation before it is the last
    one of the old episode.

    Seeds: ``reset(seed=S)`` gives environment i the seed S + i in Gymnasium's own vectors; others may seed the whole batch.
    Later episodes are seeded only where a mask and a list of seeds are accepted: in Gymnasium's own. State cannot be saved.

    Args:
        source: what makes the environment.
        config: its options.

    Raises:
        ConfigError: spaces, success, autoreset or a number of environments that cannot be used.
    """

    exact_resume = False
    device = torch.device("cpu")

    def __init__(self, source: Source, config: EnvConfig) -> None:
        task, env = source.task, build.vector(source, config)
        self._task, self._env, self.num_envs = task, env, env.num_envs
        try:
            self._mode = _autoreset(task, env.metadata)
            own = isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
            self._seeded = own
            self.resets_any = self._mode is AutoresetMode.DISABLED or (own and self._mode is AutoresetMode.NEXT_STEP)
            self._observations = Observations(task, env.single_observation_space)
            self._actions = Actions(task, env.single_action_space)
            images, views, self._size, _ = cameras(task, self._observations, config, renders=False)
            if views:
                raise ConfigError(
                    f"{task} is a vector environment, without teacher-only cameras: leave env.teacher_cameras out"
                )
            self._images = images
            limit = build.time_limit(task, env, config)
            with build.explained(task):
                infos = self._probe()
            self._success = success.rule(task, config.success, infos, getattr(env.spec, "reward_threshold", None))
            sizes = dict.fromkeys(images, self._size)
            self.spec = describe(
                task, config, self._observations, self._actions, self._success, sizes, limit, build.control_hz(env)
            )  # fmt: skip
        except BaseException:
            env.close()
            raise
        restarts = f"{task} is a vector environment, whose state cannot be saved: a resumed run starts new episodes"
        self.remarks = (restarts,) if self._success.defined else (restarts, success.undefined(task))
        self._return = np.zeros(self.num_envs)
        self._length = np.zeros(self.num_envs, np.int64)
        self._ended = np.zeros(self.num_envs, bool)  # in the last step, and not reset
        self._obs: dict[str, Tensor] = {}

    def step(self, action: Tensor) -> Outcome:
        """Step every environment."""
        idle = self._ended.copy()
        raw, reward, terminated, truncated, infos = self._env.step(self._actions.physical(action.numpy()))
        self._obs = self._encode(raw)
        done = np.asarray(terminated) | np.asarray(truncated)
        self._length += ~idle
        self._return += np.where(idle, 0.0, reward)
        over = done | (self._length >= self.spec.max_episode_steps)
        solved = self._solved(infos, done, over) & ~idle
        last = self._last(infos, done) if self._mode is AutoresetMode.SAME_STEP and done.any() else self._obs
        self._ended = done & (self._mode is AutoresetMode.NEXT_STEP)
        self._forget(done)
        return Outcome(
            last,
            torch.as_tensor(solved if self.spec.reward == "sparse" else np.asarray(reward), dtype=torch.float32),
            torch.from_numpy(solved),
            torch.from_numpy(np.array(terminated, bool)),
            torch.from_numpy(np.array(truncated, bool)),
            torch.from_numpy(idle),
        )

    def reset(self, envs: list[int], seeds: list[int], exact: bool) -> dict[str, Tensor]:
        """Start episodes: all with `exact`, else those that ended, if they are not reset by themselves."""
        mask = np.zeros(self.num_envs, bool)
        mask[envs] = True
        if exact:
            self._obs = self._encode(self._env.reset(seed=seeds[0])[0])
            self._ended[:] = False
        elif self.resets_any:
            own = dict(zip(envs, seeds, strict=True))
            seed: Any = [own.get(env) for env in range(self.num_envs)] if self._seeded else None
            self._obs = self._encode(self._env.reset(seed=seed, options={"reset_mask": mask})[0])
            self._ended &= ~mask
        self._forget(mask)
        return self._obs

    def teacher_images(self, envs: list[int]) -> dict[str, Tensor]:
        """None."""
        return {}

    def render(self, envs: list[int]) -> Tensor:
        """Render environments: uint8 [len(envs), H, W, 3]; blank if the vector does not return a frame for each."""
        frames = self._env.render() if self._env.render_mode == build.RGB else None
        if not isinstance(frames, Sequence | np.ndarray) or len(frames) != self.num_envs:
            return torch.full((len(envs), RENDER_SIZE, RENDER_SIZE, 3), 128, dtype=torch.uint8)
        return torch.from_numpy(np.stack([square(np.asarray(frames[env]), RENDER_SIZE) for env in envs]))

    def get_state(self) -> Tensor:
        """Nothing: [N, 0]."""
        return torch.zeros(self.num_envs, 0)

    def set_state(self, state: Tensor, seeds: list[int]) -> dict[str, Tensor]:
        """Start the episodes of `seeds` [N]."""
        return self.reset(list(range(self.num_envs)), seeds, exact=True)

    def close(self) -> None:
        """Close the vector environment. May be called twice."""
        if not self._env.closed:
            self._env.close()

    def _probe(self) -> list[Mapping[str, Any]]:
        """Infos of a reset and of one step."""
        obs, info = self._env.reset(seed=0)
        self._observations.check(_row(obs, 0))
        still = self._actions.physical(np.zeros((self.num_envs, self._actions.spec.dim), np.float32))
        return [info, self._env.step(still)[4]]

    def _forget(self, mask: np.ndarray) -> None:
        self._return[mask], self._length[mask] = 0, 0

    def _solved(self, infos: Mapping[str, Any], done: np.ndarray, over: np.ndarray) -> np.ndarray:
        rule = self._success
        if rule.threshold is not None:
            return over & (self._return >= rule.threshold)
        if rule.key is None:
            return np.zeros(self.num_envs, bool)
        solved = success.in_infos(infos, rule.key, self.num_envs)
        if "final_info" in infos:
            solved = np.where(done, success.in_infos(infos["final_info"], rule.key, self.num_envs), solved)
        return solved

    def _last(self, infos: Mapping[str, Any], done: np.ndarray) -> dict[str, Tensor]:
        """Observations [N], the last ones where an episode ended."""
        if "final_obs" not in infos:
            raise RunFault(
                f"{self._task}: infos have no final_obs at the end of an episode, and autoreset_mode SameStep needs it"
            )
        last = {key: value.clone() for key, value in self._obs.items()}
        for env in np.flatnonzero(done).tolist():
            final = self._encode(batch_of(_row(infos["final_obs"], env)))
            for key, value in final.items():
                last[key][env] = value[0]
        return last

    def _encode(self, obs: Any) -> dict[str, Tensor]:
        images = {f"image.{name}": torch.from_numpy(self._observations.image(obs, name, self._size)) for name in self._images}
        return {"state": torch.from_numpy(self._observations.state(obs))} | images


def _autoreset(task: str, metadata: Mapping[str, Any] | None) -> AutoresetMode:
    mode = (metadata or {}).get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError:
        needed = f"the vector environment has to set one of {MODES}"
        raise ConfigError(f"{task}: metadata has autoreset_mode {mode}: {needed}") from None


def _row(obs: Any, env: int) -> Any:
    """Observation of one environment of a batch; the batch may be an array of objects."""
    if isinstance(obs, Mapping):
        return {key: _row(value, env) for key, value in obs.items()}
    return tuple(_row(part, env) for part in obs) if isinstance(obs, tuple) else obs[env]
