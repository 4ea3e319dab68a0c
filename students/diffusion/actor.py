"""A diffusion policy as something that acts, step by step, in N environments."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from students import flat
from students.chunks import Chunks
from students.diffusion import samplers
from students.diffusion.policy import DiffusionPolicy
from students.diffusion.samplers.base import Sampler
from students.history import History


class DiffusionActor:
    """Remembers what was seen, draws chunks through a sampler where they are due, and executes them.

    It satisfies `rpd.policies.Policy`.

    Args:
        policy: the network; it is fitted to the environment (`DiffusionPolicy.fit`).
        sampler: see `samplers`; None: the policy's default.
        name: how it is called in results.

    Raises:
        ConfigError: see `samplers.make`.

    Attributes:
        actions: that it has chosen so far, all environments together.
    """

    looks = False

    def __init__(self, policy: DiffusionPolicy, sampler: str | None = None, name: str = "student") -> None:
        self.policy, self.name = policy.eval(), name
        self.sampler, self.chunks = samplers.make(sampler, policy)
        self.history = History(policy.config.n_obs, name)
        self._memories: dict[str, History | Chunks | Sampler] = {
            "history": self.history, "chunks": self.chunks, "sampler": self.sampler
        }  # fmt: skip
        self.actions = 0

    @torch.no_grad()
    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return actions [N, A] in [-1, 1]; discrete ones are -1 or +1."""
        policy, rows = self.policy, len(instructions)
        window = self.look(obs)

        def draw(due: Tensor) -> Tensor:
            context = policy.encode_window({key: frames[due] for key, frames in window.items()})
            return policy.denormalize(self.sampler.plan(context, due, rows))

        self.actions += rows
        return policy.executed(self.chunks.next(rows, policy.device, draw)).to(obs.device or "cpu")

    def look(self, obs: TensorDict) -> dict[str, Tensor]:
        """Remember observations [N]; returns the last ones [N, n_obs, ...] by key."""
        keys = ("state", *self.policy.spec.cameras)
        return self.history.push({key: obs[key].to(self.policy.device) for key in keys})[0]

    def reset(self, mask: Tensor) -> None:
        """Forget what was seen and planned in episodes that ended: a guess from one is of no use in the next."""
        mask = mask.to(self.policy.device)
        for memory in self._memories.values():
            memory.forget(mask)

    def seed(self, seed: int) -> None:
        """Restart the noise."""
        self.sampler.seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """What is remembered, and the state of the noise."""
        return flat.join({name: memory.state_dict() for name, memory in self._memories.items()})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        for name, memory in self._memories.items():
            memory.load_state_dict(flat.part(state, name))

    @property
    def evaluations_per_action(self) -> float:
        """Network evaluations per action so far."""
        return self.sampler.evaluations / max(1, self.actions)
