"""Act with a diffusion policy, step by step, in N environments."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.students.action_chunking import Chunks
from rpd.students.diffusion import samplers
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.diffusion.samplers.base import Sampler
from rpd.students.io import state_dict
from rpd.students.obs_history import History


class DiffusionActor:
    """Keeps a window of observations, draws chunks through a sampler when they are due, and executes them.

    Implements `rpd.policies.loading.Policy`.

    Args:
        policy: the network, adapted to the environment (`DiffusionPolicy.adapt_to`).
        sampler: see `samplers`; None: the policy's default.
        name: name in results.

    Raises:
        ConfigError: see `samplers.make`.

    Attributes:
        actions: number of actions chosen so far, over all environments.
    """

    needs_teacher_images = False

    def __init__(self, policy: DiffusionPolicy, sampler: str | None = None, name: str = "student") -> None:
        self.policy, self.name = policy.eval(), name
        self.sampler, self.chunks = samplers.make(sampler, policy)
        self.history = History(policy.config.n_obs_steps, name)
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
            return policy.denormalize(self.sampler.sample(context, due, rows))

        self.actions += rows
        return policy.executed(self.chunks.next(rows, policy.device, draw)).to(obs.device or "cpu")

    def look(self, obs: TensorDict) -> dict[str, Tensor]:
        """Append observations [N]; return the window [N, n_obs, ...] by key."""
        keys = ("state", *self.policy.spec.cameras)
        return self.history.push({key: obs[key].to(self.policy.device) for key in keys})[0]

    def reset(self, mask: Tensor) -> None:
        """Clear window and chunks of episodes that ended: chunks of an old episode must not warm-start the next."""
        mask = mask.to(self.policy.device)
        for memory in self._memories.values():
            memory.reset(mask)

    def seed(self, seed: int) -> None:
        """Reset the noise generator."""
        self.sampler.seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """Window, chunks and state of the noise generator."""
        return state_dict.join({name: memory.state_dict() for name, memory in self._memories.items()})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        for name, memory in self._memories.items():
            memory.load_state_dict(state_dict.part(state, name))

    @property
    def evaluations_per_action(self) -> float:
        """Network evaluations per action so far."""
        return self.sampler.evaluations / max(1, self.actions)
