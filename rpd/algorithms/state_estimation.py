"""Training of the image encoder (state estimator), in a separate phase after each policy update.

The phase is separate, as in phasic policy gradient (Cobbe et al., 2021, arXiv 2009.04416): the policy's epochs read the state
estimates from the time of acting, and each image passes through the encoder once per batch instead of once per epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from rpd.algorithms.augmentation import augmentation
from rpd.config.schema import PerceptionConfig
from rpd.core.distributed import SOLO, World
from rpd.core.memory import Item, row_bytes
from rpd.envs.errors import NonFiniteError
from rpd.envs.privileged_state import ManipulationState
from rpd.rollout.batch import take
from rpd.rollout.replay_buffer import Replay
from rpd.runs.progress import report_progress
from rpd.runs.training_state import load_optimizer, optimizer_tensors
from rpd.students.actor_critic import ActorCritic
from rpd.students.networks.state_estimator import StateEstimator

KEYS = ("state", "privileged")  # and the images
FINAL_RATE = 0.1


def replay_memory(obs: TensorDict, cameras: Sequence[str], config: PerceptionConfig, device: torch.device) -> Item:
    """Memory of the replay buffer for observations like `obs` [N]."""
    row = sum(row_bytes(obs.select(*KEYS, *cameras)).values())
    return Item("state_estimator", f"{config.replay_capacity:,} replayed observations", config.replay_capacity * row, device)


class PerceptionLearner:
    """Optimizer, replay buffer and augmentation of the state estimator."""

    def __init__(self, policy: ActorCritic, config: PerceptionConfig, generator: torch.Generator, world: World = SOLO) -> None:
        """For a policy with `StudentConfig.state_estimator`.

        Args:
            policy: the policy.
            config: hyperparameters. The ranks share the minibatches and the capacity of the replay buffer.
            generator: draws this rank's part of the minibatches.
            world: ranks of the run.
        """
        assert policy.state_estimator is not None
        self.policy, self.config, self.generator, self.world = policy, config, generator, world
        self.module: StateEstimator = policy.state_estimator
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=config.learning_rate, fused=True)
        self.replay = Replay(max(1, config.replay_capacity // world.size), generator)
        self.augment = augmentation(policy, generator)

    def update(self, obs: TensorDict, progress: float) -> dict[str, float]:
        """Train on the newest observations [M] and on replayed ones, and add the newest to the replay buffer.

        Args:
            obs: with images, ``state`` and ``privileged``.
            progress: of the run, in [0, 1].

        Returns:
            Root mean square errors over the minibatches, before each step: ``state_estimator/object`` (estimated object
            position, m), ``state_estimator/target`` (vector from object to target, m), ``state_estimator/turn`` and
            ``state_estimator/grasped``.

        Raises:
            NonFiniteError: the estimator's loss is NaN or infinite.
        """
        obs = obs.select(*KEYS, *self.policy.spec.cameras)
        self.replay.add(obs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (1 - (1 - FINAL_RATE) * progress)
        half, count = max(1, self.config.minibatch_size // 2 // self.world.size), obs.batch_size[0]
        squares: list[Tensor] = []
        for number in range(self.config.num_minibatches):
            report_progress("state estimator", number, self.config.num_minibatches)
            index = torch.randint(count, (half,), generator=self.generator, device=self.generator.device)
            rows = cast("TensorDict", torch.cat([take(obs, index), self.replay.sample(half)]))
            squares.append(self._step(rows))
        mean = self.world.sum(torch.stack(squares).mean(0) / self.world.size).sqrt().tolist()  # the only synchronization
        if not all(map(math.isfinite, mean)):
            raise NonFiniteError("loss", "state_estimator")
        return dict(
            zip(
                ("state_estimator/object", "state_estimator/target", "state_estimator/turn", "state_estimator/grasped"),
                mean,
                strict=True,
            )
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the training state that the ranks share: the optimizer's."""
        return optimizer_tensors(self.optimizer)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        load_optimizer(self.optimizer, state)

    def own_state_dict(self) -> dict[str, Tensor]:
        """Return the training state of this rank: the replay buffer."""
        return self.replay.state_dict()

    def load_own_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `own_state_dict`."""
        self.replay.load_state_dict(state, self.generator.device)

    def _step(self, obs: TensorDict) -> Tensor:
        """Take one gradient step; return the mean squared errors [4] whose roots `update` returns."""
        self.optimizer.zero_grad(set_to_none=True)
        seen = obs if self.augment is None else self.augment(obs)
        error = self.module.error(self.policy.estimate_state(seen), obs["privileged"])
        (self.module.loss(error) / self.world.size).backward()
        self.world.sum_gradients(list(self.module.parameters()))
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        way, left, turn, grasped = error.detach().square().mean(0).split([3, 3, 2, 1])
        metres = ManipulationState.WAY**2
        return torch.stack([metres * way.sum(), metres * left.sum(), turn.sum(), grasped.sum()])
