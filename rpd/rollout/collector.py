"""Collect T steps from N environments into one batch; the teacher labels each observation once, as it is collected."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.base import Episodes, Step, VectorEnv
from envs.errors import NonFiniteError
from rpd.batch import PREFIX
from rpd.labels import Labeller, Row
from students.actor_critic import ActorCritic
from students.residual import ACTION
from teachers.base import Teacher
from teachers.policy import with_proposal

T = TypeVar("T")

# Whose numbers a field of the batch holds, in the order in which a step makes them.
CAUSES = (
    ("environment", ("obs.",)),
    ("policy", ("action", "log_prob", "value")),
    ("teacher", (PREFIX,)),
    ("environment", ("reward", "final_value")),
)


@dataclass
class EpisodeStats:
    """Running averages over the episodes that ended, newest first in weight."""

    decay: float = 0.99
    """Weight that an episode keeps when the next one ends."""
    means: dict[str, float] = field(default_factory=dict)

    def add(self, episodes: Episodes) -> None:
        """Fold in episodes that ended together."""
        rows = zip(episodes.success_once.tolist(), episodes.ret.tolist(), episodes.length.tolist(), strict=True)
        for success, ret, length in rows:
            for name, value in (("success", float(success)), ("return", ret), ("length", float(length))):
                old = self.means.get(name, value)
                self.means[name] = old + (1 - self.decay) * (value - old)


class Collector:
    """Steps the environments with the student and fills a batch that is allocated once.

    The batch [T, N] has ``obs`` (nested), ``action``, ``log_prob``, ``value``, ``reward``, ``terminated``,
    ``truncated``, ``final_value`` (of the true last observation of episodes that ended), and, where a teacher labels,
    ``teacher.<field>``.

    Attributes:
        explore: whether the student samples its actions. Without a reward there is nothing to explore for: DAgger
            visits the states of the policy that will be used, and noise would keep it from the precise ones.
        obs: [N] the observation to act on next.
        batch: [T, N] what `collect` fills.
        filled: steps of it that are filled: fewer than T when something went wrong half-way.
        labeller: who asks the teacher; None: there is none.
        base: the teacher that the policy corrects (`ActorCritic.outside`), asked once per observation; None: there is none.
        base_queries: observations that it was asked about so far.
        times: seconds spent in ``env``, ``inference`` and waiting for the ``teacher`` during the last `collect`.
    """

    def __init__(
        self,
        env: VectorEnv,
        policy: ActorCritic,
        teacher: Teacher | None,
        num_steps: int,
        label_fraction: float,
        generator: torch.Generator,
        explore: bool = True,
        base: Teacher | None = None,
    ) -> None:
        """See the attributes.

        Raises:
            ConfigError: a label fraction that leaves some step without any label.
        """
        self.env, self.policy, self.num_steps = env, policy, num_steps
        self.labeller = None if teacher is None else Labeller(env, teacher, label_fraction, generator)
        self.generator, self.explore = generator, explore
        self.base, self.base_queries = base, 0
        self.episodes = EpisodeStats()
        self.obs = TensorDict()
        self.batch, self.filled = TensorDict(), 0
        self._asked: tuple[int, Future[Row]] | None = None
        self._views: dict[str, Tensor] | None = None  # of this step, where the base has looked
        self.clock = time.perf_counter
        self.times: dict[str, float] = {}
        self._labelled: bool | None = None

    @property
    def queries(self) -> int:
        """Observations that the teacher has labelled so far."""
        return 0 if self.labeller is None else self.labeller.queries

    def collect(self, label: bool) -> tuple[TensorDict, Tensor]:
        """Collect one batch.

        Args:
            label: whether to ask the teacher.

        Returns:
            The batch [T, N], reused by the next call, and the value [N] of the observation after its last step.

        Raises:
            NonFiniteError: an environment, the policy or the teacher answered with NaN or Inf; names the first of them.
        """
        self.times, self._asked = defaultdict(float), None
        if label != self._labelled:  # the teacher's fields come or go
            self.batch, self._labelled = TensorDict(batch_size=[self.num_steps, self.env.num_envs]), label
        with torch.inference_mode():
            for t in range(self.num_steps):
                self.filled = t + 1
                self._write(t, self._act())
                if label:
                    self._ask(t)
                try:
                    step = self._timed("env", self.env.step, self.batch["action"][t])
                except NonFiniteError:
                    self._hear()
                    _check_finite(self.batch[: t + 1])  # what the environment complains of may have begun elsewhere
                    raise
                self._write(t, self._outcome(step))
                self.obs = step.obs
            self._hear()
            last_value = self._timed("inference", self.policy.value, self.obs)
            # Once per batch: a wait for the device per step would cost more than the steps it saves.
            _check_finite(self.batch)
            _check_finite(TensorDict({"obs": self.obs, "value": last_value}, [self.env.num_envs])[None])
        return self.batch, last_value.clone()

    def _write(self, t: int, row: dict[str, Any]) -> None:
        """Copy one step's tensors [N, ...] into the batch, which grows a field when it is first seen."""
        fields = TensorDict(row, batch_size=[self.env.num_envs])
        for key, value in fields.items(include_nested=True, leaves_only=True):
            if key not in self.batch.keys(include_nested=True):
                with torch.inference_mode(False):  # the update needs ordinary tensors; writing into them here is allowed
                    self.batch[key] = torch.zeros(self.num_steps, *value.shape, dtype=value.dtype, device=value.device)
            self.batch[key][t] = value

    def _act(self) -> dict[str, Any]:
        """What the student does on the current observation."""
        obs = self._timed("inference", self.policy.perceive, self._proposed())
        distribution, value = self._timed("inference", self.policy, obs)
        action = distribution.sample(self.generator) if self.explore else distribution.mode()
        return {"obs": obs, "action": action, "log_prob": distribution.log_prob(action), "value": value}

    def _proposed(self) -> TensorDict:
        """The current observation, with what the base would do where there is one."""
        if self.base is None:
            return self.obs
        self._views = self._timed("env", self.env.look) if self.base.looks else None
        shown = self.obs if self._views is None else self.obs.copy().update(self._views)
        self.base_queries += self.env.num_envs
        proposed = self._timed("base", with_proposal, shown, self.base, self.env.instructions)
        return self.obs.copy().set(ACTION, proposed[ACTION])

    def _ask(self, t: int) -> None:
        """Take the answer to the last question and ask about this step."""
        self._hear()
        if self.labeller is not None:
            self._asked = t, self._timed("teacher", self.labeller.ask, self.obs, self.batch["action"][t], self._views)

    def _hear(self) -> None:
        """Wait for what was asked, and write it where it belongs."""
        if self._asked is not None:
            (t, answer), self._asked = self._asked, None
            self._write(t, self._timed("teacher", answer.result))

    def _outcome(self, step: Step) -> dict[str, Any]:
        """What came of an action; looks after the episodes that ended."""
        final_value = torch.zeros_like(step.reward)
        if step.episode is not None:
            final_value[step.episode.env] = self._timed("inference", self.policy.value, step.final_obs)
            self.episodes.add(step.episode)
            if self.labeller is not None:
                self.labeller.reset(step.terminated | step.truncated)
            if self.base is not None:
                self.base.reset((step.terminated | step.truncated).to(self.base.device))
        return {
            "reward": step.reward, "terminated": step.terminated, "truncated": step.truncated, "final_value": final_value
        }  # fmt: skip

    def _timed(self, what: str, call: Callable[..., T], *args: Any) -> T:
        began = self.clock()
        result = call(*args)
        self.times[what] += self.clock() - began
        return result


def _check_finite(batch: TensorDict) -> None:
    """Refuse a batch [T, N] with NaN or Inf. Labels that are not valid may hold anything.

    Raises:
        NonFiniteError: naming whose numbers went wrong first; the others follow from them.
    """
    bad: dict[str, Tensor] = {}  # [T, N] by field
    for name, value in batch.flatten_keys(".").items():
        if isinstance(value, Tensor) and value.is_floating_point():
            rows = ~torch.all(value.isfinite().reshape(*batch.batch_size, -1), dim=-1)
            bad[name] = rows & cast("Tensor", batch[PREFIX + "valid"]) if name.startswith(PREFIX) else rows
    if not torch.stack([rows.any() for rows in bad.values()]).any():
        return
    for t in range(batch.batch_size[0]):
        for source, fields in CAUSES:
            here = {name: rows[t] for name, rows in bad.items() if name.startswith(fields) and rows[t].any()}
            if here:
                envs = torch.stack(list(here.values())).any(0).nonzero()[:, 0].tolist()
                where = f"{', '.join(map(str, envs[:8]))}{'…' if len(envs) > 8 else ''}"
                raise NonFiniteError(source, f"{', '.join(here)} of environment {where}, step {t + 1} of the batch")
