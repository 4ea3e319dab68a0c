"""Record episodes while a policy acts: observations, labels and executed actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from tensordict import TensorDict

from rpd.datasets.episode import STEP_KEYS, Array, Episode, EpisodeMetadata
from rpd.envs.errors import RunFault
from rpd.envs.finite import check_exchange
from rpd.envs.specs import ActionSpec
from rpd.envs.vector_env import EpisodeInfo, VectorEnv
from rpd.policies.base import Policy
from rpd.teachers.observation import teacher_observation

Row = dict[str, Array]


class Take(NamedTuple):
    """An episode and its place in a round. Shorter episodes end earlier, but must not be ordered first for that reason."""

    play: int
    """Number of episodes that its environment had played before."""
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
    """Run `plays` episodes in every environment after a reset, and yield each when it ends.

    The result is a function of the arguments if environment and policy are deterministic given their seeds. Memory holds the
    running episodes only.

    With noise, the policy labels states of disturbed trajectories, which adds recoveries to the data: DART (Laskey et al.,
    2017, arXiv 1703.09327), with a fixed noise scale instead of a covariance fitted to a student.

    Args:
        env: environment to act in.
        policy: the policy.
        seed: seed of the first environment's first episode, of the policy and of the noise.
        plays: episodes per environment.
        noise: standard deviation of the noise on each continuous action dimension, in normalized units.
        noise_turn: the same for rotations; None: as `noise`.
        privileged: also record ``privileged``, the simulator's state.

    Raises:
        NonFiniteError: an observation or an action is not finite; names it.
        RunFault: an episode did not end within the spec's maximum number of steps.
    """
    recorded = env.spec.stacked(1).observations
    keys = {key: space.shape[-1] for key, space in recorded.items()}  # of stacked images, the newest frame
    keys |= {"privileged": 0} if privileged else {}
    disturb = _Disturbance(noise, noise if noise_turn is None else noise_turn, env.spec.action, seed)
    policy.seed(seed)
    obs = env.reset(seed)
    policy.reset(torch.ones(env.num_envs, dtype=torch.bool, device=env.device))
    tapes = [_Tape(text) for text in env.instructions]
    left = [plays] * env.num_envs
    for _ in range(plays * env.spec.max_episode_steps):
        shown = teacher_observation(env, obs, policy)
        with torch.no_grad():
            answer = policy.act(shown, env.instructions)
        check_exchange(shown, {"action": answer}, f"policy {policy.name}", env.spec)
        label = answer.clamp(-1, 1)
        action = disturb(label)
        step = env.step(action)
        solved = torch.zeros_like(step.terminated)
        if step.episode is not None:
            solved[step.episode.env] = step.episode.success_at_end
        now = {
            "action": action, "label": label, "reward": step.reward, "terminated": step.terminated,
            "truncated": step.truncated, "success": solved,
        }  # fmt: skip
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
    """Buffer of the running episode of one environment."""

    def __init__(self, instruction: str) -> None:
        self.instruction = instruction
        self.obs: list[Row] = []
        self.steps: list[Row] = []

    def add(self, obs: Row, step: Row) -> None:
        self.obs.append(obs)
        self.steps.append(step)

    def episode(self, task: str, last: Row, ended: EpisodeInfo, k: int) -> Episode:
        """Build the episode with the observation after the last step; `k` is its index among those that ended together."""
        obs = [*self.obs, last]
        info = EpisodeMetadata(task, self.instruction, int(ended.seed[k]), bool(ended.success_at_end[k]), len(self.steps))
        return Episode(
            info,
            {key: np.stack([row[key] for row in obs]) for key in last},
            {key: np.stack([row[key] for row in self.steps]).astype(STEP_KEYS[key]) for key in self.steps[0]},
        )


class _Disturbance:
    """Gaussian noise on the continuous dimensions of actions [N, A]; discrete ones (a gripper) are unchanged."""

    def __init__(self, size: float, turn: float, space: ActionSpec, seed: int) -> None:
        sizes = [turn if unit == "rad" else size for unit in space.units]
        self.size = torch.tensor(sizes) * ~torch.tensor(space.discrete)  # [A]
        state = np.random.SeedSequence((seed, 1)).generate_state(1)  # independent of a policy seeded with `seed`
        self.generator = torch.Generator().manual_seed(int(state[0]))

    def __call__(self, action: torch.Tensor) -> torch.Tensor:
        if not self.size.any():
            return action
        noise = self.size * torch.randn(action.shape, generator=self.generator)
        return (action + noise.to(action)).clamp(-1, 1)


def _numpy(obs: TensorDict, keys: dict[str, int]) -> Row:
    """Last channels of each key, as many as `keys` gives."""
    return {key: obs[key][..., -channels:].cpu().numpy() for key, channels in keys.items()}


def _row(arrays: Row, i: int) -> Row:
    return {key: value[i] for key, value in arrays.items()}
