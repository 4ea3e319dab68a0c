"""Environments without a simulator."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.envs.vector_env import EpisodeInfo, Step, VectorEnv

NEXT_SEED = 1000
"""Difference of the seeds of two successive episodes of one environment."""


def fake_spec(**changes) -> EnvSpec:
    """An arm of one joint: state (seed, step), actions (x, grip), episodes of 4 steps; keywords replace fields."""
    fields = {
        "task": "fake/Task",
        "embodiment": Embodiment(name="dot", num_joints=1, descriptor={}),
        "observations": {"state": ObsSpec(shape=(2,), dtype="float32")},
        "state_names": ("seed", "step"),
        "action": ActionSpec(names=("x", "grip"), units=("m", ""), scale=(0.1, 1.0), discrete=(False, True)),
        "control_hz": 20,
        "max_episode_steps": 4,
        "reward": "sparse",
    }
    return EnvSpec(**{**fields, **changes})


class FakeEnv(VectorEnv):
    """Counts steps: the state is (seed, step). Subclasses replace `solved`, and what else a test needs.

    Attributes:
        seeds: of the running episodes [N].
        t: steps since the reset [N].
        limit: steps after which an episode is truncated; also where it is solved in the same step.
        closed: whether `close` was called.
    """

    def __init__(self, num_envs: int, spec: EnvSpec | None = None) -> None:
        self.num_envs, self.device, self.closed = num_envs, torch.device("cpu"), False
        self.spec = spec or fake_spec()
        self.limit = self.spec.max_episode_steps

    def solved(self, action: torch.Tensor) -> torch.Tensor:
        """Whether the step that has just been counted solves the task [N]: never."""
        return torch.zeros(self.num_envs, dtype=torch.bool)

    def reward(self, solved: torch.Tensor) -> torch.Tensor:
        """Reward of the step [N]: 1 where it solves the task."""
        return solved.float()

    def observe(self) -> TensorDict:
        """The observation [N]."""
        return TensorDict({"state": torch.stack([self.seeds, self.t], 1).float()}, [self.num_envs])

    @property
    def instructions(self) -> list[str]:
        return [f"do {i}" for i in range(self.num_envs)]

    def reset(self, seed: int, random_start_length: bool = False) -> TensorDict:
        self.seeds = torch.arange(seed, seed + self.num_envs)
        self.t = torch.zeros(self.num_envs, dtype=torch.int64)
        self.returns = torch.zeros(self.num_envs)
        return self.observe()

    def step(self, action: torch.Tensor) -> Step:
        self.t += 1
        solved, late = self.solved(action), self.t >= self.limit
        reward = self.reward(solved)
        self.returns += reward
        rows = (solved | late).nonzero()[:, 0]
        episode = final = None
        if len(rows):
            success = solved[rows]
            episode = EpisodeInfo(rows, self.returns[rows], self.t[rows], success, success, self.seeds[rows])
            final = self.observe()[rows]
            self.seeds[rows] += NEXT_SEED
            self.t[rows], self.returns[rows] = 0, 0.0
        return Step(self.observe(), reward, solved, late, final, episode)

    def render(self, envs: list[int] | None = None, size: int = 256) -> torch.Tensor:
        return torch.zeros(self.num_envs if envs is None else len(envs), size, size, 3, dtype=torch.uint8)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> TensorDict:
        return self.observe()

    def close(self) -> None:
        self.closed = True
