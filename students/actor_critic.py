"""The student: an actor and a critic over a normalised state and encoded images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, cast

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from envs.errors import ConfigError
from envs.specs import EnvSpec
from students import pretrained
from students.config import StudentConfig
from students.distribution import ActionDistribution
from students.encoders import mlp
from students.fitting import fit
from students.normalizer import Normalizer
from students.perception import Cameras, Obs, Perception

MAX_LOG_STD = 0.5  # beyond, most samples of an action in [-1, 1] are clipped


class Outputs(NamedTuple):
    """Of one forward pass over N observations."""

    distribution: ActionDistribution
    value: Tensor
    """[N]."""


class ActorCritic(nn.Module):
    """pi(a | o) and V(o), with separate MLPs on what both see.

    That is the normalised ``state``, and with images either the features of an encoder per camera, which actor and
    critic train, or with `StudentConfig.perceive` a belief about the scene, which is trained apart (`Perception`).
    The critic also sees ``privileged`` where `StudentConfig.asymmetric_critic` is set. Observations may have more keys.
    With `StudentConfig.reads` the state is what is read of it, wherever that is in an environment's: see `fit`.
    """

    discrete: Tensor
    columns: Tensor
    rescale: Tensor
    outside: str | None = None
    """Name of the teacher whose actions, under ``base.action``, have to be among the observations."""

    def __init__(self, spec: EnvSpec, config: StudentConfig, beside: int = 0) -> None:
        """Build the network for an environment; its actor has `beside` inputs more.

        Raises:
            ConfigError: if the environment does not offer what the configuration asks for.
        """
        super().__init__()
        if "state" not in spec.observations:
            raise ConfigError(
                f"{spec.task} offers no 'state' observation ({', '.join(spec.observations)}): a student needs one"
            )
        if config.perceive and not spec.scene:
            raise ConfigError(f"perceive needs privileged observations, and {spec.task} has none: leave it off")
        if config.perceive and not spec.cameras:
            raise ConfigError("perceive needs images to tell from, and env.obs is state: leave it off, or use --env.obs image")
        if config.augment and not spec.cameras:
            raise ConfigError("augment changes images, and env.obs is state: leave it off, or use --env.obs image")
        low, start = config.min_log_std, config.init_log_std
        if not low < start < MAX_LOG_STD:
            raise ConfigError(f"init_log_std {start:g} must lie between min_log_std {low:g} and {MAX_LOG_STD:g}")
        self.spec, self.config = spec, config

        names = spec.entries(config.reads)
        scaled = tuple(s for name, s in zip(spec.state_names, spec.state_scaled, strict=False) if name in names)
        self.perception = Perception(spec, config) if config.perceive else None
        self.cameras = Cameras(spec, config) if spec.cameras and not config.perceive else None
        self.state_normalizer = Normalizer(len(names), scaled) if config.normalize_state else None

        sight = self.perception or self.cameras
        width = len(names) + (0 if sight is None else sight.dim)
        self.actor = mlp([width + beside, *config.hidden, spec.action.dim], out_gain=0.01)
        self._width = width
        self.critic = self._make_critic()
        # log sigma = low + (high - low) sigmoid(x): bounded without the dead gradient that a clamp has at its bounds
        fraction = (start - low) / (MAX_LOG_STD - low)
        self.log_std_logit = nn.Parameter(torch.full((spec.action.dim,), math.log(fraction / (1 - fraction))))
        self.register_buffer("discrete", torch.tensor(spec.action.discrete, dtype=torch.bool), persistent=False)
        self.register_buffer("columns", torch.arange(len(spec.state_names)), persistent=False)
        self.register_buffer("rescale", torch.ones(spec.action.dim), persistent=False)
        ActorCritic.fit(self, spec)

    def fit(self, spec: EnvSpec) -> None:
        """Prepare to act in an environment, perhaps another than that of the training: see `EnvSpec.check_policy`.

        What is read is taken from where it is in that environment's state, and continuous actions mean there, in physical
        units, what they meant in training.

        Raises:
            SpecMismatch: the policy does not fit; names both sides.
        """
        columns, rescale = fit(self.spec, spec, self.config.reads)
        self.columns = torch.tensor(columns, device=self.device)
        self.rescale = torch.tensor(rescale, device=self.device)
        self._everything = columns == list(range(len(spec.state_names)))
        self._same_scale = bool((self.rescale == 1).all())

    def renew_critic(self, asymmetric: bool) -> None:
        """Begin anew with a critic that sees what the simulator knows, or one that does not, unless it is of that kind.

        Raises:
            ConfigError: the simulator tells nothing.
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
        return mlp([width, *self.config.hidden, 1], out_gain=1.0)

    def forward(self, obs: Obs) -> Outputs:
        """Return all that the losses need; images are encoded once."""
        features = self._encode(obs)
        return Outputs(self._distribution(self._hidden(features, obs), obs), self._value(features, obs))

    def perceive(self, obs: TensorDict) -> TensorDict:
        """Return `obs` with what the policy makes of its images in ``belief``, so that it need not look again.

        Without `StudentConfig.perceive` that is `obs` itself.
        """
        return obs if self.perception is None else cast("TensorDict", obs.copy()).set("belief", self.believe(obs))

    def believe(self, obs: Obs) -> Tensor:
        """Return the belief [N, B] about the scene, with its gradient; only with `StudentConfig.perceive`."""
        assert self.perception is not None
        return self.perception(self._state(obs), obs)

    def distribution(self, obs: Obs) -> ActionDistribution:
        """Return the action distribution."""
        return self._distribution(self._hidden(self._encode(obs), obs), obs)

    @torch.no_grad()
    def propose(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """Return what `act` would do [N, A] and the actor's last hidden layer [N, F], in one pass."""
        hidden = self._hidden(self._encode(obs), obs)
        return self._distribution(hidden, obs).mode().clamp(-1, 1), hidden

    def value(self, obs: Obs) -> Tensor:
        """Return the value [N]."""
        return self._value(self._encode(obs), obs)

    @torch.no_grad()
    def act(self, obs: Obs, deterministic: bool = True, generator: torch.Generator | None = None) -> Tensor:
        """Choose actions [N, A] in [-1, 1] to execute: the mode, or a sample."""
        distribution = self.distribution(obs)
        action = distribution.mode() if deterministic else distribution.sample(generator)
        return action.clamp(-1, 1)

    def set_progress(self, progress: float) -> None:
        """Note a point of the training, in [0, 1]."""

    def observe(self, obs: Obs) -> None:
        """Update the normaliser with observations that were collected."""
        if self.state_normalizer is not None:
            self.state_normalizer.update(self._read(obs))

    @property
    def log_std(self) -> Tensor:
        """[A] log standard deviation, the same in every state."""
        return self._bounded(self.log_std_logit)

    def _bounded(self, logit: Tensor) -> Tensor:
        low = self.config.min_log_std
        return low + (MAX_LOG_STD - low) * torch.sigmoid(logit)

    def acting_parameters(self) -> list[nn.Parameter]:
        """All that the policy's loss trains: what beliefs are made of is not among them."""
        return [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("perception.")]

    @property
    def note(self) -> str:
        """What a person should know of how it fits the environment that it acts in."""
        return ""

    @property
    def num_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def hidden_width(self) -> int:
        """Size of the actor's last hidden layer."""
        return cast("nn.Linear", self.actor[-1]).in_features

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return self.log_std_logit.device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into `folder`."""
        pretrained.save(self, Path(folder))

    @staticmethod
    def from_pretrained(folder: str | Path, device: torch.device | str = "cpu") -> ActorCritic:
        """Load a policy saved by `save_pretrained`, of any kind that acts and judges at once.

        Raises:
            ConfigError: one line that names the file that is missing, damaged or of another kind.
        """
        policy = pretrained.load(Path(folder), device)
        if not isinstance(policy, ActorCritic):
            raise ConfigError(f"{folder}: a {type(policy).__name__}, which has no critic and no density: name a plain student")
        return policy

    def describe(self) -> pretrained.Description:
        """Say what the policy is, without its numbers."""
        return pretrained.Description(class_name=type(self).__name__, spec=self.spec, student=self.config)

    @classmethod
    def build(cls, description: pretrained.Description) -> ActorCritic:
        """Make the network that `describe` described, with new numbers."""
        return cls(description.spec, description.student)

    def _read(self, obs: Obs) -> Tensor:
        """The state entries that are read [N, S]."""
        return obs["state"] if self._everything else obs["state"][:, self.columns]

    def _state(self, obs: Obs) -> Tensor:
        state = self._read(obs)
        return state if self.state_normalizer is None else self.state_normalizer(state)

    def _encode(self, obs: Obs) -> Tensor:
        seen = [self._state(obs)]
        if self.perception is not None:
            seen.append(obs["belief"] if "belief" in obs.keys() else self.believe(obs).detach())  # noqa: SIM118
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
