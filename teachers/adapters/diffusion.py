"""A saved diffusion policy as a teacher: it answers with samples of its next action."""

from __future__ import annotations

import torch
from pydantic import Field
from tensordict import TensorDict
from torch import Tensor

from envs.specs import EnvSpec
from students.diffusion import samplers
from students.diffusion.actor import DiffusionActor
from students.diffusion.policy import DiffusionPolicy
from teachers.base import Teacher, TeacherOutput
from teachers.registry import Options


class DiffusionOptions(Options):
    """Of ``policy:RUN`` where the run is of a diffusion policy."""

    samples: int = Field(8, ge=2)
    """Actions drawn per label."""
    sampler: str | None = None
    """How it acts, see `students.diffusion.samplers`; one option at most: a comma ends it. Labels are always drawn afresh."""


class DiffusionTeacher(Teacher):
    """Labels with samples of the first action of a chunk, as the environment would execute them; acts as in evaluation.

    `mean` and `std` are those of the samples; discrete dimensions of a sample are -1 or +1, so that their mean is 2p - 1.
    """

    provides = frozenset({"mean", "std", "samples"})

    def __init__(self, policy: DiffusionPolicy, name: str = "policy", options: DiffusionOptions | None = None) -> None:
        self.options = options or DiffusionOptions()
        self.policy, self.name = policy.eval().requires_grad_(False), name
        self.actor = DiffusionActor(policy, self.options.sampler, name)
        self.drawer, _ = samplers.make(None, policy)
        self.wants_all = policy.config.n_obs > 1

    def check_env(self, spec: EnvSpec) -> None:
        """See `DiffusionPolicy.fit`."""
        self.policy.fit(spec)

    @torch.no_grad()
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """See `Teacher.label`."""
        rows, count = len(instructions), self.options.samples
        context = self.policy.encode_window(self.actor.look(obs)).repeat_interleave(count, 0)
        chunks = self.drawer.plan(context, torch.arange(rows * count, device=self.device), rows * count)
        samples = self.policy.executed(self.policy.denormalize(chunks[:, 0])).unflatten(0, (rows, count))
        valid = torch.ones(rows, dtype=torch.bool, device=self.device)
        return TeacherOutput(samples.mean(1), valid, std=samples.std(1), samples=samples)

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Execute chunks of actions [N, A]."""
        return self.actor.act(obs, instructions)

    def reset(self, mask: Tensor) -> None:
        """See `DiffusionActor.reset`."""
        self.actor.reset(mask)

    def seed(self, seed: int) -> None:
        """Restart the noise."""
        self.actor.seed(seed)
        self.drawer.seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """The noise, and what is remembered."""
        return {"label.rng": self.drawer.generator.get_state(), **self.actor.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue."""
        self.drawer.generator.set_state(state["label.rng"].cpu())
        self.actor.load_state_dict({k: v for k, v in state.items() if k != "label.rng"})

    def weights(self) -> dict[str, Tensor]:
        """The policy's parameters and buffers."""
        return self.policy.state_dict()

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return self.policy.device
