"""The teacher contract: a frozen policy that labels observations with a distribution over actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.specs import EnvSpec


@dataclass(frozen=True)
class Views:
    """Images that a teacher must see and a student need not: what to ask the environment for."""

    cameras: tuple[str, ...] = ()
    image_size: int | None = None
    """Height and width, pixels; None: the environment's own."""


@dataclass(frozen=True)
class Description:
    """A teacher for people, see `rpd teacher show`."""

    facts: dict[str, str]
    """In the order in which they are shown."""
    actions: list[dict[str, str]]
    """One row per action dimension, columns by name."""


@dataclass(frozen=True)
class Footprint:
    """The memory that a teacher will take, said before it is loaded."""

    weights: int
    """Bytes."""
    working: int
    """Bytes while it answers, and of what it remembers: an estimate."""
    label: dict[str, tuple[int, ...]]
    """Shapes of what it can answer to one observation, by field of `TeacherOutput`."""


@dataclass
class TeacherOutput:
    """A teacher's answer for N observations, in the environment's normalised action space.

    Discrete dimensions of `mean` hold 2p - 1, where p is the teacher's probability of +1.
    """

    mean: Tensor
    """[N, A] float32."""
    valid: Tensor
    """[N] bool: rows that were labelled; others are ignored by every loss."""
    std: Tensor | None = None
    """[N, A] standard deviation of the continuous dimensions."""
    samples: Tensor | None = None
    """[N, S, A]."""
    bin_logits: Tensor | None = None
    """[N, A, B] log-probabilities of the B bins of each dimension, whose edges are `Teacher.bin_edges`."""
    log_prob: Tensor | None = None
    """[N] log-density of the student's action; discrete dimensions count with the probability of their sign."""

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are present, by name: what a rollout stores."""
        return {k: v for k, v in vars(self).items() if v is not None}


class Teacher(ABC):
    """A frozen policy. It never learns; its tensors are bit-identical after training.

    Attributes:
        name: the string that `teachers.registry.make` built it from.
        provides: fields of `TeacherOutput` that it can fill, e.g. ``{"mean", "std"}``. A divergence or a gate
            names the fields that it needs, and a mismatch fails before the run starts.
    """

    name: str
    provides: frozenset[str]
    looks: bool = False
    """Whether its observations hold ``view.<camera>`` images (`envs.base.VectorEnv.look`). Where the student has the same
    camera at the same size, it is found under ``image.<camera>`` instead."""
    bin_edges: Tensor | None = None
    """[A, B + 1] ascending edges of the bins of `TeacherOutput.bin_logits`, in the environment's normalised action space."""

    elsewhere: bool = False
    """Whether it computes in another process, so that asking it leaves this one free."""

    wants_all: bool = False
    """Whether it remembers environments by their row: it then has to be asked about each of them at every step."""

    _wanted: frozenset[str] | None = None

    @property
    def wanted(self) -> frozenset[str]:
        """Fields of `provides` that the run reads; until it says so, all. Others are not stored.

        A teacher may leave out the others where they cost something. `mean` is always there, but where it is not wanted it
        may be any finite action, except in a label without `student_action`, as when the teacher acts.
        """
        return self.provides if self._wanted is None else self._wanted

    @wanted.setter
    def wanted(self, fields: frozenset[str]) -> None:
        self._wanted = frozenset(fields)

    @abstractmethod
    def check_env(self, spec: EnvSpec) -> None:
        """Refuse an environment that this teacher cannot act in.

        Raises:
            SpecMismatch: naming both sides.
        """

    @abstractmethod
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Say what the teacher would do.

        Args:
            obs: [N] observations.
            instructions: N strings.
            student_action: [N, A] that the student takes, not clipped, for teachers that provide ``log_prob``; without it
                they leave it out.
        """

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Act in the environment [N, A], as in evaluation: the mean, discrete dimensions by sign."""
        return self.label(obs, instructions).mean

    def reset(self, mask: Tensor) -> None:  # noqa: B027  (most teachers have no memory)
        """Forget what belongs to the episodes of environments where mask [N] is True."""

    def seed(self, seed: int) -> None:  # noqa: B027  (most teachers are deterministic)
        """Make what is random about the teacher reproducible."""

    def state_dict(self) -> dict[str, Tensor]:
        """Memory and random state that an exact resume needs; not the weights."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Restore `state_dict`."""

    def weights(self) -> dict[str, Tensor]:
        """The frozen tensors, for the check that they stay frozen."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where the teacher computes."""
        return torch.device("cpu")
