"""Use a saved diffusion policy as a teacher that labels with samples of its next action."""

from __future__ import annotations

import torch
from pydantic import Field
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.specs import EnvSpec
from rpd.students.diffusion import samplers
from rpd.students.diffusion.actor import DiffusionActor
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.teachers.base import Teacher, TeacherOutput
from rpd.teachers.registry import Options


class DiffusionOptions(Options):
    """Options of a reference to a diffusion policy, e.g. ``runs/x,samples=8``."""

    samples: int = Field(8, ge=2, le=1024)
    """Actions drawn per label."""
    sampler: str | None = None
    """Sampler for acting, see `rpd.students.diffusion.samplers`; at most one option, as a comma ends it."""


class DiffusionTeacher(Teacher):
    """Labels with samples of the first action of a chunk, as executed by the environment; acts as in evaluation.

    `mean` and `std` are statistics of the samples; discrete dimensions of a sample are -1 or +1, so that their mean is 2p - 1.
    """

    output_fields = frozenset({"mean", "std", "samples"})

    def __init__(self, policy: DiffusionPolicy, name: str = "policy", options: DiffusionOptions | None = None) -> None:
        self.options = options or DiffusionOptions()
        self.policy, self.name = policy.eval().requires_grad_(False), name
        self.actor = DiffusionActor(policy, self.options.sampler, name)
        self.drawer, _ = samplers.make(None, policy)
        self.is_stateful = policy.config.n_obs_steps > 1
        self.rows_at_once = max(1, Teacher.rows_at_once // self.options.samples)

    def new_session(self) -> DiffusionTeacher:
        """See `Teacher.new_session`."""
        return DiffusionTeacher(self.policy, self.name, self.options)

    def check_env(self, spec: EnvSpec) -> None:
        """See `DiffusionPolicy.adapt_to`."""
        self.policy.adapt_to(spec)

    @torch.no_grad()
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """See `Teacher.label`."""
        rows, count = len(instructions), self.options.samples
        context = self.policy.encode_window(self.actor.look(obs)).repeat_interleave(count, 0)
        chunks = self.drawer.sample(context, torch.arange(rows * count, device=self.device), rows * count)
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
        """Reset the noise generator."""
        self.actor.seed(seed)
        self.drawer.seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """Memory and state of the noise generator."""
        return {"label.rng": self.drawer.generator.get_state(), **self.actor.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.drawer.generator.set_state(state["label.rng"].cpu())
        self.actor.load_state_dict({k: v for k, v in state.items() if k != "label.rng"})

    def weights(self) -> dict[str, Tensor]:
        """The policy's parameters and buffers."""
        return self.policy.state_dict()

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.policy.device
