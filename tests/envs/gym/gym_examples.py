"""Environments as a user has them: one alone, and vectors that reset themselves in each of Gymnasium's ways."""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

LENGTH = 5


class Line(gymnasium.Env):
    """A point on a line: solved at x > 1, ended at x > 2."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None, camera=False, random=False, late=False, action=None, obs=None, shape=(1,)):
        self.render_mode, self.camera, self.random, self.late, self.shape = render_mode, camera, random, late, shape
        parts = {"position": spaces.Box(-9, 9, (1,)), "goal": spaces.Dict(x=spaces.Box(-9, 9, (1,)), kind=spaces.Discrete(2))}
        if camera:
            parts["view"] = spaces.Box(0, 255, (3, 16, 24), np.uint8)
        self.observation_space = spaces.Dict(parts) if obs is None else getattr(spaces, obs)(4)
        self.action_space = (
            spaces.Box(0.0, 0.5, (1,), np.float32) if action is None else eval(action, vars(spaces) | {"inf": np.inf})
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 0), 0
        return self._obs(), {}

    def step(self, action):
        self.x += float(action[0]) + (np.random.default_rng().uniform() if self.random else 0)
        self.t += 1
        solved, over = bool(self.x > 1), bool(self.x > 2 or self.t == LENGTH)
        info = {"score": {"reached": solved}} if over or not self.late else {}
        return self._obs(), self.x, bool(self.x > 2), self.t == LENGTH, info

    def render(self):
        return np.full((30, 40, 3), round(100 + 50 * self.x), np.uint8)

    def _obs(self):
        obs = {"position": np.full(self.shape, self.x, np.float32), "goal": {"x": np.ones(1, np.float32), "kind": 1}}
        if self.camera:
            obs["view"] = np.full((3, 16, 24), self.t, np.uint8)
        return obs


def line(**options):
    return Line(**options)


def lines(num_envs, mode="NextStep"):
    return SyncVectorEnv([Line] * num_envs, autoreset_mode=AutoresetMode(mode))


class Batch(VectorEnv):
    """Observations are (number of the episode, step); environment i has episodes of 2 + i steps."""

    def __init__(self, num_envs, mode="NextStep", final=True):
        self.num_envs, self.mode, self.final = num_envs, AutoresetMode(mode) if mode else None, final
        self.metadata = {"autoreset_mode": self.mode}
        self.single_observation_space, self.single_action_space = spaces.Box(0, 99, (2,)), spaces.Box(-1, 1, (1,))
        self.ends = 2 + np.arange(num_envs)
        self.max_episode_steps = num_envs + 1

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if mask.all():
            self.episode, self.t = np.zeros(self.num_envs), np.zeros(self.num_envs)
        else:
            self._next(mask)
        self.ended = np.zeros(self.num_envs, bool)
        return self._obs(), {}

    def step(self, actions):
        before = self.ended
        self.t += 1
        if self.mode is AutoresetMode.NEXT_STEP:
            self._next(before)
        self.ended = self.t == self.ends
        info = {"success": self.t == 2}
        if self.mode is AutoresetMode.SAME_STEP and self.ended.any():
            if self.final:
                rows = np.full(self.num_envs, None)
                for env in np.flatnonzero(self.ended):
                    rows[env] = self._obs()[env]
                info |= {"final_obs": rows, "final_info": {"success": self.t == 2}}
            ended = self.ended
            self._next(ended)
            return self._obs(), np.ones(self.num_envs), np.zeros(self.num_envs, bool), ended, info
        reward = np.where(before & (self.mode is AutoresetMode.NEXT_STEP), 0.0, 1.0)
        return self._obs(), reward, np.zeros(self.num_envs, bool), self.ended, info

    def _next(self, mask):
        self.episode, self.t = self.episode + mask, np.where(mask, 0, self.t)

    def _obs(self):
        return np.stack([self.episode, self.t], axis=1).astype(np.float32)
