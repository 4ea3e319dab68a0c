"""Episodes as a policy plays them: what it saw, answered and did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from tensordict import TensorDict

from envs.base import Episodes, VectorEnv
from envs.errors import NonFiniteError, RunFault
from envs.specs import ActionSpec
from rpd.demos.episode import STEP_KEYS, Array, Episode, EpisodeInfo
from rpd.policies import Policy

Row = dict[str, Array]


class Take(NamedTuple):
    """An episode and its place in a round: shorter episodes end earlier, and must not come first for that."""

    play: int
    """How many episodes its environment had played before."""
    env: int
    """Index of its environment."""
    episode: Episode


def play_round(
    env: VectorEnv,
    policy: Policy,
    seed: int,
    plays: int,
    noise: float = 0.0,
    noise_turn: float | None = None,
    privileged: bool = False,
) -> Iterator[Take]:
    """Let every environment play `plays` episodes after a reset, and yield each as it ends.

    What is yielded is a function of the arguments, where environment and policy are deterministic given their seeds. Memory
    holds the running episodes.

    With noise, the policy answers to the states that a disturbed one visits, and so shows how to come back from them:
    DART (Laskey et al., 2017, arXiv 1703.09327), with noise of one size in place of a covariance fitted to a student.

    Args:
        env: where to act.
        policy: who acts.
        seed: of the first environment's first episode, of the policy and of the noise.
        plays: episodes per environment.
        noise: standard deviation of what is added to each continuous dimension of an action, in normalised units.
        noise_turn: the same of the dimensions that turn the hand; None: as the others.
        privileged: record ``privileged`` too, what only a simulator knows.

    Raises:
        NonFiniteError: the policy answered with NaN or Inf.
        RunFault: an episode did not end after the steps that the spec allows.
    """
    recorded = env.spec.stacked(1).observations
    keys = {key: space.shape[-1] for key, space in recorded.items()}  # of an image with a past, its newest frame
    keys |= {"privileged": 0} if privileged else {}
    disturb = _Disturbance(noise, noise if noise_turn is None else noise_turn, env.spec.action, seed)
    policy.seed(seed)
    obs = env.reset(seed)
    policy.reset(torch.ones(env.num_envs, dtype=torch.bool, device=env.device))
    tapes = [_Tape(text) for text in env.instructions]
    left = [plays] * env.num_envs
    for _ in range(plays * env.spec.max_episode_steps):
        with torch.no_grad():
            label = policy.act(obs.copy().update(env.look()) if policy.looks else obs, env.instructions).clamp(-1, 1)
        if not torch.isfinite(label).all():
            raise NonFiniteError(f"policy {policy.name}", f"action of environment {int((~label.isfinite()).nonzero()[0, 0])}")
        action = disturb(label)
        step = env.step(action)
        solved = torch.zeros_like(step.terminated)
        if step.episode is not None:
            solved[step.episode.env] = step.episode.success_at_end
        now = dict(zip(STEP_KEYS, (action, label, step.reward, step.terminated, step.truncated, solved), strict=True))
        seen, done = _numpy(obs, keys), {key: value.cpu().numpy() for key, value in now.items()}
        for i, tape in enumerate(tapes):
            tape.add(_row(seen, i), _row(done, i))
        if step.episode is not None and step.final_obs is not None:
            last = _numpy(step.final_obs, keys)
            for k, i in enumerate(step.episode.env.tolist()):
                if left[i]:
                    yield Take(plays - left[i], i, tapes[i].episode(env.spec.task, _row(last, k), step.episode, k))
                    left[i] -= 1
                tapes[i] = _Tape(env.instructions[i])
            policy.reset(step.terminated | step.truncated)
        if not any(left):
            return
        obs = step.obs
    raise RunFault(f"{env.spec.task}: environments did not end {plays} episodes in {env.spec.max_episode_steps} steps each")


class _Tape:
    """The running episode of one environment."""

    def __init__(self, instruction: str) -> None:
        self.instruction = instruction
        self.obs: list[Row] = []
        self.steps: list[Row] = []

    def add(self, obs: Row, step: Row) -> None:
        self.obs.append(obs)
        self.steps.append(step)

    def episode(self, task: str, last: Row, ended: Episodes, k: int) -> Episode:
        """Close the tape with the observation after the last step; it is number `k` of those that ended together."""
        obs = [*self.obs, last]
        info = EpisodeInfo(task, self.instruction, int(ended.seed[k]), bool(ended.success_at_end[k]), len(self.steps))
        return Episode(
            info,
            {key: np.stack([row[key] for row in obs]) for key in last},
            {key: np.stack([row[key] for row in self.steps]).astype(dtype) for key, dtype in STEP_KEYS.items()},
        )


class _Disturbance:
    """Gaussian noise on the continuous dimensions of actions [N, A]; a gripper's sign is left alone."""

    def __init__(self, size: float, turn: float, space: ActionSpec, seed: int) -> None:
        sizes = [turn if unit == "rad" else size for unit in space.units]
        self.size = torch.tensor(sizes) * ~torch.tensor(space.discrete)  # [A]
        state = np.random.SeedSequence((seed, 1)).generate_state(1)  # not what a policy draws that is seeded with `seed`
        self.generator = torch.Generator().manual_seed(int(state[0]))

    def __call__(self, action: torch.Tensor) -> torch.Tensor:
        if not self.size.any():
            return action
        noise = self.size * torch.randn(action.shape, generator=self.generator)
        return (action + noise.to(action)).clamp(-1, 1)


def _numpy(obs: TensorDict, keys: dict[str, int]) -> Row:
    """The last so many channels of each key."""
    return {key: obs[key][..., -channels:].cpu().numpy() for key, channels in keys.items()}


def _row(arrays: Row, i: int) -> Row:
    return {key: value[i] for key, value in arrays.items()}
