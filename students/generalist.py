"""One student for several robots: it is told which body it has, and acts within what that body can.

COMPASS (arXiv 2502.16372) distils the specialists of several robots into such a policy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.errors import ConfigError
from envs.specs import EnvSpec
from students import pretrained
from students.actor_critic import MAX_LOG_STD, ActorCritic
from students.bodies import Layout
from students.config import GeneralistConfig, StudentConfig
from students.distribution import ActionDistribution
from students.encoders import init
from students.perception import Obs

BODY = "body"
"""Key of observations of several robots together: [N] int64, which member each row is of. Their ``state`` is [N, S], in the
order of the layout, with anything where a robot has no such entry."""
BLEND_START = 0.2
"""dual-head: the second head's part of an action when reinforcement learning begins (DHO); it ends at 1."""


class GeneralistActorCritic(ActorCritic):
    """pi(a | o, body). Acts for the robot that it was last made to `fit`, or for several at once (`BODY`).

    Internally all robots are padded to one layout (`students.bodies.Layout`), whose actions have a physical size. What a
    member is told of its body is fixed; the weights that read it start at zero, so that all robots begin as one. The standard
    deviation depends on the body, too: specialists are not equally sure.

    Attributes:
        layout: what the robots have in common.
        spec: the environment that it fits now.
    """

    columns: Tensor
    rescale: Tensor
    features: Tensor
    present: Tensor
    dims: Tensor
    of_features: Tensor
    of_present: Tensor
    of_own: Tensor
    of_rescale: Tensor
    blend: Tensor

    def __init__(self, members: Sequence[EnvSpec], student: StudentConfig, generalist: GeneralistConfig) -> None:
        """Build for several environments.

        Raises:
            ConfigError, SpecMismatch: see `Layout`.
        """
        if student.perceive:
            raise ConfigError("student.perceive: a generalist sees by what it is taught, leave it off")
        layout = Layout(members, student.reads, generalist)
        if generalist.network == "moe" and not layout.features:
            raise ConfigError("network moe weighs its experts by the robot, of which --embodiment none says nothing")
        super().__init__(layout.spec, student, beside=layout.features)
        self.layout, self.generalist = layout, generalist
        bodies = [layout.body(spec) for spec in members]
        for name in ("features", "present", "own", "rescale"):
            of_all = torch.stack([getattr(body, name) for body in bodies])  # [R, ...]
            self.register_buffer(f"of_{name}", of_all, persistent=False)
        for name in ("features", "present", "dims"):
            self.register_buffer(name, getattr(bodies[0], name), persistent=False)
        with torch.no_grad():
            first = cast("nn.Linear", self.actor[0]).weight  # [H, S + E]
            first[:, first.shape[1] - layout.features :] = 0
        self.spread = nn.Parameter(torch.zeros(layout.spec.action.dim, layout.features))
        self.experts: Experts | None = None
        if generalist.network == "moe":
            last = cast("nn.Linear", self.actor[-3])
            self.experts = Experts(last.in_features, last.out_features, generalist.experts, layout.features)
            self.actor = nn.Sequential(*list(self.actor)[:-3], self.actor[-1])
        self.second: nn.Linear | None = None
        if generalist.network == "dual-head":
            self.second = cast("nn.Linear", copy.deepcopy(self.actor[-1]))
        self.register_buffer("blend", torch.tensor(0.0))
        self.fit(members[0])

    def fit(self, spec: EnvSpec) -> None:
        """Become another robot, one of those that it was made for or not: see `Layout.body`."""
        body = self.layout.body(spec)
        for name in ("columns", "features", "present", "dims", "rescale"):
            setattr(self, name, getattr(body, name).to(self.device))
        self.spec = spec

    @property
    def note(self) -> str:
        """See `ActorCritic.note`."""
        if self.layout.knows(self.spec):
            return ""
        robots = ", ".join(self.layout.robots)
        told = {
            "descriptor": f"told of by its {', '.join(self.layout.described)}",
            "one-hot": "told of by a one-hot of zeros",
            "none": "not told of",
        }[self.layout.embodiment]
        return f"zero-shot: {self.spec.embodiment.name} is not among the robots of this generalist ({robots}); {told}"

    def whiten(self, mean: Tensor, var: Tensor) -> None:
        """Fix what the state is whitened with, both [S]: one robot's observations must not change it for the others."""
        if self.state_normalizer is not None:
            self.state_normalizer.mean.copy_(mean)
            self.state_normalizer.var.copy_(var)
            self.state_normalizer.count.fill_(1)

    def observe(self, obs: Obs) -> None:
        """The normaliser stays as it is, see `whiten`."""

    def start(self, student: StudentConfig) -> None:
        """Begin to learn from a reward on the robot that it fits, exploring as a configuration says in that robot's range.

        Raises:
            ConfigError: see `renew_critic`.
        """
        self.renew_critic(student.asymmetric_critic)
        low = student.min_log_std
        target = student.init_log_std - self.rescale.log()
        fraction = ((target - low) / (MAX_LOG_STD - low)).clamp(0.01, 0.99)
        told = self.spread @ self.features
        self.config = self.config.model_copy(update={"init_log_std": student.init_log_std, "min_log_std": low})
        with torch.no_grad():
            self.log_std_logit.copy_(fraction.logit() - told)
            if self.second is not None:
                self.second.load_state_dict(self.actor[-1].state_dict())

    def set_progress(self, progress: float) -> None:
        """Set how much the second head counts, at a point of the training from a reward in [0, 1]."""
        if self.second is not None:
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
        policy.fit(description.spec)
        return policy

    def _read(self, obs: Obs) -> Tensor:
        return obs["state"] if _mixed(obs) else obs["state"][:, self.columns]

    def _state(self, obs: Obs) -> Tensor:
        present = self.of_present[obs[BODY]] if _mixed(obs) else self.present
        return super()._state(obs).masked_fill(~present, 0.0)

    def _hidden(self, features: Tensor, obs: Obs) -> Tensor:
        told = self._told(obs).expand(features.shape[0], -1)  # [N, E]
        x = torch.cat([features, told], dim=-1)
        return self.actor[:-1](x) if self.experts is None else self.experts(self.actor[:-1](x), told)

    def _distribution(self, hidden: Tensor, obs: Obs) -> ActionDistribution:
        raw = self.actor[-1](hidden)
        if self.second is None:
            return self._place(raw, obs)
        # mu = b mu_2 + (1 - b) mu_1 acts (DHO); a reward moves the second head, a teacher the first
        both = self.blend * self.second(hidden) + (1 - self.blend) * raw.detach()
        return replace(self._place(both, obs), taught=self._place(raw, obs))

    def _place(self, raw: Tensor, obs: Obs) -> ActionDistribution:
        """An action of the layout [N, A], in the range of each row's robot."""
        log_std = self._bounded(self.log_std_logit + self._told(obs) @ self.spread.T)
        if _mixed(obs):
            rescale = self.of_rescale[obs[BODY]]
            return ActionDistribution(raw * rescale, log_std + rescale.log(), self.discrete, self.of_own[obs[BODY]])
        rescale = self.rescale[self.dims]
        return ActionDistribution(raw[:, self.dims] * rescale, log_std[self.dims] + rescale.log(), self.discrete[self.dims])

    def _told(self, obs: Obs) -> Tensor:
        """What is known of the body: of each row [N, E], or of all [E]."""
        return self.of_features[obs[BODY]] if _mixed(obs) else self.features


class Experts(nn.Module):
    """A mixture of layers, h = sum_k g_k ELU(W_k x + b_k), g = softmax of what is known of the body: one g per robot.

    All weigh the same at the start. Jacobs et al. (1991); here the gate sees the body alone, not the observation.
    """

    def __init__(self, inputs: int, outputs: int, count: int, features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(init(nn.Linear(inputs, outputs)) for _ in range(count))
        self.gate = nn.Linear(features, count)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def weights(self, told: Tensor) -> Tensor:
        """How much each expert counts [N, K], given what is told of the body [N, E]: not negative, in sum 1."""
        return self.gate(told).softmax(-1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Mix the experts' answers to x [N, inputs]: [N, outputs]."""
        answers = torch.stack([F.elu(layer(x)) for layer in self.layers], dim=1)  # [N, K, outputs]
        return (self.weights(told)[:, :, None] * answers).sum(1)


def _mixed(obs: Obs) -> bool:
    return BODY in obs.keys()  # noqa: SIM118
