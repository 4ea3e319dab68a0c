"""One video of all robots: a row of tiles per robot and task, acting at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rpd.envs.vector_env import VectorEnv
from rpd.evaluation.video import VideoWriter, grid
from rpd.students.generalist import GeneralistActorCritic

TILES, SIZE = 4, 128


@torch.no_grad()
def film(policy: GeneralistActorCritic, envs: Sequence[VectorEnv], path: Path, seed: int) -> None:
    """Record the first episodes of every environment until all have ended; ended ones keep their last frame.

    Args:
        policy: generalist policy that acts on every robot.
        envs: environments of the robots; they are reset.
        path: output mp4.
        seed: seed of the first episode.
    """
    count = min(TILES, *(env.num_envs for env in envs))
    obs = [env.reset(seed) for env in envs]
    captions = [f"{_title(env)} · {seed + i}" for env in envs for i in range(count)]
    frames = np.zeros((len(envs), count, SIZE, SIZE, 3), np.uint8)
    running, solved = (np.full((len(envs), count), value) for value in (True, False))
    with VideoWriter(path, envs[0].spec.control_hz) as video:
        while True:
            for i, env in enumerate(envs):
                if alive := running[i].nonzero()[0].tolist():
                    frames[i, alive] = env.render(alive, SIZE).numpy()
            video.write(grid(frames.reshape(-1, SIZE, SIZE, 3), solved.reshape(-1), cols=count, captions=captions))
            if not running.any():
                return
            for i, env in enumerate(envs):
                if not running[i].any():
                    continue
                policy.adapt_to(env.spec)
                step = env.step(policy.act(obs[i]))
                obs[i] = step.obs
                if step.episode is not None:
                    for j, success in zip(step.episode.env.tolist(), step.episode.success_once.tolist(), strict=True):
                        if j < count and running[i, j]:
                            running[i, j], solved[i, j] = False, success


def _title(env: VectorEnv) -> str:
    return f"{env.spec.embodiment.name} {env.spec.task.rsplit('/', 1)[-1]}"
