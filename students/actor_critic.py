"""The student: an actor and a critic over a normalised state and encoded images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, cast

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from envs.errors import ConfigError
from envs.specs import EnvSpec, Scene
from students import pretrained
from students.config import StudentConfig
from students.distribution import ActionDistribution
from students.encoders import mlp
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
    """

    discrete: Tensor

    def __init__(self, spec: EnvSpec, config: StudentConfig) -> None:
        """Build the network for an environment.

        Raises:
            ConfigError: if the environment does not offer what the configuration asks for.
        """
        super().__init__()
        if "state" not in spec.observations:
            raise ConfigError(
                f"{spec.task} offers no 'state' observation ({', '.join(spec.observations)}): a student needs one"
            )
        if config.asymmetric_critic and not spec.scene:
            raise ConfigError(f"asymmetric_critic needs privileged observations, and {spec.task} has none: leave it off")
        if config.perceive and not spec.scene:
            raise ConfigError(f"perceive needs privileged observations, and {spec.task} has none: leave it off")
        if config.perceive and not spec.cameras:
            raise ConfigError("perceive needs images to tell from, and env.obs is state: leave it off, or use --env.obs image")
        low, start = config.min_log_std, config.init_log_std
        if not low < start < MAX_LOG_STD:
            raise ConfigError(f"init_log_std {start:g} must lie between min_log_std {low:g} and {MAX_LOG_STD:g}")
        self.spec, self.config = spec, config

        state_dim = spec.observations["state"].shape[0]
        self.perception = Perception(spec, config) if config.perceive else None
        self.cameras = Cameras(spec, config) if spec.cameras and not config.perceive else None
        self.state_normalizer = Normalizer(state_dim, spec.state_scaled) if config.normalize_state else None

        sight = self.perception or self.cameras
        width = state_dim + (0 if sight is None else sight.dim)
        critic_width = width + (Scene.relative_dim if config.asymmetric_critic else 0)
        self.actor = mlp([width, *config.hidden, spec.action.dim], out_gain=0.01)
        self.critic = mlp([critic_width, *config.hidden, 1], out_gain=1.0)
        # log sigma = low + (high - low) sigmoid(x): bounded without the dead gradient that a clamp has at its bounds
        fraction = (start - low) / (MAX_LOG_STD - low)
        self.log_std_logit = nn.Parameter(torch.full((spec.action.dim,), math.log(fraction / (1 - fraction))))
        self.register_buffer("discrete", torch.tensor(spec.action.discrete, dtype=torch.bool), persistent=False)

    def forward(self, obs: Obs) -> Outputs:
        """Return all that the losses need; images are encoded once."""
        features = self._encode(obs)
        return Outputs(self._distribution(features), self._value(features, obs))

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
        return self._distribution(self._encode(obs))

    def value(self, obs: Obs) -> Tensor:
        """Return the value [N]."""
        return self._value(self._encode(obs), obs)

    @torch.no_grad()
    def act(self, obs: Obs, deterministic: bool = True, generator: torch.Generator | None = None) -> Tensor:
        """Choose actions [N, A] in [-1, 1] to execute: the mode, or a sample."""
        distribution = self.distribution(obs)
        action = distribution.mode() if deterministic else distribution.sample(generator)
        return action.clamp(-1, 1)

    def observe(self, obs: Obs) -> None:
        """Update the normaliser with observations that were collected."""
        if self.state_normalizer is not None:
            self.state_normalizer.update(obs["state"])

    @property
    def log_std(self) -> Tensor:
        """[A] log standard deviation, the same in every state."""
        low = self.config.min_log_std
        return low + (MAX_LOG_STD - low) * torch.sigmoid(self.log_std_logit)

    def acting_parameters(self) -> list[nn.Parameter]:
        """All that the policy's loss trains: what beliefs are made of is not among them."""
        return [p for name, p in self.named_parameters() if not name.startswith("perception.")]

    @property
    def num_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return self.log_std_logit.device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into `folder`."""
        pretrained.save(self, self.spec, self.config, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> ActorCritic:
        """Load a policy saved by `save_pretrained`.

        Raises:
            ConfigError: one line that names the file that is missing, damaged or of another kind.
        """
        folder = Path(folder)
        spec, config, weights = pretrained.load(cls.__name__, folder)
        policy = cls(spec, config)
        pretrained.fill(policy, weights, folder)
        return policy.to(device)

    def _state(self, obs: Obs) -> Tensor:
        return obs["state"] if self.state_normalizer is None else self.state_normalizer(obs["state"])

    def _encode(self, obs: Obs) -> Tensor:
        seen = [self._state(obs)]
        if self.perception is not None:
            seen.append(obs["belief"] if "belief" in obs.keys() else self.believe(obs).detach())  # noqa: SIM118
        elif self.cameras is not None:
            seen.append(self.cameras(obs))
        return torch.cat(seen, dim=-1)

    def _distribution(self, features: Tensor) -> ActionDistribution:
        return ActionDistribution(self.actor(features), self.log_std, self.discrete)

    def _value(self, features: Tensor, obs: Obs) -> Tensor:
        if self.config.asymmetric_critic:
            features = torch.cat([features, Scene.relative(obs["privileged"])], dim=-1)
        return self.critic(features).squeeze(-1)
