"""Adapter that evaluates an exported policy in a simulator, with the runtime used on a robot."""

from __future__ import annotations

from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd import export
from rpd.envs.errors import RunFault
from rpd.envs.specs import EnvSpec
from rpd.export.actors import BadAnswer, BadObservation
from rpd.export.graph import with_state_entries


class ExportedPolicy:
    """An exported policy as a `rpd.policies.base.Policy`."""

    needs_teacher_images = False

    def __init__(self, folder: Path, spec: EnvSpec) -> None:
        """Load an exported policy for an environment.

        Args:
            folder: the exported folder.
            spec: spec of the environment.

        Raises:
            ConfigError: see `rpd.export.load`.
            SpecMismatch: the policy was made for another environment; names both sides.
        """
        self.name, self.policy = str(folder), export.load(folder)
        theirs = export.spec_of(folder)
        with_state_entries(spec, theirs.state_names).check_policy(theirs)
        self._columns = [spec.state_names.index(name) for name in theirs.state_names]
        self._cameras = theirs.cameras

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return actions [N, A] in [-1, 1].

        Raises:
            RunFault: an observation, or the output of a network, is not finite or implausible.
        """
        inputs = {"state": obs["state"][:, self._columns], **{key: obs[key] for key in self._cameras}}
        try:
            action = self.policy.act_batch({key: value.cpu().numpy() for key, value in inputs.items()}, instructions)
        except (BadObservation, BadAnswer) as fault:
            raise RunFault(f"policy {self.name}: {fault}") from None
        return torch.from_numpy(action).to(obs.device or "cpu")

    def reset(self, mask: Tensor) -> None:
        """See `rpd.policies.base.Policy.reset`."""
        self.policy.reset(mask.cpu().numpy())

    def seed(self, seed: int) -> None:
        """See `rpd.policies.base.Policy.seed`."""
        self.policy.seed(seed)
