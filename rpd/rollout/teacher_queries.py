"""Query a teacher once per observation, in parallel with the simulator if the teacher runs on another device or server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.envs.vector_env import VectorEnv
from rpd.teachers.base import Teacher
from rpd.teachers.observation import teacher_observation

Row = dict[str, Tensor]


class TeacherQueryQueue:
    """Queries the teacher for a fraction of the environments per step; labels of the other rows are marked invalid.

    A teacher on another device or server computes in a thread, one query at a time and in order, so that its labels equal
    those of synchronous queries. A teacher on the simulator's device computes synchronously: a thread would compete with the
    simulator for cores.

    Attributes:
        queries: number of observations labeled so far.
        owed: fraction of a query carried over to the next step.
    """

    def __init__(self, env: VectorEnv, teacher: Teacher, fraction: float, generator: torch.Generator) -> None:
        """Create a queue.

        Args:
            env: the environment of the observations.
            teacher: the teacher.
            fraction: fraction of the environments of this rank to label per step, drawn at random.
            generator: generator of this draw.

        Raises:
            ConfigError: a fraction below one label per step, or below 1 for a stateful teacher.
        """
        if fraction < 1 and teacher.is_stateful:
            raise ConfigError(
                f"distill.label_fraction {fraction:g}: teacher {teacher.name} is stateful and needs every "
                "observation of each environment: leave it at 1"
            )
        if fraction * env.num_envs < 1 - 1e-9:
            raise ConfigError(
                f"distill.label_fraction {fraction:g} of {env.num_envs} environments is less than one label per step: "
                f"at least {1 / env.num_envs:.2g} is needed"
            )
        self.env, self.teacher, self.fraction, self.generator = env, teacher, fraction, generator
        self.queries, self.owed = 0, 0.0
        self.overlaps = teacher.runs_remotely or teacher.device != env.device
        self._executor: Executor = ThreadPoolExecutor(1, "teacher") if self.overlaps else _SynchronousExecutor()
        self._last_reset: Future[None] | None = None

    def submit(self, obs: TensorDict, action: Tensor) -> Future[Row]:
        """Query the teacher for the current observation; the future returns the label's fields [N].

        Args:
            obs: [N] the student's observation. Keys that a wrapper added for the student are removed: a residual policy
                as a teacher has its own base.
            action: [N, A] the student's action.
        """
        if self._last_reset is not None:
            self._last_reset.result()  # raises the error of the reset
        n, instructions = self.env.num_envs, self.env.instructions
        rows = None if self.fraction >= 1 else self._draw(n, action.device)
        shown = teacher_observation(self.env, obs.exclude(*self.env.added_keys), self.teacher, rows)
        if rows is not None:
            action, instructions = action[rows], [instructions[i] for i in rows.tolist()]
        self.queries += len(instructions)
        shown, asked = shown.to(self.teacher.device), action.to(self.teacher.device)
        if self.overlaps:  # the simulator may reuse its buffers meanwhile
            shown, asked, instructions = shown.clone(), asked.clone(), list(instructions)
        return self._executor.submit(self._answer, shown, instructions, asked, rows, n, action.device)

    def reset(self, mask: Tensor) -> None:
        """Reset the teacher where `mask` [N] is True (the episode ended), after all queries submitted so far."""
        self._last_reset = self._executor.submit(self._reset, mask.to(self.teacher.device))

    def _draw(self, n: int, device: torch.device) -> Tensor:
        self.owed += self.fraction * n
        count = int(self.owed + 1e-9)  # rounding: 49 times 1/49 is less than 1
        self.owed -= count
        return torch.randperm(n, generator=self.generator, device=device)[:count].sort().values

    @torch.inference_mode()
    def _answer(
        self, obs: TensorDict, instructions: list[str], action: Tensor, rows: Tensor | None, n: int, device: torch.device
    ) -> Row:
        """Return the requested fields of a label, [N] on the student's device."""
        answer = self.teacher.label(obs, instructions, action).tensors()
        requested = self.teacher.requested_fields | {"valid"}
        fields = {name: tensor.to(device) for name, tensor in answer.items() if name in requested}
        if rows is None:
            return fields
        full = {name: torch.zeros(n, *value.shape[1:], dtype=value.dtype, device=device) for name, value in fields.items()}
        for name, value in fields.items():
            full[name][rows] = value
        return full

    @torch.inference_mode()
    def _reset(self, mask: Tensor) -> None:
        self.teacher.reset(mask)


class _SynchronousExecutor(Executor):
    """Executor that computes in `submit`; errors are raised there."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future
