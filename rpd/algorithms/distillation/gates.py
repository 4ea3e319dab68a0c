"""g(n) in [0, 1]: weights of observations in the distillation term, computed once per rollout from stored quantities.

Several gates are multiplied. This file has those that read the teacher's confidence and success rates; those of episodes and of
the reward are in `rpd.algorithms.distillation.episode_gates` and `rpd.algorithms.distillation.reward_gates`.

A teacher's confidence is its standard deviation per dimension, whatever kind it is: that of a Gaussian, of its samples, or of
its bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.algorithms.distillation.divergences import bernoulli_entropy, probability
from rpd.config import gates
from rpd.config.schema import DistillConfig
from rpd.core.distributed import SOLO, World
from rpd.envs.errors import ConfigError
from rpd.students.networks.distribution import ActionDistribution

MARGIN = 0.1
"""success-surpassed: relative lead of the student at which the gate reaches zero."""
MIN_SUCCESS = 0.01
"""success-surpassed: lower bound of the teacher's success rate in the denominator."""
EPISODES, BEHAVIOR = "success", "behavior"
"""Fields of the batch that the collector stores only if a gate reads them."""


def behavior_of(batch: TensorDict, discrete: Tensor) -> ActionDistribution:
    """Distribution [M] that the actions of a batch [M] were drawn from; `discrete` is [A] bool."""
    return ActionDistribution(batch[BEHAVIOR, "raw"], batch[BEHAVIOR, "log_std"], discrete)


@dataclass(frozen=True)
class GateContext:
    """State of the run that a gate may read."""

    teacher_success: float | None = None
    """The teacher's success rate in [0, 1], evaluated before the run on the episodes of the learning curve."""
    student_success: float | None = None
    """The student's success rate in the newest evaluation; None before the first."""
    num_envs: int = 1
    """Environments N of the batch, whose row t N + n is step t of environment n."""


@dataclass(frozen=True)
class Rows:
    """One batch of M rows, for gates."""

    teacher: dict[str, Tensor]
    """Fields of `TeacherOutput` and ``valid``, [M, ...]; 0 in rows that are not valid."""
    batch: TensorDict
    """The rollout [M]."""
    discrete: Tensor
    """[A] bool."""
    context: GateContext
    config: DistillConfig
    bin_edges: Tensor | None = None
    """[A, B + 1] of a teacher with bins."""
    world: World = SOLO

    @property
    def valid(self) -> Tensor:
        """[M] bool: rows that the teacher has labeled."""
        return self.teacher["valid"]

    @property
    def student(self) -> ActionDistribution:
        """Distribution [M] that the actions were drawn from."""
        return behavior_of(self.batch, self.discrete)

    def continuous_mean(self, x: Tensor) -> Tensor:
        """Mean of x [M, A] over the continuous dimensions: [M]."""
        return x.masked_fill(self.discrete, 0.0).sum(-1) / (~self.discrete).sum().clamp_min(1)


@dataclass(frozen=True)
class GateVariant:
    """One variant of a gate."""

    fn: Callable[..., Tensor]
    """`fn(rows) -> [M]`; with `state`, `fn(rows, state)`; with `live`, `fn(student, action, old_log_prob, config)`."""
    needs: frozenset[str] = frozenset()
    """Fields of `TeacherOutput` that `fn` reads."""
    keeps: frozenset[str] = frozenset()
    """Fields of the batch that the collector stores for it: `EPISODES`, `BEHAVIOR`."""
    needs_reward: bool = False
    """Whether `fn` reads the reward's advantage."""
    needs_success: bool = False
    """Whether `fn` reads the teacher's success rate, which is evaluated before the run."""
    live: bool = False
    """Whether it depends on the student as it is updated: computed per minibatch, without gradient."""
    state: tuple[str, ...] = ()
    """Names of the scalars that `fn` keeps from batch to batch; each starts at 0."""


GATES: dict[str, list[GateVariant]] = gates.GATES
"""Variants by name, the preferred one first."""


def register(name: str, *needs: str, keeps: tuple[str, ...] = (), **properties: Any) -> Callable:
    """Decorator that adds a variant of a gate; arguments as the fields of `GateVariant`."""

    def add(fn: Callable) -> Callable:
        GATES[name].append(GateVariant(fn, frozenset(needs), frozenset(keeps), **properties))
        return fn

    return add


