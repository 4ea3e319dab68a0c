"""The distillation objective: a divergence, a gate and a schedule, checked against the teacher's outputs before the run.

It is added to the loss: w(t) * mean_n[ g(n) D(n) ].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.algorithms.distillation import binned, opd
from rpd.algorithms.distillation.choice import first_supported
from rpd.algorithms.distillation.divergences import DIVERGENCES, DivergenceVariant
from rpd.algorithms.distillation.gate_product import GateProduct
from rpd.algorithms.distillation.gates import BEHAVIOR, GateContext, Rows, behavior_of
from rpd.algorithms.distillation.moving_target import MovingTarget
from rpd.algorithms.distillation.schedules import Schedule
from rpd.config.schema import DistillConfig
from rpd.core.distributed import SOLO, World
from rpd.envs.errors import ConfigError
from rpd.students.networks.distribution import ActionDistribution


class DistillObjective:
    """Distillation term of one divergence, one gate and one schedule.

    Per iteration: `prepare` once, then `mean_divergence` or `loss` per minibatch; these never synchronize with the device.

    Attributes:
        requested_fields: fields of `TeacherOutput` that the objective reads.
        samples_actions: whether the student learns from its sampled actions (opd). It then explores, also without a reward.
        keeps: fields of the batch that the collector stores for the objective, see `rpd.rollout.collector.Collector`.
    """

    def __init__(
        self,
        config: DistillConfig,
        teacher: str,
        output_fields: Iterable[str],
        discrete: Sequence[bool],
        use_reward: bool = True,
        bin_edges: Tensor | None = None,
        world: World = SOLO,
    ) -> None:
        """Check that the teacher provides the required fields.

        Args:
            config: names the divergence, the gate and the schedule.
            teacher: the teacher's name, for error messages.
            output_fields: fields of `TeacherOutput` that the teacher fills (`Teacher.output_fields`).
            discrete: which action dimensions are discrete (`ActionSpec.discrete`).
            use_reward: False if D is the only loss (dagger): w is then constant.
            bin_edges: edges of the teacher's bins (`Teacher.bin_edges`), or None.
            world: ranks of the run, over which means are taken.

        Raises:
            ConfigError: names the missing fields, the provided ones, and divergences or gates that would work.
        """
        self.variant, self.gate = choose(config, teacher, frozenset(output_fields), use_reward)
        if self.variant.in_ratio and not use_reward:
            raise ConfigError(
                f"divergence {config.divergence} changes the ratio of the reward's surrogate, and algorithm dagger has no "
                "reward: use algorithm rpd, or divergence opd or adpo"
            )
        if config.reward_points and not use_reward:
            raise ConfigError(
                "distill.reward_points weighs the reward's surrogate, and algorithm dagger has no reward: leave it out"
            )
        if self.variant.check is not None:
            self.variant.check(config)
        self.config = config if use_reward else config.model_copy(update={"schedule": "constant", "points": ""})
        self.samples_actions = self.variant.score is not None
        self.requested_fields = self.variant.needs | self.gate.needs
        self.keeps = kept_fields(config, self.variant, self.gate)
        self.schedule = Schedule(self.config)
        self._discrete = torch.tensor(list(discrete), dtype=torch.bool)
        self._bin_edges, self._world = bin_edges, world
        self._blur = torch.empty(0)
        if self.variant.precompute is not None:
            assert bin_edges is not None, "a teacher with bins has bin edges"
            self._blur = binned.blur_operator(bin_edges, config.bin_smoothing_std)
        self._metrics: dict[str, Tensor] = {}
        self._reward_weight = 1.0
        if config.target == "taid" and not self.variant.needs <= {"mean", "std", "bin_logits"}:
            raise ConfigError(
                f"target taid moves a teacher's mean, std or bins, but divergence {config.divergence} reads "
                f"{', '.join(sorted(self.variant.needs))}: use target teacher, or divergence mse"
            )
        self.target = MovingTarget(config, bin_edges) if config.target == "taid" else None
        self._losses: list[Tensor] = []  # of the last update, for the target

    @property
    def weight(self) -> Tensor:
        """Current w, a scalar tensor."""
        return self.schedule.weight

    def active(self, step: int) -> bool:
        """Return whether the term has an effect now or later; otherwise the teacher is not queried any more."""
        return self.schedule.active(step) or self.schedule.reward_weight(step) < 1

    def weigh_reward(self, surrogate: Tensor) -> Tensor:
        """Return PPO's surrogate with its weight, see `reward_points`."""
        return surrogate if self._reward_weight == 1 else self._reward_weight * surrogate

    def prepare(
        self, batch: TensorDict, step: int, context: GateContext, generator: torch.Generator | None = None
    ) -> TensorDict:
        """Start an iteration: compute the gate, precompute teacher fields, and set the weight.

        Args:
            batch: [M] with the teacher's fields in ``teacher`` (nested), and with `samples_actions` what
                `rpd.algorithms.distillation.opd.targets_of` reads.
            step: environment steps of the run so far.
            context: success rates, for gates, and the number of environments.
            generator: draws the student's actions (`samples_actions`), in the same state on all ranks; None: the global one.

        Returns:
            Targets [M] of the update: ``valid``, ``gate`` and what the variant reads. Values of rows that are not valid cannot
            reach a gradient.
        """
        teacher = batch["teacher"]
        if self.target is not None:
            self.target.advance(step, self._world.sum(torch.stack(self._losses).mean()) if self._losses else None)
            self._losses.clear()
            teacher = self.target.between(teacher, behavior_of(batch, self._discrete.to(teacher["valid"].device)))
        targets = self._precomputed(teacher)
        valid = targets["valid"]
        for name, value in targets.items():
            if isinstance(value, Tensor) and name != "valid" and value.is_floating_point():
                targets[name] = value.where(_rows_like(valid, value), 0.0)
        targets["gate"] = self.compute_gate(batch, context)
        self.schedule.begin(step, valid.device)
        self._reward_weight = self.schedule.reward_weight(step)
        gate = (targets["gate"] * valid).sum()
        sums = torch.stack([gate, valid.to(gate.dtype).sum(), gate.new_tensor(valid.numel())])
        gate, labeled, rows = self._world.sum(sums).unbind()
        self._metrics = {"distill/gate": gate / labeled.clamp_min(1), "distill/label_fraction": labeled / rows}
        if self.samples_actions:
            share = self._world.share(context.num_envs * self._world.size)
            draw = partial(opd.draw_actions, num_envs=context.num_envs, generator=generator, share=share)
            targets = self._scored(batch, targets, draw)
        if self.gate.is_live:
            targets["executed"] = batch.select("action", "log_prob")
        return targets

    def compute_gate(self, batch: TensorDict, context: GateContext) -> Tensor:
        """Return the gate [M] of a batch [M], 0 in rows that are not valid."""
        teacher = _fields(batch["teacher"])
        valid = teacher["valid"]
        known = {name: teacher[name].where(_rows_like(valid, teacher[name]), 0.0) for name in self.gate.needs}
        discrete = self._discrete.to(valid.device)
        return self.gate.compute(
            Rows({"valid": valid, **known}, batch, discrete, context, self.config, self._bin_edges, self._world)
        )

    @property
    def adds_loss(self) -> bool:
        """Whether `mean_divergence` is a loss; otherwise the teacher enters `log_ratio` only."""
        return not self.variant.in_ratio

    def log_ratio(self, log_ratio: Tensor, targets: TensorDict) -> Tensor:
        """Return the log-ratio [M] for PPO's surrogate: that of the policies, shifted by w g ``log_offset`` without a loss.

        With `normalize_gate`, g is divided by its mean over the labeled rows of the batch.
        """
        if self.adds_loss:
            return log_ratio
        gate = targets["gate"]
        if self.config.normalize_gate:
            gate = gate / self._metrics["distill/gate"].clamp_min(1e-8)
        return log_ratio + self.weight * gate * targets["log_offset"]

    def mean_divergence(self, student: ActionDistribution, targets: TensorDict, mass: Tensor | None = None) -> Tensor:
        """Return sum_n m g D / max(1, sum_n m g'), without the weight.

        m is `valid`. g' is 1, or g with `normalize_gate`: the gate then changes where to distill, not how much.

        Args:
            student: distribution [M].
            targets: see `prepare`, [M].
            mass: the denominator, if other ranks have further rows; None: that of these rows, see `mass`.
        """
        compared = student if self.samples_actions or student.imitation is None else student.imitation
        divergence = self.variant.fn(compared, _fields(targets), self.config)
        valid, gate = targets["valid"], targets["gate"]
        if self.gate.is_live:
            executed = targets["executed"]
            divergence = divergence * self.gate.live(student, executed["action"], executed["log_prob"], self.config)
        mean = (valid * gate * divergence).sum() / (self.mass(valid, gate) if mass is None else mass).clamp_min(1)
        if self.target is not None:
            self._losses.append(mean.detach())
        return mean

    def mass(self, valid: Tensor, gate: Tensor) -> Tensor:
        """Return sum_n m g' of `mean_divergence`, a scalar."""
        return (valid * gate if self.config.normalize_gate else valid.to(gate.dtype)).sum()

    def loss(self, student: ActionDistribution, targets: TensorDict) -> Tensor:
        """Return the weighted term."""
        return self.weight * self.mean_divergence(student, targets)

    def _precomputed(self, teacher: TensorDict) -> TensorDict:
        """Return teacher fields [M] with the bins replaced by the fields that the variant reads, once per observation."""
        if self.variant.precompute is None:
            return teacher.copy()
        logits = teacher["bin_logits"]
        log_mass = binned.blur(logits, self._blur.to(logits.device), self.config.uniform_mix)
        return teacher.exclude("bin_logits").update(self.variant.precompute(log_mass))

    def _scored(self, batch: TensorDict, teacher: TensorDict, draw: Callable[[ActionDistribution, int], Tensor]) -> TensorDict:
        """Return targets [M] with actions and their advantages in place of the teacher's fields."""
        valid, fields = teacher["valid"], _fields(teacher)
        if self._bin_edges is not None:
            fields["bin_edges"] = self._bin_edges.to(valid.device)
        discrete = self._discrete.to(valid.device)
        inputs = (batch, fields, self.variant, discrete, self.config, self._world.sum)
        scored, kl = opd.targets_of(*inputs, draw) if self.variant.targets is None else self.variant.targets(*inputs)
        self._metrics["distill/divergence"] = kl
        return TensorDict({"valid": valid, "gate": teacher["gate"], **scored}, teacher.batch_size)

    def observe(self, grad_distill: Sequence[Tensor], grad_reward: Sequence[Tensor]) -> None:
        """Compare the gradients of D (unweighted) and of the RL loss on one minibatch, before the weight is used.

        Args:
            grad_distill: gradients with respect to the parameters that D reaches.
            grad_reward: gradients of the RL loss with respect to the same parameters.
        """
        norms, cosine = gradient_norms(grad_distill, grad_reward)
        self.schedule.observe(norms)
        self._metrics["distill/grad_ratio"] = self.weight * norms[0] / norms[1].clamp_min(1e-12)
        self._metrics["distill/grad_cosine"] = cosine

    def metrics(self) -> dict[str, Tensor]:
        """Return this iteration's scalars by name."""
        target = {} if self.target is None else {"distill/target": self.target.t}
        return {"distill/weight": self.weight, **self._metrics, **target}

    def state_dict(self) -> dict[str, float]:
        """Return the state of schedule and gates for a resume, as JSON numbers."""
        target = {} if self.target is None else self.target.state_dict()
        return self.schedule.state_dict() | self.gate.state_dict() | target

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore `state_dict`."""
        if self.target is not None:
            self.target.load_state_dict(state)
            state = {name: value for name, value in state.items() if not name.startswith("target.")}
        own = self.gate.state_dict()
        self.gate.load_state_dict({name: value for name, value in state.items() if name in own})
        self.schedule.load_state_dict({name: value for name, value in state.items() if name not in own})


def choose(
    config: DistillConfig, teacher: str, output_fields: frozenset[str], use_reward: bool = True
) -> tuple[DivergenceVariant, GateProduct]:
    """Choose the variants of the divergence and of the gates that the teacher supports.

    Raises:
        ConfigError: see `DistillObjective`.
    """
    variants: Mapping[str, Sequence[DivergenceVariant]] = DIVERGENCES
    if config.opd_teacher_score:
        if config.divergence != "opd":
            raise ConfigError(f"distill.opd_teacher_score belongs to divergence opd, but divergence is {config.divergence}")
        variants = DIVERGENCES | {"opd": [variant for variant in DIVERGENCES["opd"] if "log_prob" in variant.needs]}
    variant = first_supported("divergence", config.divergence, variants, teacher, output_fields)
    return variant, GateProduct(config, teacher, output_fields, use_reward)


def kept_fields(config: DistillConfig, variant: DivergenceVariant, gate: GateProduct) -> frozenset[str]:
    """Fields of the batch that divergence, target and gates read, beyond those that the collector always stores."""
    return gate.keeps if variant.score is None and config.target == "teacher" else gate.keeps | {BEHAVIOR}


def _fields(teacher: TensorDict) -> dict[str, Tensor]:
    """Teacher fields by their names in `TeacherOutput`."""
    return cast("dict[str, Tensor]", dict(teacher.items()))


def gradient_norms(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return (||a||, ||b||) as [2] and the cosine between a and b, each a list of tensors taken as one vector."""
    aa = torch.stack([x.square().sum() for x in a]).sum()
    bb = torch.stack([y.square().sum() for y in b]).sum()
    ab = torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
    return torch.stack([aa, bb]).sqrt(), ab / (aa * bb).sqrt().clamp_min(1e-12)


def _rows_like(valid: Tensor, value: Tensor) -> Tensor:
    """Valid [M] in a shape that broadcasts with a value [M, ...]."""
    return valid.view(-1, *[1] * (value.ndim - 1))
