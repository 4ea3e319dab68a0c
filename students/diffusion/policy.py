"""The network of a diffusion policy with all that it needs to be used: encoders, normalisation, noise, spec."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from envs.errors import ConfigError
from envs.specs import EnvSpec
from students import pretrained
from students.config import StudentConfig
from students.diffusion.config import DiffusionConfig
from students.diffusion.networks import NETWORKS
from students.diffusion.process import Diffusion, Flow, Process
from students.fitting import fit
from students.normalizer import Normalizer
from students.perception import Cameras, Obs

MIN_HALF_RANGE = 0.05
"""Smallest half range of an action that is stretched to [-1, 1]: one that hardly moves is not blown up to noise."""


class DiffusionPolicy(nn.Module):
    """p(chunk of actions | last observations), by denoising. It draws through a sampler: see `actor`.

    It reads what an `ActorCritic` reads: the whitened ``state`` (`StudentConfig.reads`) and an encoder's features per camera.
    Chunks are normalised here to [-1, 1] per dimension by the range of the demonstrations, discrete dimensions to
    ±`DiffusionConfig.gripper_scale`; the chunk begins at the newest observation.
    """

    discrete: Tensor
    action_center: Tensor
    action_half: Tensor
    columns: Tensor
    rescale: Tensor

    def __init__(self, spec: EnvSpec, student: StudentConfig, config: DiffusionConfig) -> None:
        """Build for an environment; for a new policy, `prepare` follows.

        Raises:
            ConfigError: the environment does not offer what the configuration asks for, or parts of it do not go together.
        """
        super().__init__()
        if "state" not in spec.observations:
            raise ConfigError(
                f"{spec.task} offers no 'state' observation ({', '.join(spec.observations)}): a student needs one"
            )
        for name in ("perceive", "asymmetric_critic"):
            if getattr(student, name):
                raise ConfigError(f"student.{name} is of students that act and judge at once: student.kind diffusion has none")
        self.spec, self.student, self.config = spec, student, config
        names = spec.entries(student.reads)
        scaled = tuple(s for name, s in zip(spec.state_names, spec.state_scaled, strict=False) if name in names)
        self.cameras = Cameras(spec, student) if spec.cameras else None
        self.state_normalizer = Normalizer(len(names), scaled) if student.normalize_state else None
        features = len(names) + (self.cameras.dim if self.cameras else 0)
        self.process: Process = Diffusion(config.levels) if config.process == "ddpm" else Flow(config.levels)
        self.network = NETWORKS[config.network](config, spec.action.dim, features)
        self.register_buffer("discrete", torch.tensor(spec.action.discrete, dtype=torch.bool), persistent=False)
        self.register_buffer("action_center", torch.zeros(spec.action.dim))
        self.register_buffer("action_half", torch.ones(spec.action.dim))
        self.register_buffer("columns", torch.arange(len(spec.state_names)), persistent=False)
        self.register_buffer("rescale", torch.ones(spec.action.dim), persistent=False)
        self.fit(spec)

    def prepare(self, states: Tensor, actions: Tensor) -> None:
        """Take over the ranges of demonstrations, before training.

        Args:
            states: [R, S] of the environment.
            actions: [R, A] in [-1, 1].

        Raises:
            ConfigError: diffusers is not installed.
        """
        if isinstance(self.process, Diffusion):
            self.process.schedule()
        if self.state_normalizer is not None:
            self.state_normalizer.update(states[:, self.columns])
        low, high = actions.amin(0), actions.amax(0)
        self.action_center.copy_(((low + high) / 2).masked_fill(self.discrete, 0.0))
        half = ((high - low) / 2).clamp_min(MIN_HALF_RANGE)
        self.action_half.copy_(half.masked_fill(self.discrete, 1 / self.config.gripper_scale))

    def fit(self, spec: EnvSpec) -> None:
        """Prepare to act in an environment, perhaps another than that of the training: see `ActorCritic.fit`.

        Raises:
            SpecMismatch: the policy does not fit; names both sides.
        """
        columns, rescale = fit(self.spec, spec, self.student.reads)
        self.columns = torch.tensor(columns, device=self.device)
        self.rescale = torch.tensor(rescale, device=self.device)

    def encode(self, obs: Obs) -> Tensor:
        """Features [N, F] of one observation each."""
        state = obs["state"][:, self.columns]
        seen = [state if self.state_normalizer is None else self.state_normalizer(state)]
        if self.cameras is not None:
            seen.append(self.cameras(obs))
        return torch.cat(seen, -1)

    def encode_window(self, window: dict[str, Tensor]) -> Tensor:
        """Context [N, n_obs, F] from the last observations [N, n_obs, ...], the newest last."""
        rows = next(iter(window.values())).shape[0]
        flat = {key: value.flatten(0, 1) for key, value in window.items()}
        return self.encode(flat).unflatten(0, (rows, self.config.n_obs))

    def predict(self, x: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """What the network says of noisy chunks x [N, H, A] at levels that broadcast to [N, H, 1]."""
        return self.network(x, level.expand(*x.shape[:2], 1)[..., 0], context)

    def loss(self, context: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the prediction, for chunks of executed actions [N, H, A] at random levels."""
        clean = self.normalize(actions)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        level = self._levels(clean.shape[0], generator)
        predicted = self.predict(self.process.noisy(clean, noise, level), level, context)
        return (predicted - self.process.target(clean, noise)).square().mean()

    def normalize(self, actions: Tensor) -> Tensor:
        """Actions [..., A] of the training environment, as the network has them."""
        return (actions - self.action_center) / self.action_half

    def denormalize(self, chunk: Tensor) -> Tensor:
        """The network's actions [..., A] in the environment that it acts in (see `fit`), as they are: not clipped."""
        return (chunk * self.action_half + self.action_center) * self.rescale

    def executed(self, action: Tensor) -> Tensor:
        """What an environment makes of actions [..., A]: clipped, discrete ones by sign."""
        return torch.where(self.discrete, torch.where(action >= 0, 1.0, -1.0), action.clamp(-1, 1))

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return self.action_half.device

    @property
    def num_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.parameters())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into `folder`."""
        pretrained.save(self, Path(folder))

    @staticmethod
    def from_pretrained(folder: str | Path, device: torch.device | str = "cpu") -> DiffusionPolicy:
        """Load a policy saved by `save_pretrained`.

        Raises:
            ConfigError: one line that names the file that is missing, damaged or of another kind.
        """
        policy = pretrained.load(Path(folder), device)
        if not isinstance(policy, DiffusionPolicy):
            raise ConfigError(f"{folder}: not a diffusion policy but {type(policy).__name__}")
        return policy

    def describe(self) -> pretrained.Description:
        """Say what the policy is, without its numbers."""
        return pretrained.Description(
            class_name=type(self).__name__, spec=self.spec, student=self.student, diffusion=self.config
        )

    @classmethod
    def build(cls, description: pretrained.Description) -> DiffusionPolicy:
        """Make the network that `describe` described, with new numbers."""
        assert description.diffusion is not None
        return cls(description.spec, description.student, description.diffusion)

    def _levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Random levels [N, H, 1]: the same for all actions of a chunk, or for half of them rising along it."""
        shape, device = (count, self.config.horizon, 1), generator.device
        same = torch.randint(self.config.levels, (count, 1, 1), generator=generator, device=device).expand(shape)
        if self.config.noise == "chunk":
            return same
        rising = torch.randint(self.config.levels, shape, generator=generator, device=device).sort(1).values
        return torch.where(torch.rand(count, 1, 1, generator=generator, device=device) < 0.5, same, rising)
