"""Ask a teacher about observations as they are collected: each once, and while the simulator goes on where that saves time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.base import VectorEnv
from envs.errors import ConfigError
from rpd.batch import PREFIX
from teachers.base import Teacher

Row = dict[str, Tensor]


class Labeller:
    """Asks about `fraction` of the environments per step; rows that were not asked are not valid.

    A teacher that computes elsewhere (another device, a server) is asked in a thread, one question at a time and in order, so
    that the answers are those of asking in turn. One on the simulator's own device would only take its cores.

    Attributes:
        queries: observations that were labelled so far.
        owed: fraction of a label that is still to be asked.
    """

    def __init__(self, env: VectorEnv, teacher: Teacher, fraction: float, generator: torch.Generator) -> None:
        """See the class.

        Args:
            env: where the observations come from.
            teacher: who answers.
            fraction: of the environments, per step; which ones is drawn anew.
            generator: for that draw.

        Raises:
            ConfigError: a fraction that leaves some step without any label, or a teacher that has to be asked about all.
        """
        if fraction < 1 and teacher.wants_all:
            raise ConfigError(
                f"distill.label_fraction {fraction:g}: teacher {teacher.name} remembers what each environment showed, and has "
                "to see all of them at every step: leave it at 1"
            )
        if fraction * env.num_envs < 1 - 1e-9:
            raise ConfigError(
                f"distill.label_fraction {fraction:g} of {env.num_envs} environments is less than one label per step: "
                f"at least {1 / env.num_envs:.2g} is needed"
            )
        self.env, self.teacher, self.fraction, self.generator = env, teacher, fraction, generator
        self.queries, self.owed = 0, 0.0
        self.overlaps = teacher.elsewhere or teacher.device != env.device
        self._executor: Executor = ThreadPoolExecutor(1, "teacher") if self.overlaps else _InTurn()
        self._forgotten: Future[None] | None = None

    def ask(self, obs: TensorDict, action: Tensor, views: dict[str, Tensor] | None = None) -> Future[Row]:
        """Ask about the current observation [N] and what the student does there [N, A]; the row [N] to write, later.

        Args:
            obs: what the student sees.
            action: what it does.
            views: what `VectorEnv.look` has shown of this observation to somebody else [N], if it has.
        """
        if self._forgotten is not None:
            self._forgotten.result()  # raises what went wrong there
        n, instructions = self.env.num_envs, self.env.instructions
        rows = None if self.fraction >= 1 else self._draw(n, action.device)
        if rows is None:
            shown = obs.copy()
        else:
            shown, action, instructions = obs[rows], action[rows], [instructions[i] for i in rows.tolist()]
        self.queries += len(instructions)
        if self.teacher.looks:
            if views is None:
                views = self.env.look(rows)
            elif rows is not None:
                views = {key: view[rows] for key, view in views.items()}
            shown.update(views)
        shown, asked = shown.to(self.teacher.device), action.to(self.teacher.device)
        if self.overlaps:  # the simulator may reuse its buffers meanwhile
            shown, asked, instructions = shown.clone(), asked.clone(), list(instructions)
        return self._executor.submit(self._answer, shown, instructions, asked, rows, n, action.device)

    def reset(self, mask: Tensor) -> None:
        """Tell the teacher which episodes ended [N], after all that was asked before."""
        self._forgotten = self._executor.submit(self._reset, mask.to(self.teacher.device))

    def _draw(self, n: int, device: torch.device) -> Tensor:
        self.owed += self.fraction * n
        count = int(self.owed + 1e-9)  # 49 times 1/49 is a little less than 1
        self.owed -= count
        return torch.randperm(n, generator=self.generator, device=device)[:count].sort().values

    @torch.inference_mode()
    def _answer(
        self, obs: TensorDict, instructions: list[str], action: Tensor, rows: Tensor | None, n: int, device: torch.device
    ) -> Row:
        """A label's fields that the run reads, [N] on the student's device, named as in the batch."""
        answer = self.teacher.label(obs, instructions, action).tensors()
        wanted = self.teacher.wanted | {"valid"}
        fields = {PREFIX + name: tensor.to(device) for name, tensor in answer.items() if name in wanted}
        if rows is None:
            return fields
        full = {name: torch.zeros(n, *value.shape[1:], dtype=value.dtype, device=device) for name, value in fields.items()}
        for name, value in fields.items():
            full[name][rows] = value
        return full

    @torch.inference_mode()
    def _reset(self, mask: Tensor) -> None:
        self.teacher.reset(mask)


class _InTurn(Executor):
    """Runs what it is given before it returns; errors are raised at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future
