"""Teacher speed: labeling rate, effect of its options, and cost of labeling again in every epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.bench.clock import clock
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.specs import EnvSpec
from rpd.policies.cameras import with_teacher_cameras
from rpd.teachers import registry as teachers
from rpd.teachers.base import Teacher
from rpd.teachers.observation import teacher_observation

BATCHES = (1, 16, 64)
STEPS = 10
MINIBATCH = 64


@dataclass(frozen=True)
class Walk:
    """Observations of N environments, step by step, while a teacher acts."""

    seen: list[tuple[TensorDict, list[str]]]

    @property
    def count(self) -> int:
        """Number of observations."""
        return len(self.seen) * len(self.seen[0][1])


@torch.inference_mode()
def walk(name: str, task: str, image_size: int | None, num_envs: int, device: torch.device) -> tuple[Walk, EnvSpec]:
    """Run a teacher for `STEPS` control steps; returns its observations, and the spec of the environments."""
    config = with_teacher_cameras(EnvConfig(num_envs=num_envs, image_size=image_size), name)
    env = envs.make(task, config, device)
    try:
        teacher = teachers.make(name, env.spec, device)
        obs, seen = env.reset(0), []
        teacher.reset(torch.ones(num_envs, dtype=torch.bool))
        for _ in range(STEPS):
            obs = teacher_observation(env, obs, teacher)
            seen.append((obs.clone(), list(env.instructions)))
            obs = env.step(teacher.act(obs, env.instructions)).obs
        return Walk(seen), env.spec
    finally:
        env.close()


@torch.inference_mode()
def label(teacher: Teacher, walked: Walk) -> tuple[float, Tensor]:
    """Label a walk once, in order; returns seconds, and the mean actions [steps, N, A]."""
    now = clock(teacher.device)
    teacher.reset(torch.ones(len(walked.seen[0][1]), dtype=torch.bool))
    began = now()
    means = [teacher.label(obs, instructions).mean for obs, instructions in walked.seen]
    return now() - began, torch.stack(means)


@torch.inference_mode()
def label_again(teacher: Teacher, walked: Walk, epochs: int) -> float:
    """Label a walk in shuffled minibatches, once per epoch, as without stored labels; returns seconds."""
    obs = TensorDict.cat([obs for obs, _ in walked.seen])
    instructions = [text for _, texts in walked.seen for text in texts]
    now, generator = clock(teacher.device), torch.Generator().manual_seed(0)
    began = now()
    for _ in range(epochs):
        for rows in torch.randperm(len(instructions), generator=generator).split(MINIBATCH):
            teacher.label(obs[rows], [instructions[i] for i in rows.tolist()])
    return now() - began


def difference(first: Tensor, second: Tensor, discrete: tuple[bool, ...]) -> tuple[float, float]:
    """Difference of actions [..., A]: mean distance of continuous entries, fraction of discrete entries with other sign."""
    is_discrete = torch.tensor(discrete, device=first.device)
    gap = (first - second).abs()[..., ~is_discrete].mean().item()
    turned = (first * second < 0)[..., is_discrete]
    return gap, turned.float().mean().item() if turned.numel() else 0.0
