"""The distillation term, with what it needs checked before the run.

A divergence enters the loss: w(t) * mean_n[ g(n) D(n) ]. A score enters the advantage: w(t) * g(n) * A_D(n).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError
from rpd.batch import PREFIX, teacher_fields
from rpd.config import DistillConfig
from rpd.distill import bins
from rpd.distill.divergences import DIVERGENCES, Form
from rpd.distill.gates import GATES, Gate, GateContext
from rpd.distill.schedules import Schedule
from rpd.distill.scores import SCORES, opd_advantage
from students.distribution import ActionDistribution

FormT = TypeVar("FormT", Form, Gate)


class DistillObjective:
    """Composes one divergence, one gate and one schedule.

    Per iteration: `prepare` once, then `mean_divergence` (or `loss`) or `advantage` per minibatch, which never wait for the
    device.

    Attributes:
        wanted: fields of `TeacherOutput` that it reads.
        scores: whether the teacher acts through the advantage. The student then learns from what it tries, so it has to
            explore, also without a reward.
    """

    def __init__(
        self,
        config: DistillConfig,
        teacher: str,
        provides: Iterable[str],
        discrete: Sequence[bool],
        use_reward: bool = True,
        bin_edges: Tensor | None = None,
    ) -> None:
        """Check that the teacher provides what is asked for.

        Args:
            config: which divergence, gate and schedule.
            teacher: the teacher's name, for messages.
            provides: fields of `TeacherOutput` that the teacher fills (`Teacher.provides`).
            discrete: which action dimensions are discrete (`ActionSpec.discrete`).
            use_reward: False where D is the only loss (dagger): w then stays constant, as nothing else would be left.
            bin_edges: of the teacher's bins (`Teacher.bin_edges`), where it has any.

        Raises:
            ConfigError: naming what is needed, what the teacher provides, and what would work.
        """
        self.form, self.gate = choose(config, teacher, frozenset(provides))
        self.config = config if use_reward else config.model_copy(update={"schedule": "constant"})
        self.scores = config.divergence in SCORES
        self.wanted = self.form.needs | self.gate.needs
        self.schedule = Schedule(self.config)
        self._discrete = torch.tensor(list(discrete), dtype=torch.bool)
        self._bin_edges = bin_edges
        self._blur = torch.empty(0)
        if self.form.digest is not None:
            assert bin_edges is not None, "a teacher of bins has edges"
            self._blur = bins.blur_operator(bin_edges, config.bin_blur)
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
            batch: [M] with the teacher's fields, and for a score with ``action`` and ``log_prob``. Gets ``gate`` [M], what the
                form reads in place of bins, and for a score ``distill_advantage`` [M]; teacher values of rows that are
                not valid become 0, so that whatever they held cannot reach a gradient.
            progress: of the run, in [0, 1].
            context: what gates may know.
        """
        valid = batch[PREFIX + "valid"]
        self._digest(batch)
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
        if self.scores:
            self._score(batch)

    def mark(self, batch: TensorDict, context: GateContext) -> None:
        """Give a batch [M] its ``gate`` [M]."""
        teacher = teacher_fields(batch)
        batch["gate"] = self.gate.fn(teacher, self._discrete.to(teacher["valid"].device), context, self.config)

    def mean_divergence(self, student: ActionDistribution, minibatch: TensorDict) -> Tensor:
        """Return sum_n m g D / max(1, sum_n m g'), without the weight.

        m is `valid`; g' is 1, or g with `preserve_mean`: then a gate changes where is distilled, not how much.
        """
        divergence = self.form.fn(student.taught or student, teacher_fields(minibatch), self.config)
        mask = minibatch[PREFIX + "valid"].to(divergence.dtype)
        gated = mask * minibatch["gate"]
        return (gated * divergence).sum() / (gated if self.config.preserve_mean else mask).sum().clamp_min(1)

    def advantage(self, minibatch: TensorDict) -> Tensor:
        """Return g A_D of a score, 0 where nothing was labelled: [M], without the weight.

        With `preserve_mean` it is divided by the mean gate of the labelled rows of the batch.
        """
        return minibatch["distill_advantage"]

    def loss(self, student: ActionDistribution, minibatch: TensorDict) -> Tensor:
        """Return the weighted term."""
        return self.weight * self.mean_divergence(student, minibatch)

    def _digest(self, batch: TensorDict) -> None:
        """Replace bins by what the form reads, once per observation."""
        if self.form.digest is not None:
            logits = cast("Tensor", batch.pop(PREFIX + "bin_logits"))
            log_mass = bins.blur(logits, self._blur.to(logits.device), self.config.bin_floor)
            for name, value in self.form.digest(log_mass).items():
                batch[PREFIX + name] = value

    def _score(self, batch: TensorDict) -> None:
        """Leave the advantage that the teacher sees in each action, in place of what it said."""
        valid, gate, teacher = batch[PREFIX + "valid"], batch["gate"], teacher_fields(batch)
        for name in teacher.keys() - {"valid"}:
            batch.pop(PREFIX + name)
        if self._bin_edges is not None:
            teacher["bin_edges"] = self._bin_edges.to(valid.device)
        log_teacher = self.form.fn(batch["action"], self._discrete.to(valid.device), teacher, self.config)
        advantage, kl = opd_advantage(log_teacher, batch["log_prob"], valid, self.config.opd_clip)
        if self.config.preserve_mean:
            gate = gate / self._metrics["distill/gate"].clamp_min(1e-8)
        batch["distill_advantage"] = gate * advantage
        self._metrics["distill/divergence"] = kl

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


def choose(config: DistillConfig, teacher: str, provides: frozenset[str]) -> tuple[Form, Gate]:
    """The form of the divergence, and the gate: what they need is what is asked of the teacher and kept.

    Raises:
        ConfigError: see `DistillObjective`.
    """
    form = _choose("divergence", config.divergence, DIVERGENCES | SCORES, teacher, provides)
    return form, _choose("gate", config.gate, {name: [gate] for name, gate in GATES.items()}, teacher, provides)


def gradient_norms(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return (||a||, ||b||) as [2] and the cosine between a and b, each a list of tensors taken as one vector."""
    aa = torch.stack([x.square().sum() for x in a]).sum()
    bb = torch.stack([y.square().sum() for y in b]).sum()
    ab = torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
    return torch.stack([aa, bb]).sqrt(), ab / (aa * bb).sqrt().clamp_min(1e-12)


def _choose(kind: str, name: str, forms: Mapping[str, Sequence[FormT]], teacher: str, provides: frozenset[str]) -> FormT:
    """The first form that the teacher can serve."""
    served = {other for other, all_ in forms.items() if any(form.needs <= provides for form in all_)}
    if name not in served:
        missing = " or ".join(" and ".join(sorted(form.needs - provides)) for form in forms[name])
        raise ConfigError(
            f"{kind} {name} needs the teacher's {missing}, but teacher {teacher} provides only "
            f"{', '.join(sorted(provides))}; use {' or '.join(sorted(served)) or 'another teacher'}"
        )
    return next(form for form in forms[name] if form.needs <= provides)
