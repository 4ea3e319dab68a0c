"""Learning to see, apart from learning to act: the image encoder's own step after each update of the policy.

Apart, as in phasic policy gradient (Cobbe et al., 2021, arXiv 2009.04416): the policy's epochs read beliefs that stay
as they were when the actions were drawn, and each image passes through the encoder once per batch instead of once per
epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from envs.errors import NonFiniteError
from envs.privileged import Scene
from rpd.augment import augmentation
from rpd.batch import take
from rpd.config import PerceptionConfig
from rpd.memory import Item, row_bytes
from rpd.replay import Replay
from rpd.training_state import load_optimizer, optimizer_tensors
from students import flat
from students.actor_critic import ActorCritic
from students.perception import Perception

KEYS = ("state", "privileged")  # and the images
FINAL_RATE = 0.1


def kept(obs: TensorDict, cameras: Sequence[str], config: PerceptionConfig, device: torch.device) -> Item:
    """The memory of earlier observations like `obs` [N]."""
    row = sum(row_bytes(obs.select(*KEYS, *cameras)).values())
    return Item("perception", f"{config.keep:,} observations that are kept", config.keep * row, device)


class PerceptionLearner:
    """Holds what the encoder learns from and with."""

    def __init__(self, policy: ActorCritic, config: PerceptionConfig, generator: torch.Generator) -> None:
        """For a policy with `StudentConfig.perceive`; `generator` draws the minibatches."""
        assert policy.perception is not None
        self.policy, self.config, self.generator = policy, config, generator
        self.module: Perception = policy.perception
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=config.lr, fused=True)
        self.replay = Replay(config.keep, generator)
        self.augment = augmentation(policy, generator)

    def update(self, obs: TensorDict, progress: float) -> dict[str, float]:
        """Learn from the newest observations [M] and from earlier ones, and keep the newest.

        Args:
            obs: with images, ``state`` and ``privileged``.
            progress: of the run, in [0, 1].

        Returns:
            Root mean squares over the minibatches, before each step: ``perception/object`` and ``perception/target``
            (how far the object is believed from where it is, and the target from it, m), ``perception/turn`` and
            ``perception/grasped``.

        Raises:
            NonFiniteError: the encoder's loss became NaN or infinite.
        """
        obs = obs.select(*KEYS, *self.policy.spec.cameras)
        self.replay.add(obs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * (1 - (1 - FINAL_RATE) * progress)
        half, count = self.config.minibatch_size // 2, obs.batch_size[0]
        squares: list[Tensor] = []
        for _ in range(self.config.minibatches):
            index = torch.randint(count, (half,), generator=self.generator, device=self.generator.device)
            rows = cast("TensorDict", torch.cat([take(obs, index), self.replay.sample(half)]))
            squares.append(self._step(rows))
        mean = torch.stack(squares).mean(0).sqrt().tolist()  # the one wait for the device
        if not all(map(math.isfinite, mean)):
            raise NonFiniteError("loss", "perception")
        return dict(zip(("perception/object", "perception/target", "perception/turn", "perception/grasped"), mean, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """What a resume needs."""
        return flat.join({"replay": self.replay.state_dict(), "optimizer": optimizer_tensors(self.optimizer)})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.replay.load_state_dict(flat.part(state, "replay"), self.generator.device)
        load_optimizer(self.optimizer, flat.part(state, "optimizer"))

    def _step(self, obs: TensorDict) -> Tensor:
        """One gradient step; the mean squares [4] that `update` returns the roots of."""
        self.optimizer.zero_grad(set_to_none=True)
        seen = obs if self.augment is None else self.augment(obs)
        error = self.module.error(self.policy.believe(seen), obs["privileged"])
        self.module.loss(error).backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        way, left, turn, grasped = error.detach().square().mean(0).split([3, 3, 2, 1])
        metres = Scene.WAY**2
        return torch.stack([metres * way.sum(), metres * left.sum(), turn.sum(), grasped.sum()])
