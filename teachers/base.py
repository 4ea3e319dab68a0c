"""Interface of teachers: frozen policies that label observations with a distribution over actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.specs import ActionSpec, EnvSpec
from rpd.students.networks.distribution import executed


@dataclass(frozen=True)
class CameraRequest:
    """Cameras that a teacher reads: what to configure in the environment."""

    cameras: tuple[str, ...] = ()
    image_size: int | None = None
    """Height and width, pixels; None: those of the environment's configuration."""


@dataclass(frozen=True)
class Input:
    """Description of one input of a teacher's model."""

    name: str
    """Name in the model, e.g. image_primary or observation/state."""
    source: str
    """Source, e.g. view.front, or the names of the state entries."""
    sent: str
    """Content: size, crop, units, the whole text."""


@dataclass(frozen=True)
class Description:
    """Description of a teacher for users, see `rpd teacher show`; `facts` depend on the family."""

    facts: dict[str, str]
    """Facts in display order."""
    actions: list[dict[str, str]]
    """One row per action dimension, columns by name: see `rpd.teachers.vla.action_table.action_rows`."""
    inputs: list[Input] = field(default_factory=list)
    """All inputs of its model, see `rpd.teachers.inputs`."""
    refusal: str | None = None
    """Reason for which a run with it would be refused; None: none."""


@dataclass(frozen=True)
class Footprint:
    """Memory estimate of a teacher, available before it is loaded."""

    weights: int
    """Bytes of the weights."""
    working: int
    """Bytes of activations and of its memory, an estimate."""
    label: dict[str, tuple[int, ...]]
    """Shapes of the label of one observation, by field of `TeacherOutput`."""


@dataclass
class TeacherOutput:
    """A teacher's labels of N observations, in the environment's normalized action space.

    Discrete dimensions of `mean` contain 2p - 1, where p is the teacher's probability of +1.
    """

    mean: Tensor
    """[N, A] float32."""
    valid: Tensor
    """[N] bool: labeled rows; all losses ignore the others."""
    std: Tensor | None = None
    """[N, A] standard deviation of the continuous dimensions."""
    samples: Tensor | None = None
    """[N, S, A]."""
    bin_logits: Tensor | None = None
    """[N, A, B] log-probabilities of the B bins of each dimension, with edges `Teacher.bin_edges`."""
    log_prob: Tensor | None = None
    """[N, A] log-density of the student's action in each dimension, given its previous dimensions if the teacher's depend on
    each other; in discrete dimensions the log-probability of its sign."""

    def tensors(self) -> dict[str, Tensor]:
        """Fields that are present, by name, as stored in a rollout."""
        return {k: v for k, v in vars(self).items() if v is not None}


class Teacher(ABC):
    """A frozen policy: training never changes its tensors.

    Attributes:
        name: the string that `rpd.teachers.registry.make` built it from.
        output_fields: fields of `TeacherOutput` that it can fill, e.g. ``{"mean", "std"}``. Divergences and gates declare the
            fields they need; a mismatch is an error before the run starts.
    """

    name: str
    output_fields: frozenset[str]
    needs_teacher_images: bool = False
    """Whether its observations include ``view.<camera>`` images (`VectorEnv.teacher_images`). If the student has the same
    camera at the same size, the image is under ``image.<camera>`` instead."""
    bin_edges: Tensor | None = None
    """[A, B + 1] ascending edges of the bins of `TeacherOutput.bin_logits`, in the environment's normalized action space."""

    runs_remotely: bool = False
    """Whether it computes in another process, so that queries leave this one free."""

    is_stateful: bool = False
    """Whether it has memory per row: every environment must then be queried at every step."""

    space: ActionSpec | None = None
    """Action space of its labels; set by `rpd.teachers.registry.make`."""

    rows_at_once: int = 256
    """Maximum number of observations per call in a server, which then serves other clients."""

    _requested_fields: frozenset[str] | None = None

    @property
    def requested_fields(self) -> frozenset[str]:
        """Fields of `output_fields` that the run reads; all, unless set. Other fields are not stored.

        A teacher may omit the others if they are expensive. `mean` is always present, but if it is not requested it may be any
        finite action, except in a label without `student_action`, as used for acting.
        """
        return self.output_fields if self._requested_fields is None else self._requested_fields

    @requested_fields.setter
    def requested_fields(self, fields: frozenset[str]) -> None:
        self._requested_fields = frozenset(fields)

    @abstractmethod
    def check_env(self, spec: EnvSpec) -> None:
        """Refuse an environment that this teacher cannot act in.

        Raises:
            SpecMismatch: names both sides.
        """

    def check_instructions(self, instructions: Iterable[str]) -> None:  # noqa: B027  (most teachers read none)
        """Refuse instructions that this teacher cannot read, before any computation or change of memory.

        Raises:
            ConfigError: names the first one.
        """

    @abstractmethod
    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Label observations with the teacher's action distribution.

        Args:
            obs: [N] observations.
            instructions: N strings.
            student_action: [N, A] action of the student, not clipped; needed for ``log_prob``, which is omitted without it.
        """

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Return actions [N, A] as in evaluation: the mean, clipped, and -1 or +1 in discrete dimensions.

        Labels are soft in discrete dimensions (2p - 1), which a gripper would execute as half-open.
        """
        assert self.space is not None, f"teacher {self.name} has no action space: build it with rpd.teachers.registry.make"
        mean = self.label(obs, instructions).mean
        return executed(mean, torch.tensor(self.space.discrete, device=mean.device))

    def reset(self, mask: Tensor) -> None:  # noqa: B027  (most teachers have no memory)
        """Clear memory of environments where mask [N] is True: their episodes ended."""

    def seed(self, seed: int) -> None:  # noqa: B027  (most teachers are deterministic)
        """Seed the random state."""

    @property
    def reads_observations(self) -> bool:
        """Whether it reads the student's observations; a teacher with its own cameras reads only these and the state."""
        return not self.needs_teacher_images

    @property
    def has_memory(self) -> bool:
        """Whether labels depend on earlier observations of the episode, so that `reset` matters."""
        return type(self).reset is not Teacher.reset

    def new_session(self) -> Teacher | None:
        """Return a teacher with the same weights, but its own memory and random state, as when it was built.

        A server creates one per client. A teacher that overrides neither `reset`, `seed` nor `state_dict` is its own session.
        None: its state cannot be separated, and it is served to one client at a time.
        """
        stateful = ("reset", "seed", "state_dict")
        return self if all(getattr(type(self), name) is getattr(Teacher, name) for name in stateful) else None

    def close(self) -> None:  # noqa: B027  (most teachers hold nothing but memory)
        """Release the connections of a session."""

    def state_dict(self) -> dict[str, Tensor]:
        """Memory and random state for an exact resume, without the weights."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Restore `state_dict`."""

    def weights(self) -> dict[str, Tensor]:
        """The frozen tensors, for checking that they did not change."""
        return {}

    @property
    def device(self) -> torch.device:
        """Device for the computation."""
        return torch.device("cpu")
