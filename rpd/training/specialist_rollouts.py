"""Collect whole episodes on several robots; each step is labeled by the robot's specialist."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.finite import check_exchange
from rpd.envs.vector_env import VectorEnv
from rpd.rollout.batch import joined
from rpd.runs.progress import report_progress
from rpd.students.networks.distribution import executed
from rpd.teachers.observation import teacher_observation
from rpd.training.specialists import Cell

Stop = Callable[[], bool]


class Player:
    """Records episodes of one cell.

    Every environment records the same number of whole episodes: otherwise short episodes would be overrepresented.

    Args:
        cell: the specialist and its environment.
        episodes: number of episodes, rounded up to a multiple of the number of environments.
        seed: seed of the first episode.
        columns: [S'] int64, state entries to keep.
    """

    def __init__(self, cell: Cell, episodes: int, seed: int, columns: Tensor) -> None:
        self.cell, self.columns = cell, columns
        self.plays = -(-episodes // cell.env.num_envs)
        self.obs = cell.env.reset(seed)
        cell.teacher.seed(seed)
        cell.teacher.reset(torch.ones(cell.env.num_envs, dtype=torch.bool, device=cell.teacher.device))
        self.played = torch.zeros(cell.env.num_envs, dtype=torch.int64)
        self.rows: list[TensorDict] = []
        self.outcome = torch.zeros(cell.env.num_envs, self.plays, dtype=torch.bool)

    @property
    def done(self) -> bool:
        """Whether every environment has completed its episodes."""
        return bool((self.played >= self.plays).all())

    def label(self) -> tuple[Tensor, Tensor]:
        """Return the specialist's action distribution: mean and standard deviation [N, A]."""
        env, teacher = self.cell.env, self.cell.teacher
        seen = teacher_observation(env, self.obs, teacher)
        output = teacher.label(seen.to(teacher.device), env.instructions)
        assert output.std is not None, "a trained policy outputs a standard deviation"
        return output.mean.to(env.device), output.std.to(env.device)

    def step(self, mean: Tensor, std: Tensor, action: Tensor) -> None:
        """Record the observation and its label, and step the environment.

        Args:
            mean: [N, A] mean of the specialist's action distribution.
            std: [N, A] its standard deviation.
            action: [N, A] action to execute.

        Raises:
            NonFiniteError: an observation or a label is not finite or implausible; names its source.
        """
        env = self.cell.env
        check_exchange(self.obs, {"mean": mean, "std": std}, f"specialist {self.cell.run}", env.spec)
        seen = {key: self.obs[key] for key in env.spec.cameras} | {"state": self.obs["state"][:, self.columns]}
        fields = {**seen, "mean": mean, "std": std}
        rows = TensorDict({key: value.cpu() for key, value in fields.items()}, batch_size=[env.num_envs])
        rows["env"], rows["play"] = torch.arange(env.num_envs), self.played.clone()
        self.rows.append(rows[self.played < self.plays])
        step = env.step(action)
        self.obs = step.obs
        if step.episode is not None:
            for i, success in zip(step.episode.env.tolist(), step.episode.success_once.tolist(), strict=True):
                if (play := int(self.played[i])) < self.plays:
                    self.outcome[i, play] = success
                self.played[i] += 1
            self.cell.teacher.reset((step.terminated | step.truncated).to(self.cell.teacher.device))

    def result(self) -> TensorDict:
        """Return all recorded steps [M]: observations, ``mean``, ``std``, and ``success`` of the step's episode."""
        rows = joined(self.rows)
        rows["success"] = self.outcome[rows["env"], rows["play"]]
        return rows.exclude("env", "play")

    @property
    def solved(self) -> tuple[int, int]:
        """Number of solved episodes, and number of completed episodes."""
        return int(self.outcome.sum()), int(self.played.clamp_max(self.plays).sum())


@torch.inference_mode()
def specialists_play(player: Player, stop: Stop) -> bool:
    """Record episodes of the specialist, which acts deterministically; returns False if stopped.

    Action noise is not needed for state coverage: the DAgger iterations visit the states that the generalist's errors lead to.

    Args:
        player: the cell to record.
        stop: queried before every step.
    """
    while not player.done:
        if stop():
            return False
        mean, std = player.label()
        player.step(mean, std, _mode(player.cell.env, mean))
        report_progress(f"recording specialist {player.cell.name}", player.solved[1], player.outcome.numel())
    return True


@torch.inference_mode()
def generalist_plays(players: Sequence[Player], act: Callable[[list[Player]], list[Tensor]], stop: Stop) -> bool:
    """Record episodes of the generalist on all robots, labeled by each robot's specialist; returns False if stopped.

    Args:
        players: one per cell.
        act: returns the generalist's actions [N, A] for several players, from one forward pass.
        stop: queried before every step.
    """
    while running := [player for player in players if not player.done]:
        if stop():
            return False
        for player, action in zip(running, act(running), strict=True):
            player.step(*player.label(), action)
        report_progress(
            "recording generalist",
            sum(player.solved[1] for player in players),
            sum(player.outcome.numel() for player in players),
        )
    return True


def _mode(env: VectorEnv, mean: Tensor) -> Tensor:
    """Return the deterministic action for a mean [N, A], whose discrete dimensions hold 2p - 1."""
    discrete = torch.tensor(env.spec.action.discrete, device=mean.device)
    return executed(mean, discrete)
