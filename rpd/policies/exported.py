"""An exported policy among the others: evaluated in a simulator as it runs on a robot's computer."""

from __future__ import annotations

from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.specs import EnvSpec
from rpd import export
from rpd.export.graph import narrowed


class ExportedPolicy:
    """Satisfies `rpd.policies.Policy`."""

    looks = False

    def __init__(self, folder: Path, spec: EnvSpec) -> None:
        """Load it for an environment.

        Raises:
            ConfigError: see `rpd.export.load`.
            SpecMismatch: it was made for another environment; names both sides.
        """
        self.name, self.policy = str(folder), export.load(folder)
        theirs = EnvSpec.model_validate(self.policy.spec)
        narrowed(spec, theirs.state_names).check_policy(theirs)
        self._columns = [spec.state_names.index(name) for name in theirs.state_names]
        self._cameras = theirs.cameras

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return actions [N, A] in [-1, 1]."""
        given = {"state": obs["state"][:, self._columns], **{key: obs[key] for key in self._cameras}}
        action = self.policy.act_batch({key: value.cpu().numpy() for key, value in given.items()}, instructions)
        return torch.from_numpy(action).to(obs.device or "cpu")

    def reset(self, mask: Tensor) -> None:
        """See `rpd.policies.Policy`."""
        self.policy.reset(mask.cpu().numpy())

    def seed(self, seed: int) -> None:
        """See `rpd.policies.Policy`."""
        self.policy.seed(seed)
