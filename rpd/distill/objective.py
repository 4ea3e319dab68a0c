"""The distillation term of the loss: w(t) * mean_n[ g(n) D(n) ], with what it needs checked before the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError
from rpd.batch import PREFIX, teacher_fields
from rpd.config import DistillConfig
from rpd.distill.divergences import DIVERGENCES
from rpd.distill.gates import GATES, GateContext
from rpd.distill.schedules import Schedule
from students.distribution import ActionDistribution


class DistillObjective:
    """Composes one divergence, one gate and one schedule.

    Per iteration: `prepare` once, then `mean_divergence` (or `loss`) per minibatch, which never waits for the device.
    """

    def __init__(
        self,
        config: DistillConfig,
        teacher: str,
        provides: Iterable[str],
        discrete: Sequence[bool],
        use_reward: bool = True,
    ) -> None:
        """Check that the teacher provides what is asked for.

        Args:
            config: which divergence, gate and schedule.
            teacher: the teacher's name, for messages.
            provides: fields of `TeacherOutput` that the teacher fills (`Teacher.provides`).
            discrete: which action dimensions are discrete (`ActionSpec.discrete`).
            use_reward: False where D is the only loss (dagger): w then stays constant, as nothing else would be left.

        Raises:
            ConfigError: naming what is needed, what the teacher provides, and what would work.
        """
        provides = frozenset(provides)
        _check("divergence", config.divergence, {d.name: d.needs for d in DIVERGENCES.values()}, teacher, provides)
        _check("gate", config.gate, {g.name: g.needs for g in GATES.values()}, teacher, provides)
        self.config = config if use_reward else config.model_copy(update={"schedule": "constant"})
        self.divergence = DIVERGENCES[config.divergence]
        self.gate = GATES[config.gate]
        self.schedule = Schedule(self.config)
        self._discrete = torch.tensor(list(discrete), dtype=torch.bool)
        self._metrics: dict[str, Tensor] = {}

    @property
    def weight(self) -> Tensor:
        """The current w, a scalar tensor."""
        return self.schedule.weight

    def active(self, progress: float) -> bool:
        """Return False once w is zero for the rest of the run: the teacher need not be asked any more."""
        return self.schedule.active(progress)

    def prepare(self, batch: TensorDict, progress: float, context: GateContext) -> None:
        """Start an iteration: clean and gate the batch, and set the weight.

        Args:
            batch: [M] with the teacher's fields. Gets ``gate`` [M]; teacher values of rows that are not valid become 0,
                so that whatever they held cannot reach a gradient.
            progress: of the run, in [0, 1].
            context: what gates may know.
        """
        valid = batch[PREFIX + "valid"]
        for name, value in teacher_fields(batch).items():
            if name != "valid" and value.is_floating_point():
                batch[PREFIX + name] = value.where(valid.view(-1, *[1] * (value.ndim - 1)), 0.0)
        self.mark(batch, context)
        self.schedule.begin(progress, valid.device)
        labelled = valid.sum()
        self._metrics = {
            "distill/gate": (batch["gate"] * valid).sum() / labelled.clamp_min(1),
            "distill/labelled": labelled / valid.numel(),
        }

    def mark(self, batch: TensorDict, context: GateContext) -> None:
        """Give a batch [M] its ``gate`` [M]."""
        teacher = teacher_fields(batch)
        batch["gate"] = self.gate.fn(teacher, self._discrete.to(teacher["valid"].device), context, self.config)

    def mean_divergence(self, student: ActionDistribution, minibatch: TensorDict) -> Tensor:
        """Return sum_n m g D / max(1, sum_n m g'), without the weight.

        m is `valid`; g' is 1, or g with `preserve_mean`: then a gate changes where is distilled, not how much.
        """
        divergence = self.divergence.fn(student, teacher_fields(minibatch), self.config)
        mask = minibatch[PREFIX + "valid"].to(divergence.dtype)
        gated = mask * minibatch["gate"]
        return (gated * divergence).sum() / (gated if self.config.preserve_mean else mask).sum().clamp_min(1)

    def loss(self, student: ActionDistribution, minibatch: TensorDict) -> Tensor:
        """Return the weighted term."""
        return self.weight * self.mean_divergence(student, minibatch)

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
        return {"distill/weight": self.weight, **self._metrics}

    def state_dict(self) -> dict[str, float]:
        """Return what a resume needs, as JSON numbers."""
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore `state_dict`."""
        self.schedule.load_state_dict(state)


def gradient_norms(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return (||a||, ||b||) as [2] and the cosine between a and b, each a list of tensors taken as one vector."""
    aa = torch.stack([x.square().sum() for x in a]).sum()
    bb = torch.stack([y.square().sum() for y in b]).sum()
    ab = torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
    return torch.stack([aa, bb]).sqrt(), ab / (aa * bb).sqrt().clamp_min(1e-12)


def _check(kind: str, name: str, needs: dict[str, frozenset[str]], teacher: str, provides: frozenset[str]) -> None:
    missing = needs[name] - provides
    if missing:
        fitting = sorted(other for other, fields in needs.items() if fields <= provides)
        raise ConfigError(
            f"{kind} {name} needs the teacher's {' and '.join(sorted(missing))}, but teacher {teacher} provides only "
            f"{', '.join(sorted(provides))}; use {' or '.join(fitting) if fitting else 'another teacher'}"
        )
