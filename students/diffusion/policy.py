"""Diffusion policy: encoders, normalization, noise process, network and spec."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.envs.finite import nan_where_invalid
from rpd.envs.specs import EnvSpec
from rpd.students.config import StudentConfig
from rpd.students.diffusion.config import DiffusionConfig
from rpd.students.diffusion.networks import NETWORKS
from rpd.students.diffusion.process import Diffusion, Flow, Process
from rpd.students.io import pretrained
from rpd.students.networks.distribution import executed
from rpd.students.networks.normalizer import Normalizer
from rpd.students.networks.state_estimator import Cameras, Obs
from rpd.students.row_share import RowShare, draw_rows
from rpd.students.spec_adapter import adapt_spec

MIN_HALF_RANGE = 0.05
"""Smallest half range of an action dimension for the scaling to [-1, 1]: avoids amplifying nearly constant dimensions."""


class DiffusionPolicy(pretrained.PretrainedPolicy):
    """p(chunk of actions | last observations), by denoising. Actions are drawn through a sampler: see `actor`.

    Inputs are those of an `ActorCritic`: the whitened ``state`` (`StudentConfig.state_keys`) and encoder features per camera.
    Chunks are normalized to [-1, 1] per dimension by the range of the demonstrations, discrete dimensions to
    ±`DiffusionConfig.gripper_scale`; a chunk starts at the newest observation.
    """

    discrete: Tensor
    action_center: Tensor
    action_half: Tensor
    columns: Tensor
    rescale: Tensor

    def __init__(self, spec: EnvSpec, student: StudentConfig, config: DiffusionConfig) -> None:
        """Build for an environment; call `prepare` on a new policy.

        Raises:
            ConfigError: the environment lacks something that the configuration needs, or options are incompatible.
        """
        super().__init__()
        if "state" not in spec.observations:
            raise ConfigError(
                f"{spec.task} offers no 'state' observation ({', '.join(spec.observations)}): a student needs one"
            )
        for name in ("state_estimator", "asymmetric_critic"):
            if getattr(student, name):
                raise ConfigError(f"student.{name} needs an actor-critic: student.type diffusion does not have it")
        self.spec, self.student, self.config = spec, student, config
        names = spec.entries(student.state_keys)
        scaled = tuple(s for name, s in zip(spec.state_names, spec.state_scaled, strict=False) if name in names)
        self.cameras = Cameras(spec, student) if spec.cameras else None
        self.state_normalizer = Normalizer(len(names), scaled) if student.normalize_state else None
        features = len(names) + (self.cameras.dim if self.cameras else 0)
        self.process: Process = (
            Diffusion(config.num_train_timesteps) if config.process == "ddpm" else Flow(config.num_train_timesteps)
        )
        self.network = NETWORKS[config.network](config, spec.action.dim, features)
        self.register_buffer("discrete", torch.tensor(spec.action.discrete, dtype=torch.bool), persistent=False)
        self.register_buffer("action_center", torch.zeros(spec.action.dim))
        self.register_buffer("action_half", torch.ones(spec.action.dim))
        self.register_buffer("columns", torch.arange(len(spec.state_names)), persistent=False)
        self.register_buffer("rescale", torch.ones(spec.action.dim), persistent=False)
        self.adapt_to(spec)

    def prepare(self, states: Tensor, actions: Tensor) -> None:
        """Set the normalization from demonstrations, before training.

        Args:
            states: [R, S] states of the environment.
            actions: [R, A] actions in [-1, 1].

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

    def adapt_to(self, spec: EnvSpec) -> None:
        """Prepare to act in an environment, which may differ from the training environment: see `ActorCritic.adapt_to`.

        Raises:
            SpecMismatch: the policy does not fit; names both sides.
        """
        columns, rescale = adapt_spec(self.spec, spec, self.student.state_keys)
        self.columns = torch.tensor(columns, device=self.device)
        self.rescale = torch.tensor(rescale, device=self.device)

    def encode(self, obs: Obs) -> Tensor:
        """Features [N, F] of single observations."""
        state = nan_where_invalid(obs["state"][:, self.columns])
        seen = [state if self.state_normalizer is None else self.state_normalizer(state)]
        if self.cameras is not None:
            seen.append(self.cameras(obs))
        return torch.cat(seen, -1)

    def encode_window(self, window: dict[str, Tensor]) -> Tensor:
        """Context [N, n_obs, F] from a window of observations [N, n_obs, ...], newest last."""
        rows = next(iter(window.values())).shape[0]
        flat = {key: value.flatten(0, 1) for key, value in window.items()}
        return self.encode(flat).unflatten(0, (rows, self.config.n_obs_steps))

    def predict(self, x: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """Predict from noisy chunks x [N, H, A] at levels that broadcast to [N, H, 1]."""
        return nan_where_invalid(self.network(x, level.expand(*x.shape[:2], 1)[..., 0], context))

    def loss(self, context: Tensor, actions: Tensor, generator: torch.Generator, share: RowShare | None = None) -> Tensor:
        """Mean squared error of the prediction for executed actions [N, H, A] at random levels; for `share` see `draw_rows`."""
        clean = self.normalize(actions)
        count, *chunk = clean.shape
        noise = draw_rows(lambda n: torch.randn(n, *chunk, generator=generator, device=clean.device), count, share)
        level = draw_rows(lambda n: self._levels(n, generator), count, share)
        predicted = self.predict(self.process.noisy(clean, noise, level), level, context)
        return (predicted - self.process.target(clean, noise)).square().mean()

    def normalize(self, actions: Tensor) -> Tensor:
        """Normalize actions [..., A] of the training environment for the network."""
        return (actions - self.action_center) / self.action_half

    def denormalize(self, chunk: Tensor) -> Tensor:
        """Convert network outputs [..., A] to actions of the current environment (see `adapt_to`), without clipping."""
        return (chunk * self.action_half + self.action_center) * self.rescale

    def executed(self, action: Tensor) -> Tensor:
        """Actions [..., A] as an environment executes them: clipped, discrete dimensions by sign."""
        return executed(action, self.discrete)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.action_half.device

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters())

    @staticmethod
    def from_pretrained(folder: str | Path, device: torch.device | str = "cpu") -> DiffusionPolicy:
        """Load a policy saved by `save_pretrained`.

        Raises:
            ConfigError: a file is missing, damaged, or holds another kind of policy; names the file.
        """
        policy = pretrained.load(Path(folder), device)
        if not isinstance(policy, DiffusionPolicy):
            raise ConfigError(f"{folder}: not a diffusion policy but {type(policy).__name__}")
        return policy

    def describe(self) -> pretrained.Description:
        """Describe the policy without its weights."""
        return pretrained.Description(
            class_name=type(self).__name__, spec=self.spec, student=self.student, diffusion=self.config
        )

    @classmethod
    def build(cls, description: pretrained.Description) -> DiffusionPolicy:
        """Build the network of a description with new weights."""
        assert description.diffusion is not None
        return cls(description.spec, description.student, description.diffusion)

    def _levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Random levels [N, H, 1]: one per chunk, or, for noise "action", increasing along half of the chunks."""
        shape, device = (count, self.config.horizon, 1), generator.device
        same = torch.randint(self.config.num_train_timesteps, (count, 1, 1), generator=generator, device=device).expand(shape)
        if self.config.noise == "chunk":
            return same
        rising = torch.randint(self.config.num_train_timesteps, shape, generator=generator, device=device).sort(1).values
        return torch.where(torch.rand(count, 1, 1, generator=generator, device=device) < 0.5, same, rising)
