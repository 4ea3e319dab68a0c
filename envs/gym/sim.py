"""A single Gymnasium environment in a worker process."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rpd.envs.backends.protocol import Factory, Outcome
from rpd.envs.config import EnvConfig
from rpd.envs.errors import RunFault
from rpd.envs.gym import build, success
from rpd.envs.gym.plan import RENDERED, Plan, batch_of, plan
from rpd.envs.gym.spaces import square

RENDER_SIZE = 256


def factory(task: str, config: dict[str, Any]) -> Factory:
    """Describe an environment; returns a factory that builds it.

    Args:
        task: see `rpd.envs.gym.names.resolve`.
        config: fields of `rpd.envs.config.EnvConfig`.
    """
    described = plan(task, EnvConfig(**config))
    return lambda: Sim(described)


class Sim:
    """See `rpd.envs.backends.protocol.Simulation`.

    The state of an episode is its seed and its actions: Gymnasium has no other that all environments share. Restoring one steps
    through the episode again, exactly if the environment repeats itself, which `rpd.envs.gym.plan.plan` tests.
    """

    render_shape = (RENDER_SIZE, RENDER_SIZE, 3)

    def __init__(self, described: Plan) -> None:
        self._plan = described
        self.spec, self.exact_resume, self.remarks = described.spec, described.repeats, described.remarks
        self._env = build.single(described.source, described.config)
        self._actions = np.zeros((self.spec.max_episode_steps if described.repeats else 0, self.spec.action.dim), np.float32)
        self._length, self._return = 0, 0.0
        self.reset(0)

    @property
    def view_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Shape (H, W, 3) of each image that `teacher_images` returns, by key."""
        size = self._plan.view_size
        return {f"view.{name}": (size, size, 3) for name in self._plan.views}

    def step(self, action: Tensor) -> Outcome:
        """Apply an action [1, A] for one control step."""
        row = action.numpy()
        if self._length < len(self._actions):
            self._actions[self._length] = row[0]
        self._length += 1
        self._obs, reward, terminated, truncated, info = self._env.step(self._plan.actions.physical(row)[0])
        self._return += float(reward)
        over = bool(terminated or truncated or self._length >= self.spec.max_episode_steps)
        solved = self._solved(info, over)
        return Outcome(
            self.observe(),
            torch.tensor([float(solved) if self.spec.reward == "sparse" else float(reward)]),
            torch.tensor([solved]),
            torch.tensor([bool(terminated)]),
            torch.tensor([bool(truncated)]),
        )

    def reset(self, seed: int, exact: bool = False) -> dict[str, Tensor]:
        """Start the episode of a seed; exactly, in a new environment if episodes depend on earlier ones."""
        if exact and not self._plan.repeats:
            self._env.close()
            self._env = build.single(self._plan.source, self._plan.config)
        self._obs, _ = self._env.reset(seed=seed)
        self._length, self._return = 0, 0.0
        return self.observe()

    def observe(self) -> dict[str, Tensor]:
        """The last observation."""
        state = self._plan.observations.state(batch_of(self._obs))
        images = {f"image.{name}": self._image(name, self._plan.size) for name in self._plan.images}
        return {"state": torch.from_numpy(state)} | images

    def teacher_images(self) -> dict[str, Tensor]:
        """Images of the teacher-only cameras."""
        return {f"view.{name}": self._image(name, self._plan.view_size) for name in self._plan.views}

    def render(self) -> Tensor:
        """Render the environment; blank if it has no such render mode."""
        if not self._plan.renders:
            return torch.full((1, *self.render_shape), 128, dtype=torch.uint8)
        return self._image(RENDERED, RENDER_SIZE)

    def get_state(self) -> Tensor:
        """Number of steps and actions of the episode, [1, 1 + L A] float32; [1, 0] if it cannot be repeated."""
        if not self._plan.repeats:
            return torch.zeros(1, 0)
        return torch.from_numpy(np.concatenate([[self._length], self._actions.ravel()]).astype(np.float32))[None]

    def set_state(self, state: Tensor) -> None:
        """Repeat the actions of `get_state`, from the start of the episode."""
        count, self._actions[:] = int(state[0, 0]), state[0, 1:].numpy().reshape(self._actions.shape)
        for step, action in enumerate(self._actions[:count].copy(), 1):
            outcome = self.step(torch.from_numpy(action)[None])
            if step < count and outcome.terminated is not None and outcome.terminated.item():
                raise RunFault(f"{self.spec.task} does not repeat an episode: repeated, it ended after {step} of {count} steps")

    def _solved(self, info: dict[str, Any], over: bool) -> bool:
        rule = self._plan.success
        if rule.key is not None:
            return success.in_info(info, rule.key)
        return rule.threshold is not None and over and self._return >= rule.threshold

    def _image(self, camera: str, size: int) -> Tensor:
        """Image [1, size, size, 3] of a camera."""
        if camera == RENDERED and camera not in self._plan.observations.images:
            frame = self._env.render()
            if not isinstance(frame, np.ndarray):
                raise RunFault(f"{self.spec.task}: render returned a {type(frame).__name__}, and not an array [H, W, 3]")
            return torch.from_numpy(square(frame, size).copy())[None]
        return torch.from_numpy(self._plan.observations.image(batch_of(self._obs), camera, size))