def register_spread(name: str, keeps: tuple[str, ...] = (), state: tuple[str, ...] = ()) -> Callable:
    """Decorator that adds a variant per kind of teacher for `fn(rows, std, [state])`, std [M, A] its standard deviation."""

    def add(fn: Callable) -> Callable:
        for needs, spread in SPREADS:

            def gate(rows: Rows, *state: dict[str, Tensor], spread: Callable[[Rows], Tensor] = spread) -> Tensor:
                return fn(rows, spread(rows), *state)

            GATES[name].append(GateVariant(gate, frozenset(needs), frozenset(keeps), state=state))
        return fn

    return add


def _bin_std(rows: Rows) -> Tensor:
    assert rows.bin_edges is not None, "a teacher with bins has bin edges"
    edges = rows.bin_edges.to(rows.valid.device)
    centres, mass = (edges[:, 1:] + edges[:, :-1]) / 2, rows.teacher["bin_logits"].softmax(-1)  # softmax: 0 where not valid
    mean = (mass * centres).sum(-1, keepdim=True)
    return (mass * (centres - mean).square()).sum(-1).sqrt()


SPREADS: tuple[tuple[tuple[str, ...], Callable[[Rows], Tensor]], ...] = (
    (("mean", "std"), lambda rows: rows.teacher["std"]),
    (("mean", "samples"), lambda rows: rows.teacher["samples"].std(-2, correction=0)),
    (("mean", "bin_logits"), _bin_std),
)
"""Standard deviation [M, A] of the continuous dimensions of each kind of teacher, with the fields that it reads."""


@register("success-surpassed", needs_success=True)
def success_surpassed(rows: Rows) -> Tensor:
    """Fade out as the student overtakes its teacher: g = clip((SR_T - SR_S) / SR_T + margin, 0, 1).

    A weak teacher helps most while the student explores, so the gate is open at the start. Later, a constant pull towards a
    teacher with a success rate of 10 % would hold back a student that is better.

    Raises:
        ConfigError: the teacher's success rate was not measured.
    """
    teacher, student = rows.context.teacher_success, rows.context.student_success or 0.0
    if teacher is None:
        raise ConfigError("gate success-surpassed needs the teacher's success rate: evaluate the teacher before the run")
    ahead = (teacher - student) / max(teacher, MIN_SUCCESS)
    return torch.full_like(rows.valid, min(max(ahead + MARGIN, 0.0), 1.0), dtype=torch.float32)


@register_spread("entropy")
def entropy(rows: Rows, std: Tensor) -> Tensor:
    """Distill where the teacher is confident: g = exp(-beta H_T), as SRPO (arXiv 2604.02288) weights its teacher.

    H_T is the mean over dimensions of an entropy in nats that is zero for a confident teacher: for a Gaussian the excess over
    the entropy at the minimum standard deviation, log(max(s, min) / min); for a Bernoulli H(p). `normalize_gate` divides g by
    its mean.
    """
    return torch.exp(-rows.config.gate_beta * _entropies(rows, std).mean(-1))


@register_spread("relative-entropy", keeps=(BEHAVIOR,))
def relative_entropy(rows: Rows, std: Tensor) -> Tensor:
    """Distill where the teacher is surer than the student: g = sigmoid(H_S - H_T), as TSD-KD (arXiv 2603.13260).

    Entropies as in `entropy`, each a mean over dimensions.
    """
    student = rows.student
    bernoulli = bernoulli_entropy(student.logits.sigmoid())
    floor = rows.config.min_teacher_std
    own = torch.where(rows.discrete, bernoulli, (student.std.clamp_min(floor) / floor).log())
    return (own - _entropies(rows, std)).mean(-1).sigmoid()


@register_spread("confidence")
def confidence(rows: Rows, std: Tensor) -> Tensor:
    """Distill where the teacher's samples agree: g = clip(1 - mean_d s² / c², 0, 1), c = `gate_std`.

    Sample consistency, the confidence of a model that can only be sampled (arXiv 2306.13063).
    """
    return (1 - rows.continuous_mean(std.square()) / rows.config.gate_std**2).clamp(0, 1)


def _entropies(rows: Rows, std: Tensor) -> Tensor:
    """The teacher's entropy per dimension [M, A], 0 for a confident one."""
    floor = rows.config.min_teacher_std
    return torch.where(rows.discrete, bernoulli_entropy(probability(rows.teacher)), (std.clamp_min(floor) / floor).log())
