"""Residual policy: a student that corrects the actions of a frozen base.

Silver et al., 2018, "Residual policy learning" (arXiv 1812.06298); COMPASS (arXiv 2502.16372) trains one such
specialist per robot from a shared base.
"""

from __future__ import annotations

from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.students.actor_critic import ActorCritic, Outputs
from rpd.students.config import ResidualConfig, StudentConfig
from rpd.students.io import pretrained
from rpd.students.networks.distribution import ActionDistribution
from rpd.students.networks.state_estimator import Obs

BASE_ACTION, BASE_FEATURES = "base_action", "base_features"
"""Observation keys of the base's outputs: its action [N, A] in [-1, 1], and its last hidden layer [N, F]."""


def base_outputs(base: ActorCritic, obs: Obs, features: bool) -> dict[str, Tensor]:
    """Return ``base_action`` [N, A] of a trained policy for observations [N], and ``base_features`` [N, F] if `features`."""
    action, hidden = base.act_with_features(obs)
    return {BASE_ACTION: action, **({BASE_FEATURES: hidden} if features else {})}


class ResidualActorCritic(ActorCritic):
    """a = clip(a_base + alpha tanh(f(o, a_base)), -1, 1), with the last layer of f zero at the start.

    In discrete dimensions the log-odds are `ResidualConfig.base_logit_scale` times a_base (+1 or -1) plus alpha f.

    The base is internal (a frozen policy) or external (a teacher). The actor reads the base's outputs from the observation:
    ``base_action``, and ``base_features`` if `ResidualConfig.base_input` is "features". They are added by
    `rpd.policies.base_action.BaseActionWrapper` or `rpd.teachers.adapters.student.PolicyTeacher`; if they are missing, the
    internal base computes them. The critic does not read them.
    """

    alpha: Tensor

    def __init__(
        self,
        spec: EnvSpec,
        config: StudentConfig,
        residual: ResidualConfig,
        base: ActorCritic | str,
        identity: str | None = None,
    ) -> None:
        """Build a residual policy for an environment.

        Args:
            spec: spec of the environment.
            config: configuration of the student's network.
            residual: configuration of the correction.
            base: an internal base, which is frozen, or the reference of a teacher.
            identity: identity of that teacher, see `Description.base_identity`.

        Raises:
            SpecMismatch: the base does not fit the environment; names both sides.
            ConfigError: the features of a teacher are requested.
        """
        inside = isinstance(base, ActorCritic)
        if isinstance(base, ActorCritic):
            base.adapt_to(spec)
        elif residual.base_input == "features":
            raise ConfigError(
                f"residual.base_input features: base {base} provides actions only; features need a trained policy"
            )
        feature_dim = base.hidden_width if isinstance(base, ActorCritic) and residual.base_input == "features" else 0
        super().__init__(spec, config, extra_inputs=spec.action.dim + feature_dim)
        self.residual, self.outside, self.outside_identity = residual, None if inside else str(base), identity
        self.base = base.eval().requires_grad_(False) if isinstance(base, ActorCritic) else None
        last = cast("nn.Linear", self.actor[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("alpha", torch.tensor(residual.alpha_at(0.0)))

    def adapt_to(self, spec: EnvSpec) -> None:
        """See `ActorCritic.adapt_to`; a residual policy cannot be transferred to another robot."""
        spec.check_policy(self.spec)
        super().adapt_to(spec)

    def augment_obs(self, obs: TensorDict) -> TensorDict:
        """See `ActorCritic.augment_obs`."""
        return super().augment_obs(cast("TensorDict", self._with_base(obs)))

    def forward(self, obs: Obs) -> Outputs:
        """See `ActorCritic.forward`."""
        return super().forward(self._with_base(obs))

    def distribution(self, obs: Obs) -> ActionDistribution:
        """See `ActorCritic.distribution`."""
        return super().distribution(self._with_base(obs))

    def act_with_features(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """See `ActorCritic.act_with_features`."""
        return super().act_with_features(self._with_base(obs))

    def set_progress(self, progress: float) -> None:
        """Set alpha for the progress of the run, in [0, 1]."""
        self.alpha.fill_(self.residual.alpha_at(progress))

    def describe(self) -> pretrained.Description:
        """See `ActorCritic.describe`."""
        base = self.outside if self.base is None else self.base.describe()
        return (
            super()
            .describe()
            .model_copy(update={"residual": self.residual, "base": base, "base_identity": self.outside_identity})
        )

    @classmethod
    def build(cls, description: pretrained.Description) -> ResidualActorCritic:
        """See `ActorCritic.build`."""
        assert description.residual is not None and description.base is not None
        base = description.base if isinstance(description.base, str) else pretrained.build(description.base)
        assert isinstance(base, str | ActorCritic)
        return cls(description.spec, description.student, description.residual, base, description.base_identity)

    def _with_base(self, obs: Obs) -> Obs:
        """Return `obs` with the base's outputs, computed by the internal base if the keys are missing.

        Called before `augment_obs` adds this student's state estimate: the base may have its own state estimator.

        Raises:
            ValueError: the keys are missing, and the base is external.
        """
        if BASE_ACTION in obs.keys():  # noqa: SIM118
            return obs
        if self.base is None:
            raise ValueError(f"the base is teacher {self.outside}: add its action to the observation as '{BASE_ACTION}'")
        outputs = base_outputs(self.base, obs, self.residual.base_input == "features")
        return obs.copy().update(outputs) if isinstance(obs, TensorDict) else {**obs, **outputs}

    def _hidden(self, features: Tensor, obs: Obs) -> Tensor:
        base = [obs[BASE_ACTION], obs[BASE_FEATURES]] if self.residual.base_input == "features" else [obs[BASE_ACTION]]
        return super()._hidden(torch.cat([features, *base], dim=-1), obs)

    def _distribution(self, hidden: Tensor, obs: Obs) -> ActionDistribution:
        change, base = self.actor[-1](hidden), obs[BASE_ACTION]
        continuous = base + self.alpha * torch.tanh(change)
        odds = self.residual.base_logit_scale * base + self.alpha * change
        return ActionDistribution(torch.where(self.discrete, odds, continuous), self.log_std, self.discrete)
