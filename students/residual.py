"""A student that corrects a frozen base: residual reinforcement learning.

Silver et al., 2018, "Residual policy learning" (arXiv 1812.06298); COMPASS (arXiv 2502.16372) makes a specialist of each
robot from one base in this way.
"""

from __future__ import annotations

from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from envs.errors import ConfigError
from envs.specs import EnvSpec
from students import pretrained
from students.actor_critic import ActorCritic, Outputs
from students.config import ResidualConfig, StudentConfig
from students.distribution import ActionDistribution
from students.perception import Obs

ACTION, FEATURES = "base.action", "base.features"
"""What the base said of an observation, kept beside it: [N, A] in [-1, 1], and [N, F]."""


class ResidualActorCritic(ActorCritic):
    """a = clip(a_base + alpha tanh(f(o, a_base)), -1, 1), with the last layer of f zero at the start.

    In discrete dimensions the base's choice (+1 or -1, or between them where it is unsure) counts as log-odds
    `ResidualConfig.discrete_odds` times as large, to which alpha f is added. The base is a policy inside, frozen, or a
    teacher outside, whose action then has to be among the observations. It is asked once per observation, by `perceive`;
    the critic does not need it.
    """

    alpha: Tensor

    def __init__(self, spec: EnvSpec, config: StudentConfig, residual: ResidualConfig, base: ActorCritic | str) -> None:
        """Build for an environment.

        Args:
            spec: the environment.
            config: of the student's own network.
            residual: how it adds.
            base: the policy, which is frozen, or a teacher's name.

        Raises:
            SpecMismatch: the base does not fit the environment; names both sides.
            ConfigError: features are asked for, and a teacher shows none.
        """
        inside = isinstance(base, ActorCritic)
        if isinstance(base, ActorCritic):
            base.fit(spec)
        elif residual.sees == "features":
            raise ConfigError(
                f"residual.sees features: base {base} shows its actions only; a trained policy shows its features"
            )
        shown = base.hidden_width if isinstance(base, ActorCritic) and residual.sees == "features" else 0
        super().__init__(spec, config, beside=spec.action.dim + shown)
        self.residual, self.outside = residual, None if inside else str(base)
        self.base = base.eval().requires_grad_(False) if isinstance(base, ActorCritic) else None
        last = cast("nn.Linear", self.actor[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("alpha", torch.tensor(residual.alpha_at(0.0)))

    def fit(self, spec: EnvSpec) -> None:
        """See `ActorCritic.fit`: what was learnt for one robot stays there, whatever it reads."""
        spec.check_policy(self.spec)
        super().fit(spec)

    def perceive(self, obs: TensorDict) -> TensorDict:
        """Ask the base, unless it has been; see also `ActorCritic.perceive`."""
        return super().perceive(cast("TensorDict", self._proposed(obs)))

    def forward(self, obs: Obs) -> Outputs:
        """See `ActorCritic.forward`."""
        return super().forward(self._proposed(obs))

    def distribution(self, obs: Obs) -> ActionDistribution:
        """See `ActorCritic.distribution`."""
        return super().distribution(self._proposed(obs))

    def propose(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """See `ActorCritic.propose`."""
        return super().propose(self._proposed(obs))

    def set_progress(self, progress: float) -> None:
        """Set alpha for a point of the run, in [0, 1]."""
        self.alpha.fill_(self.residual.alpha_at(progress))

    def describe(self) -> pretrained.Description:
        """See `ActorCritic.describe`."""
        base = self.outside if self.base is None else self.base.describe()
        return super().describe().model_copy(update={"residual": self.residual, "base": base})

    @classmethod
    def build(cls, description: pretrained.Description) -> ResidualActorCritic:
        """See `ActorCritic.build`."""
        assert description.residual is not None and description.base is not None
        base = description.base if isinstance(description.base, str) else pretrained.build(description.base)
        assert isinstance(base, str | ActorCritic)
        return cls(description.spec, description.student, description.residual, base)

    def _proposed(self, obs: Obs) -> Obs:
        """`obs` with what the base says of it. The base must not see this student's belief: it may have one of its own."""
        seen: TensorDict | dict[str, Tensor] = obs.copy() if isinstance(obs, TensorDict) else dict(obs)
        if ACTION in seen.keys():  # noqa: SIM118
            return seen
        if self.base is None:
            raise ValueError(f"the base is teacher {self.outside}: put its actions into the observations as '{ACTION}'")
        action, features = self.base.propose(seen)
        seen[ACTION] = action
        if self.residual.sees == "features":
            seen[FEATURES] = features
        return seen

    def _hidden(self, features: Tensor, obs: Obs) -> Tensor:
        beside = [obs[ACTION], obs[FEATURES]] if self.residual.sees == "features" else [obs[ACTION]]
        return super()._hidden(torch.cat([features, *beside], dim=-1), obs)

    def _distribution(self, hidden: Tensor, obs: Obs) -> ActionDistribution:
        change, base = self.actor[-1](hidden), obs[ACTION]
        continuous = base + self.alpha * torch.tanh(change)
        odds = self.residual.discrete_odds * base + self.alpha * change
        return ActionDistribution(torch.where(self.discrete, odds, continuous), self.log_std, self.discrete)
