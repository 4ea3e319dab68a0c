"""Frame stacking: the last K frames of each camera as one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.vector_env import Step, VectorEnv

PREFIX = "frames."
"""Key prefix of the entries that `FrameStack.state_dict` adds."""


class FrameStack(VectorEnv):
    """Concatenates the last K frames of each camera along channels: [N, H, W, 3 K], newest last.

    The first frame of an episode is repeated for the frames before it, so that no frame crosses an episode boundary; the
    `Step.final_obs` of an ended episode has its own last K frames. A teacher receives single frames.
    """

    def __init__(self, env: VectorEnv, frames: int, teacher_cameras: Sequence[str] = ()) -> None:
        """Wrap an environment.

        Args:
            env: environment with single frames.
            frames: K > 1.
            teacher_cameras: see `EnvConfig.teacher_cameras`.
        """
        self.env, self.frames = env, frames
        self.num_envs, self.device, self.exact_resume = env.num_envs, env.device, env.exact_resume
        self.spec = env.spec.stacked(frames)
        self._shared = [name for name in teacher_cameras if f"image.{name}" in env.spec.cameras]
        self._history: list[dict[str, Tensor]] = []  # [N, H, W, 3] by camera, K times, the newest last

    @property
    def instructions(self) -> list[str]:
        """See `VectorEnv.instructions`."""
        return self.env.instructions

    def reset(self, seed: int, random_start_length: bool = False) -> TensorDict:
        """See `VectorEnv.reset`."""
        obs = self.env.reset(seed, random_start_length)
        self._history = [{key: obs[key].clone() for key in self.spec.cameras} for _ in range(self.frames)]
        return self._shown(obs)

    def step(self, action: Tensor) -> Step:
        """See `VectorEnv.step`."""
        step = self.env.step(action)
        before = self._history[1:]
        final_obs = step.final_obs
        if final_obs is not None and step.episode is not None:
            ended = step.episode.env
            for key in self.spec.cameras:
                final_obs[key] = torch.cat([*(past[key][ended] for past in before), final_obs[key]], dim=-1)
                for past in before:
                    past[key][ended] = step.obs[key][ended]
        self._history = [*before, {key: step.obs[key] for key in self.spec.cameras}]
        return replace(step, obs=self._shown(step.obs), final_obs=final_obs)

    def teacher_images(self, envs: Tensor | None = None) -> dict[str, Tensor]:
        """See `VectorEnv.teacher_images`; includes cameras that the student has, because the student's images are stacked."""
        views = self.env.teacher_images(envs)
        for name in self._shared:
            newest = self._history[-1][f"image.{name}"]
            views.setdefault(f"view.{name}", newest.clone() if envs is None else newest[envs])
        return views

    def render(self, envs: list[int] | None = None, size: int = 256) -> Tensor:
        """See `VectorEnv.render`."""
        return self.env.render(envs, size)

    def state_dict(self) -> dict[str, Tensor]:
        """See `VectorEnv.state_dict`; includes the older frames."""
        past = {f"{PREFIX}{i}.{key}": frame.cpu() for i, old in enumerate(self._history[:-1]) for key, frame in old.items()}
        return {**self.env.state_dict(), **past}

    def load_state_dict(self, state: dict[str, Tensor]) -> TensorDict:
        """See `VectorEnv.load_state_dict`."""
        obs = self.env.load_state_dict({key: value for key, value in state.items() if not key.startswith(PREFIX)})
        past = [
            {key: state[f"{PREFIX}{i}.{key}"].to(self.device, copy=True) for key in self.spec.cameras}
            for i in range(self.frames - 1)
        ]
        self._history = [*past, {key: obs[key] for key in self.spec.cameras}]
        return self._shown(obs)

    def close(self) -> None:
        """See `VectorEnv.close`."""
        self.env.close()

    def _shown(self, obs: TensorDict) -> TensorDict:
        """`obs` with stacked images, in newly allocated memory."""
        return obs.copy().update({key: torch.cat([f[key] for f in self._history], dim=-1) for key in self.spec.cameras})
