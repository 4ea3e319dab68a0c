"""One policy for several robots, conditioned on embodiment features, with actions in the range of each robot.

COMPASS (arXiv 2502.16372) distills the specialists of several robots into such a policy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.students.actor_critic import MAX_LOG_STD, ActorCritic
from rpd.students.config import GeneralistConfig, StudentConfig
from rpd.students.embodiment_layout import EmbodimentLayout
from rpd.students.io import pretrained
from rpd.students.networks.distribution import ActionDistribution
from rpd.students.networks.encoders import init
from rpd.students.networks.state_estimator import Obs

BODY = "body"
"""Key in batches of several robots: [N] int64, index of each row's member. Their ``state`` is [N, S] in the order of the
layout; entries that a robot lacks are ignored."""
BLEND_START = 0.2
"""dual-head: initial weight of the second head in the action when reinforcement learning starts (DHO); the final weight is
1."""


class GeneralistActorCritic(ActorCritic):
    """pi(a | o, body). Acts for the robot of the last `adapt_to`, or for several robots in one batch (`BODY`).

    Internally all robots share one padded layout (`EmbodimentLayout`) with actions in physical units. The embodiment features
    of a member are constants; their weights start at zero, so that all robots start with the same policy. The standard
    deviation depends on the embodiment as well, as the specialists have different ones.

    Attributes:
        layout: common layout of state and actions.
        spec: the environment it is currently adapted to.
    """

    columns: Tensor
    rescale: Tensor
    features: Tensor
    present: Tensor
    dims: Tensor
    member_features: Tensor
    member_present: Tensor
    member_own: Tensor
    member_rescale: Tensor
    blend: Tensor

    def __init__(self, members: Sequence[EnvSpec], student: StudentConfig, generalist: GeneralistConfig) -> None:
        """Build for several environments.

        Raises:
            ConfigError, SpecMismatch: see `EmbodimentLayout`.
        """
        if student.state_estimator:
            raise ConfigError("student.state_estimator: not supported by generalists, leave it off")
        with torch.device("cpu"):  # small tables that determine sizes: computed even if the network is built on the meta device
            layout = EmbodimentLayout(members, student.state_keys, generalist)
            features, bodies = layout.features, [layout.robot_io(spec) for spec in members]
        if generalist.network == "moe" and not features:
            raise ConfigError("network moe weights its experts by embodiment features, and --embodiment none has none")
        super().__init__(layout.spec, student, extra_inputs=features)
        self.layout, self.generalist = layout, generalist
        for name in ("features", "present", "own", "rescale"):
            of_members = torch.stack([getattr(body, name) for body in bodies])  # [R, ...]
            self.register_buffer(f"member_{name}", of_members, persistent=False)
        for name in ("features", "present", "dims"):
            self.register_buffer(name, getattr(bodies[0], name), persistent=False)
        with torch.no_grad():
            first = cast("nn.Linear", self.actor[0]).weight  # [H, S + E]
            first[:, first.shape[1] - features :] = 0
        self.log_std_head = nn.Parameter(torch.zeros(layout.spec.action.dim, features))
        self.experts: Experts | None = None
        if generalist.network == "moe":
            last = cast("nn.Linear", self.actor[-3])
            self.experts = Experts(last.in_features, last.out_features, generalist.experts, features)
            self.actor = nn.Sequential(*list(self.actor)[:-3], self.actor[-1])
        self.rl_head: nn.Linear | None = None
        if generalist.network == "dual-head":
            self.rl_head = cast("nn.Linear", copy.deepcopy(self.actor[-1]))
        self.register_buffer("blend", torch.tensor(0.0))
        self.adapt_to(members[0])

    def adapt_to(self, spec: EnvSpec) -> None:
        """Switch to another robot, which need not be a member: see `EmbodimentLayout.robot_io`."""
        with torch.device("cpu"):
            body = self.layout.robot_io(spec)
        for name in ("columns", "features", "present", "dims", "rescale"):
            setattr(self, name, getattr(body, name).to(self.device))
        self.spec = spec

    @property
    def note(self) -> str:
        """See `ActorCritic.note`."""
        if self.layout.is_member(self.spec):
            return ""
        robots = ", ".join(self.layout.robots)
        how = {
            "descriptor": f"described by {', '.join(self.layout.descriptor_entries)}",
            "one-hot": "described by a one-hot of zeros",
            "none": "not described to the policy",
        }[self.layout.embodiment]
        return f"zero-shot: {self.spec.embodiment.name} is not among the robots of this generalist ({robots}); {how}"

    def set_normalization(self, mean: Tensor, var: Tensor) -> None:
        """Fix the state normalization, both [S]: observations of one robot must not change it for the others."""
        if self.state_normalizer is not None:
            self.state_normalizer.mean.copy_(mean)
            self.state_normalizer.var.copy_(var)
            self.state_normalizer.count.fill_(1)

    def update_normalization(self, obs: Obs, add_up: Callable[[Tensor], Tensor] | None = None, prior: bool = False) -> None:
        """Do nothing: the statistics are fixed by `set_normalization`."""

    def start_finetuning(self, student: StudentConfig) -> None:
        """Start reinforcement learning on the current robot, with the configured exploration in that robot's action range.

        Raises:
            ConfigError: see `reset_critic`.
        """
        self.reset_critic(student.asymmetric_critic)
        low = student.min_log_std
        target = student.init_log_std - self.rescale.log()
        fraction = ((target - low) / (MAX_LOG_STD - low)).clamp(0.01, 0.99)
        embodiment = self.log_std_head @ self.features
        self.config = self.config.model_copy(update={"init_log_std": student.init_log_std, "min_log_std": low})
        with torch.no_grad():
            self.log_std_logit.copy_(fraction.logit() - embodiment)
            if self.rl_head is not None:
                self.rl_head.load_state_dict(self.actor[-1].state_dict())

    def set_progress(self, progress: float) -> None:
        """Set the weight of the second head for a point of the reinforcement learning, progress in [0, 1]."""
        if self.rl_head is not None:
            self.blend.fill_(BLEND_START + (1 - BLEND_START) * progress)

    def describe(self) -> pretrained.Description:
        """See `ActorCritic.describe`."""
        more = {"generalist": self.generalist, "members": self.layout.members}
        return super().describe().model_copy(update=more)

    @classmethod
    def build(cls, description: pretrained.Description) -> GeneralistActorCritic:
        """See `ActorCritic.build`."""
        assert description.generalist is not None and description.members is not None
        policy = cls(description.members, description.student, description.generalist)
        policy.adapt_to(description.spec)
        return policy

    def _read(self, obs: Obs) -> Tensor:
        return obs["state"] if _mixed(obs) else obs["state"][:, self.columns]

    def _state(self, obs: Obs) -> Tensor:
        present = self.member_present[obs[BODY]] if _mixed(obs) else self.present
        return super()._state(obs).masked_fill(~present, 0.0)

    def _hidden(self, features: Tensor, obs: Obs) -> Tensor:
        embodiment = self._embodiment_features(obs).expand(features.shape[0], -1)  # [N, E]
        x = torch.cat([features, embodiment], dim=-1)
        return self.actor[:-1](x) if self.experts is None else self.experts(self.actor[:-1](x), embodiment)

    def _distribution(self, hidden: Tensor, obs: Obs) -> ActionDistribution:
        raw = self.actor[-1](hidden)
        if self.rl_head is None:
            return self._robot_distribution(raw, obs)
        # mu = b mu_2 + (1 - b) mu_1 is executed (DHO); the reward trains the second head, a teacher the first
        both = self.blend * self.rl_head(hidden) + (1 - self.blend) * raw.detach()
        return replace(self._robot_distribution(both, obs), imitation=self._robot_distribution(raw, obs))

    def _robot_distribution(self, raw: Tensor, obs: Obs) -> ActionDistribution:
        """Distribution over actions [N, A] of the layout, scaled to the range of each row's robot."""
        log_std = self._bounded(self.log_std_logit + self._embodiment_features(obs) @ self.log_std_head.T)
        if _mixed(obs):
            rescale = self.member_rescale[obs[BODY]]
            return ActionDistribution(raw * rescale, log_std + rescale.log(), self.discrete, self.member_own[obs[BODY]])
        rescale = self.rescale[self.dims]
        return ActionDistribution(raw[:, self.dims] * rescale, log_std[self.dims] + rescale.log(), self.discrete[self.dims])

    def _embodiment_features(self, obs: Obs) -> Tensor:
        """Embodiment features: [N, E] per row, or [E] if the batch has one robot."""
        return self.member_features[obs[BODY]] if _mixed(obs) else self.features


class Experts(nn.Module):
    """Mixture of layers h = sum_k g_k ELU(W_k x + b_k) with g = softmax of the embodiment features: one g per robot.

    All experts have equal weights at the start. Jacobs et al. (1991); here the gate reads the embodiment only, not the
    observation.
    """

    def __init__(self, inputs: int, outputs: int, count: int, features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(init(nn.Linear(inputs, outputs)) for _ in range(count))
        self.gate = nn.Linear(features, count)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def weights(self, embodiment: Tensor) -> Tensor:
        """Weights of the experts [N, K] for embodiment features [N, E]: non-negative, with sum 1."""
        return self.gate(embodiment).softmax(-1)

    def forward(self, x: Tensor, embodiment: Tensor) -> Tensor:
        """Mix the experts' outputs for x [N, inputs]: [N, outputs]."""
        answers = torch.stack([F.elu(layer(x)) for layer in self.layers], dim=1)  # [N, K, outputs]
        return (self.weights(embodiment)[:, :, None] * answers).sum(1)


def _mixed(obs: Obs) -> bool:
    return BODY in obs.keys()  # noqa: SIM118
