"""Actor-critic policy over a normalized state and encoded images."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from rpd.envs.errors import ConfigError
from rpd.envs.finite import clipped, nan_where_invalid
from rpd.envs.specs import EnvSpec
from rpd.students.config import StudentConfig
from rpd.students.io import pretrained
from rpd.students.networks.distribution import ActionDistribution
from rpd.students.networks.encoders import mlp
from rpd.students.networks.normalizer import Normalizer
from rpd.students.networks.state_estimator import Cameras, Obs, StateEstimator
from rpd.students.spec_adapter import adapt_spec

MAX_LOG_STD = 0.5  # beyond, most samples of an action in [-1, 1] are clipped


class Outputs(NamedTuple):
    """Result of one forward pass over N observations."""

    distribution: ActionDistribution
    value: Tensor
    """[N]."""


class ActorCritic(pretrained.PretrainedPolicy):
    """pi(a | o) and V(o), with separate MLPs on shared inputs.

    The inputs are the normalized ``state`` and, with images, either the features of one encoder per camera, trained by actor
    and critic, or with `StudentConfig.state_estimator` an estimate of the scene, trained separately (`StateEstimator`). The
    critic also reads ``privileged`` if `StudentConfig.asymmetric_critic` is set. Additional keys in the observations are
    ignored. `StudentConfig.state_keys` selects state entries by name, so that their order may differ between environments: see
    `adapt_to`.
    """

    discrete: Tensor
    columns: Tensor
    rescale: Tensor
    outside: str | None = None
    """Name of the teacher whose action the observations must include as ``base_action``; None: no such teacher."""
    outside_identity: str | None = None
    """Its digest when the policy was made, see `rpd.students.io.pretrained.Description.base_identity`."""

    def __init__(self, spec: EnvSpec, config: StudentConfig, extra_inputs: int = 0) -> None:
        """Build the network for an environment, with `extra_inputs` additional inputs of the actor.

        Raises:
            ConfigError: the environment lacks something that the configuration needs.
        """
        super().__init__()
        if "state" not in spec.observations:
            raise ConfigError(
                f"{spec.task} offers no 'state' observation ({', '.join(spec.observations)}): a student needs one"
            )
        if config.state_estimator and not spec.scene:
            raise ConfigError(f"state_estimator needs privileged observations, and {spec.task} has none: leave it off")
        if config.state_estimator and not spec.cameras:
            raise ConfigError(
                "state_estimator needs images, and env.obs_mode is state: leave it off, or use --env.obs-mode rgb"
            )
        if config.augment and not spec.cameras:
            raise ConfigError("augment changes images, and env.obs_mode is state: leave it off, or use --env.obs-mode rgb")
        low, start = config.min_log_std, config.init_log_std
        if not low < start < MAX_LOG_STD:
            raise ConfigError(f"init_log_std {start:g} must lie between min_log_std {low:g} and {MAX_LOG_STD:g}")
        self.spec, self.config = spec, config

        names = spec.entries(config.state_keys)
        scaled = tuple(s for name, s in zip(spec.state_names, spec.state_scaled, strict=False) if name in names)
        self.state_estimator = StateEstimator(spec, config) if config.state_estimator else None
        self.cameras = Cameras(spec, config) if spec.cameras and not config.state_estimator else None
        self.state_normalizer = Normalizer(len(names), scaled) if config.normalize_state else None

        image_encoder = self.state_estimator or self.cameras
        width = len(names) + (0 if image_encoder is None else image_encoder.dim)
        self.actor = mlp([width + extra_inputs, *config.hidden_dims, spec.action.dim], out_gain=0.01)
        self._width = width
        self.critic = self._make_critic()
        # log sigma = low + (high - low) sigmoid(x): bounded, without the zero gradient of a clamp at its bounds
        fraction = (start - low) / (MAX_LOG_STD - low)
        self.log_std_logit = nn.Parameter(torch.full((spec.action.dim,), math.log(fraction / (1 - fraction))))
        self.register_buffer("discrete", torch.tensor(spec.action.discrete, dtype=torch.bool), persistent=False)
        self.register_buffer("columns", torch.arange(len(spec.state_names)), persistent=False)
        self.register_buffer("rescale", torch.ones(spec.action.dim), persistent=False)
        ActorCritic.adapt_to(self, spec)

    def adapt_to(self, spec: EnvSpec) -> None:
        """Prepare to act in an environment, which may differ from the training environment: see `EnvSpec.check_policy`.

        State entries are looked up by name in the environment's state, and continuous actions are rescaled to keep their size
        in physical units.

        Raises:
            SpecMismatch: the policy does not fit; names both sides.
        """
        columns, rescale = adapt_spec(self.spec, spec, self.config.state_keys)
        self.columns = torch.tensor(columns, device=self.device)
        self.rescale = torch.tensor(rescale, device=self.device)
        self._everything = columns == list(range(len(spec.state_names)))
        self._same_scale = bool((np.array(rescale, np.float32) == 1).all())

    def reset_critic(self, asymmetric: bool) -> None:
        """Replace the critic by one with or without privileged inputs, unless it is of that kind already.

        Raises:
            ConfigError: the environment has no privileged observations.
        """
        if asymmetric != self.config.asymmetric_critic:
            self.config = self.config.model_copy(update={"asymmetric_critic": asymmetric})
            self.critic = self._make_critic().to(self.device)

    def _make_critic(self) -> nn.Sequential:
        width = self._width
        if self.config.asymmetric_critic:
            if self.spec.layout is None:
                raise ConfigError(
                    f"asymmetric_critic needs privileged observations, and {self.spec.task} has none: leave it off"
                )
            width += self.spec.layout.relative_dim
        return mlp([width, *self.config.hidden_dims, 1], out_gain=1.0)

    def forward(self, obs: Obs) -> Outputs:
        """Return distribution and value for the losses; images are encoded once."""
        features = self._encode(obs)
        return Outputs(self._distribution(self._hidden(features, obs), obs), self._value(features, obs))

    def augment_obs(self, obs: TensorDict) -> TensorDict:
        """Return `obs` with the state estimate added as ``state_estimate``, so that images need not be encoded again.

        Without `StudentConfig.state_estimator`, return `obs` itself.
        """
        return (
            obs
            if self.state_estimator is None
            else cast("TensorDict", obs.copy()).set("state_estimate", self.estimate_state(obs))
        )

    def estimate_state(self, obs: Obs) -> Tensor:
        """Estimate the scene [N, B], with gradient; only with `StudentConfig.state_estimator`."""
        assert self.state_estimator is not None
        return self.state_estimator(self._state(obs), obs)

    def distribution(self, obs: Obs) -> ActionDistribution:
        """Return the action distribution."""
        return self._distribution(self._hidden(self._encode(obs), obs), obs)

    @torch.no_grad()
    def act_with_features(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """Return the actions of `act` [N, A] and the actor's last hidden layer [N, F], from one forward pass."""
        hidden = self._hidden(self._encode(obs), obs)
        return clipped(self._distribution(hidden, obs).mode()), hidden

    def value(self, obs: Obs) -> Tensor:
        """Return the value [N]."""
        return self._value(self._encode(obs), obs)

    @torch.no_grad()
    def act(self, obs: Obs, deterministic: bool = True, generator: torch.Generator | None = None) -> Tensor:
        """Return the actions [N, A] in [-1, 1] to execute: the mode, or a sample."""
        distribution = self.distribution(obs)
        action = distribution.mode() if deterministic else distribution.sample(generator)
        return clipped(action)

    def set_progress(self, progress: float) -> None:
        """Update schedules for a point of the training, progress in [0, 1]; none here."""

    def update_normalization(self, obs: Obs, add_up: Callable[[Tensor], Tensor] | None = None, prior: bool = False) -> None:
        """Update the running statistics of the state with collected observations; see `Normalizer.update`."""
        if self.state_normalizer is not None:
            self.state_normalizer.update(self._read(obs), add_up, prior)

    @property
    def log_std(self) -> Tensor:
        """[A] log standard deviation, independent of the state."""
        return self._bounded(self.log_std_logit)

    def _bounded(self, logit: Tensor) -> Tensor:
        low = self.config.min_log_std
        return low + (MAX_LOG_STD - low) * torch.sigmoid(logit)

    def policy_parameters(self) -> list[nn.Parameter]:
        """Parameters trained by the policy loss; excludes the state estimator."""
        return [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("state_estimator.")]

    @property
    def note(self) -> str:
        """Remark for users about how the policy fits its current environment; empty: none."""
        return ""

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def hidden_width(self) -> int:
        """Size of the actor's last hidden layer."""
        return cast("nn.Linear", self.actor[-1]).in_features

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.log_std_logit.device

    @staticmethod
    def from_pretrained(folder: str | Path, device: torch.device | str = "cpu") -> ActorCritic:
        """Load an actor-critic of any kind saved by `save_pretrained`.

        Raises:
            ConfigError: a file is missing, damaged, or holds another kind of policy; names the file.
        """
        policy = pretrained.load(Path(folder), device)
        if not isinstance(policy, ActorCritic):
            raise ConfigError(
                f"{folder}: a {type(policy).__name__} has no critic and no action density: use an actor-critic student"
            )
        return policy

    def describe(self) -> pretrained.Description:
        """Describe the policy without its weights."""
        return pretrained.Description(class_name=type(self).__name__, spec=self.spec, student=self.config)

    @classmethod
    def build(cls, description: pretrained.Description) -> ActorCritic:
        """Build the network of a description with new weights."""
        return cls(description.spec, description.student)

    def _read(self, obs: Obs) -> Tensor:
        """State entries that the policy reads [N, S]."""
        return obs["state"] if self._everything else obs["state"][:, self.columns]

    def _state(self, obs: Obs) -> Tensor:
        state = nan_where_invalid(self._read(obs))  # a clipping normalizer or a tanh would hide unsound values
        return state if self.state_normalizer is None else self.state_normalizer(state)

    def _encode(self, obs: Obs) -> Tensor:
        seen = [self._state(obs)]
        if self.state_estimator is not None:
            seen.append(obs["state_estimate"] if "state_estimate" in obs.keys() else self.estimate_state(obs).detach())  # noqa: SIM118
        elif self.cameras is not None:
            seen.append(self.cameras(obs))
        return torch.cat(seen, dim=-1)

    def _hidden(self, features: Tensor, obs: Obs) -> Tensor:
        """The actor's last hidden layer [N, F]."""
        return self.actor[:-1](features)

    def _distribution(self, hidden: Tensor, obs: Obs) -> ActionDistribution:
        raw, log_std = self.actor[-1](hidden), self.log_std
        if not self._same_scale:
            raw, log_std = raw * self.rescale, log_std + self.rescale.log()
        return ActionDistribution(raw, log_std, self.discrete)

    def _value(self, features: Tensor, obs: Obs) -> Tensor:
        if self.config.asymmetric_critic:
            features = torch.cat([features, self.spec.relative(obs["privileged"])], dim=-1)
        return self.critic(features).squeeze(-1)
