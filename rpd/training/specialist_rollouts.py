"""Whole episodes of several robots at once, each step labelled by the robot's specialist."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.base import VectorEnv
from envs.errors import NonFiniteError
from rpd.batch import joined
from rpd.generalist.cells import Cell

Stop = Callable[[], bool]


class Player:
    """Plays one cell.

    Every environment plays equally many whole episodes: a sample that favours short ones would not know how the long ones end.

    Args:
        cell: who plays where.
        episodes: how many, rounded up to a multiple of the environments.
        seed: of the first episode.
        columns: [S'] int64, entries of the state that are kept.
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
        """Whether every environment has played its episodes."""
        return bool((self.played >= self.plays).all())

    def label(self) -> tuple[Tensor, Tensor]:
        """What the specialist would do: mean and standard deviation [N, A]."""
        env, teacher = self.cell.env, self.cell.teacher
        seen = self.obs.copy().update(env.look()) if teacher.looks else self.obs
        output = teacher.label(seen.to(teacher.device), env.instructions)
        assert output.std is not None, "a policy says how sure it is"
        return output.mean.to(env.device), output.std.to(env.device)

    def step(self, mean: Tensor, std: Tensor, action: Tensor) -> None:
        """Keep what was seen and labelled, and take an action [N, A].

        Raises:
            NonFiniteError: a label is not finite.
        """
        if not bool(torch.isfinite(mean).all()):
            raise NonFiniteError("teacher", f"label of {self.cell.run}")
        env = self.cell.env
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
        """Every step [M]: observations, ``mean``, ``std``, ``success`` of the episode that it is of."""
        rows = joined(self.rows)
        rows["success"] = self.outcome[rows["env"], rows["play"]]
        return rows.exclude("env", "play")

    @property
    def solved(self) -> tuple[int, int]:
        """Episodes that were solved, and episodes that have ended."""
        return int(self.outcome.sum()), int(self.played.clamp_max(self.plays).sum())


@torch.inference_mode()
def specialists_play(player: Player, stop: Stop) -> bool:
    """The specialist plays, deterministically; returns False where it was stopped.

    What noise would show beside its own paths, the rounds of the generalist show better: the states that its own errors
    lead to.
    """
    while not player.done:
        if stop():
            return False
        mean, std = player.label()
        player.step(mean, std, _mode(player.cell.env, mean))
    return True


@torch.inference_mode()
def generalist_plays(players: Sequence[Player], act: Callable[[list[Player]], list[Tensor]], stop: Stop) -> bool:
    """The generalist plays on all robots at once, and each one's specialist labels; returns False where it was stopped.

    Args:
        players: one per cell.
        act: the generalist's actions [N, A] for several players, in one forward pass.
        stop: asked before every step.
    """
    while running := [player for player in players if not player.done]:
        if stop():
            return False
        for player, action in zip(running, act(running), strict=True):
            player.step(*player.label(), action)
    return True


def _mode(env: VectorEnv, mean: Tensor) -> Tensor:
    """What a policy does whose mean [N, A] that is: discrete dimensions hold 2p - 1."""
    discrete = torch.tensor(env.spec.action.discrete, device=mean.device)
    return torch.where(discrete, torch.where(mean >= 0, 1.0, -1.0), mean).clamp(-1, 1)
