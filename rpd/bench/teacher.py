"""How fast a teacher answers, what its options change in that, and what it costs not to remember its answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from envs import registry as envs
from envs.base import EnvConfig
from envs.specs import EnvSpec
from rpd.bench.clock import clock
from rpd.views import shown_to
from teachers import registry as teachers
from teachers.base import Teacher

BATCHES = (1, 16, 64)
STEPS = 10
MINIBATCH = 64


@dataclass(frozen=True)
class Walk:
    """What N environments showed, step by step, while a teacher acted in them."""

    seen: list[tuple[TensorDict, list[str]]]

    @property
    def count(self) -> int:
        """Observations."""
        return len(self.seen) * len(self.seen[0][1])


@torch.inference_mode()
def walk(name: str, task: str, image_size: int | None, num_envs: int, device: torch.device) -> tuple[Walk, EnvSpec]:
    """Let a teacher act for `STEPS` control steps; returns what it saw, and the environments' spec."""
    config = shown_to(EnvConfig(num_envs=num_envs, image_size=image_size), name)
    env = envs.make(task, config, device)
    try:
        teacher = teachers.make(name, env.spec, device)
        obs, seen = env.reset(0), []
        teacher.reset(torch.ones(num_envs, dtype=torch.bool))
        for _ in range(STEPS):
            obs = obs.update(env.look()) if teacher.looks else obs
            seen.append((obs.clone(), list(env.instructions)))
            obs = env.step(teacher.act(obs, env.instructions)).obs
        return Walk(seen), env.spec
    finally:
        env.close()


@torch.inference_mode()
def label(teacher: Teacher, walked: Walk) -> tuple[float, Tensor]:
    """Label a walk once, in its order; returns seconds, and the mean actions [steps, N, A]."""
    now = clock(teacher.device)
    teacher.reset(torch.ones(len(walked.seen[0][1]), dtype=torch.bool))
    began = now()
    means = [teacher.label(obs, instructions).mean for obs, instructions in walked.seen]
    return now() - began, torch.stack(means)


@torch.inference_mode()
def label_again(teacher: Teacher, walked: Walk, epochs: int) -> float:
    """Label a walk in shuffled minibatches once per epoch, as where answers are not stored; returns seconds."""
    obs = TensorDict.cat([obs for obs, _ in walked.seen])
    instructions = [text for _, texts in walked.seen for text in texts]
    now, generator = clock(teacher.device), torch.Generator().manual_seed(0)
    began = now()
    for _ in range(epochs):
        for rows in torch.randperm(len(instructions), generator=generator).split(MINIBATCH):
            teacher.label(obs[rows], [instructions[i] for i in rows.tolist()])
    return now() - began


def difference(first: Tensor, second: Tensor, discrete: tuple[bool, ...]) -> tuple[float, float]:
    """How far actions [..., A] are apart: mean distance of continuous entries, share of discrete ones that turn."""
    is_discrete = torch.tensor(discrete, device=first.device)
    gap = (first - second).abs()[..., ~is_discrete].mean().item()
    turned = (first * second < 0)[..., is_discrete]
    return gap, turned.float().mean().item() if turned.numel() else 0.0
