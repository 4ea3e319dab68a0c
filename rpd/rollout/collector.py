"""Collect T steps from N environments into one batch; the teacher labels each observation once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.core.distributed import SOLO, World
from rpd.envs.errors import NonFiniteError
from rpd.envs.finite import is_valid, listed
from rpd.envs.vector_env import EpisodeInfo, Step, VectorEnv
from rpd.rollout.teacher_queries import Row, TeacherQueryQueue
from rpd.runs.progress import report_progress
from rpd.students.actor_critic import ActorCritic
from rpd.teachers.base import Teacher

T = TypeVar("T")

# Component that computes a field of the batch, by the field's prefix, in the order of computation within a step. The first
# match counts; `VectorEnv.added_keys` come before these.
CAUSES = (
    ("policy", "obs.state_estimate"),
    ("environment", "obs."),
    ("policy", "action"),
    ("policy", "log_prob"),
    ("policy", "behavior."),
    ("policy", "value"),
    ("teacher", "teacher."),
    ("environment", "reward"),
    ("environment", "final_value"),
    ("environment", "success"),
)


@dataclass
class EpisodeStats:
    """Exponential moving averages over completed episodes."""

    decay: float = 0.99
    """Weight of the old average when an episode ends."""
    means: dict[str, float] = field(default_factory=dict)

    def add(self, success: float, ep_return: float, ep_length: float) -> None:
        """Update the averages with one episode."""
        for name, value in (("success", success), ("ep_return", ep_return), ("ep_length", ep_length)):
            old = self.means.get(name, value)
            self.means[name] = old + (1 - self.decay) * (value - old)


class Collector:
    """Steps the environments with the student and fills a batch that is allocated once.

    The batch [T, N] has ``obs`` (nested), ``action``, ``log_prob``, ``value``, ``reward``, ``terminated``,
    ``truncated``, ``final_value`` (value of the true last observation of each completed episode), and, with a teacher,
    ``teacher`` (nested: fields of `TeacherOutput`). If asked for by `keep`, also ``behavior``: ``raw`` and ``log_std`` of
    the `ActionDistribution` that the actions were drawn from, [T, N, A]; and ``success``: 1 at the end of a
    solved episode, else 0.

    Attributes:
        explore: whether the student samples its actions. False for DAgger, which visits the states of the deterministic
            policy.
        obs: [N] current observation.
        batch: [T, N] the batch that `collect` fills.
        filled: number of filled steps of the batch: fewer than T after an error.
        teacher_queue: the teacher's queries; None: no teacher.
        times: seconds spent in ``env`` and ``inference``, and waiting for the ``teacher``, during the last `collect`.
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
        world: World = SOLO,
        keep: Collection[str] = (),
    ) -> None:
        """Create a collector of batches of `num_steps` steps; for `label_fraction` see `TeacherQueryQueue`.

        `keep` names optional fields of the batch, ``behavior`` and ``success``.

        The ranks of `world` have as many environments each, numbered through: a sampled action depends on the number of its
        environment, not on the number of ranks.

        Raises:
            ConfigError: see `TeacherQueryQueue`.
        """
        self.env, self.policy, self.num_steps = env, policy, num_steps
        self.teacher_queue = None if teacher is None else TeacherQueryQueue(env, teacher, label_fraction, generator)
        self.generator, self.explore, self.world, self.keep = generator, explore, world, frozenset(keep)
        self._share = world.share(env.num_envs * world.size)
        self.episodes = EpisodeStats()  # of all ranks
        self._ended: list[tuple[int, float, float, float]] = []  # this rank's since the last batch, with their step
        self.obs = TensorDict()
        self.batch, self.filled = TensorDict(), 0
        self._pending: tuple[int, Future[Row]] | None = None  # step and labels of the last query
        self._causes = (*((source, f"obs.{key}") for key, source in env.added_keys.items()), *CAUSES)
        self.clock = time.perf_counter
        self.times: dict[str, float] = {}
        self._labeled: bool | None = None

    @property
    def queries(self) -> int:
        """Number of observations that the teacher of this rank has labeled so far."""
        return 0 if self.teacher_queue is None else self.teacher_queue.queries

    def state(self) -> dict[str, Any]:
        """This rank's counters for a checkpoint, as JSON values. The environment saves its own state."""
        return {"queries": self.queries, "owed": 0.0 if self.teacher_queue is None else self.teacher_queue.owed}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `state`."""
        if self.teacher_queue is not None:
            self.teacher_queue.queries, self.teacher_queue.owed = state["queries"], state["owed"]

    def filled_steps(self) -> dict[str, Tensor]:
        """Fields [t, N, ...] of the t filled steps of the batch, by dotted name."""
        return dict(self.batch[: self.filled].flatten_keys(".").items()) if self.filled else {}

    def collect(self, label: bool) -> tuple[TensorDict, Tensor]:
        """Collect one batch, together with the other ranks.

        Args:
            label: whether to query the teacher.

        Returns:
            The batch [T, N], reused by the next call, and the value [N] of the observation after its last step.

        Raises:
            NonFiniteError: an environment, the policy or the teacher returned NaN or Inf; names the first component.
            RunFault: another rank failed.
        """
        with self.world.together():
            collected = self._collect(label)
        ended = [episode for own in self.world.gather(self._ended) for episode in own]
        for _, *episode in sorted(ended, key=lambda e: e[0]):  # ordered by step and environment, as on one rank
            self.episodes.add(*episode)
        self._ended.clear()
        return collected

    def _collect(self, label: bool) -> tuple[TensorDict, Tensor]:
        self.times, self._pending = defaultdict(float), None
        if label != self._labeled:  # a batch has the teacher's fields only if it is labeled
            self.batch, self._labeled = TensorDict(batch_size=[self.num_steps, self.env.num_envs]), label
        with torch.inference_mode():
            for t in range(self.num_steps):
                self.filled = t + 1
                self._write(t, self._act())
                if label:
                    self._query_teacher(t)
                try:
                    step = self._timed("env", self.env.step, self.batch["action"][t])
                except NonFiniteError:
                    self._write_labels()
                    self._check(self.batch[: t + 1])  # another component may have caused the environment's error
                    raise
                self._write(t, self._outcome(t, step))
                self.obs = step.obs
                report_progress("collecting", t + 1, self.num_steps)
            self._write_labels()
            last_value = self._timed("inference", self.policy.value, self.obs)
            # Checked once per batch: each check waits for the device.
            last = TensorDict({"obs": self.obs, "value": last_value}, [self.env.num_envs])[None]
            if torch.stack([_spoiled(self.batch), _spoiled(last)]).any():
                self._check(self.batch)
                self._check(last)
        return self.batch, last_value.clone()

    def _write(self, t: int, row: dict[str, Any]) -> None:
        """Copy one step's tensors [N, ...] into the batch; allocates new fields."""
        fields = TensorDict(row, batch_size=[self.env.num_envs])
        for key, value in fields.items(include_nested=True, leaves_only=True):
            if key not in self.batch.keys(include_nested=True):
                with torch.inference_mode(False):  # autograd refuses inference tensors in the update
                    self.batch[key] = torch.zeros(self.num_steps, *value.shape, dtype=value.dtype, device=value.device)
            self.batch[key][t] = value

    def _act(self) -> dict[str, Any]:
        """Return the student's action on the current observation, as fields of the batch."""
        obs = self._timed("inference", self.policy.augment_obs, self.obs)
        distribution, value = self._timed("inference", self.policy, obs)
        action = distribution.sample(self.generator, self._share) if self.explore else distribution.mode()
        row = {"obs": obs, "action": action, "log_prob": distribution.log_prob(action), "value": value}
        if "behavior" in self.keep:
            row["behavior"] = {"raw": distribution.raw, "log_std": distribution.log_std.expand_as(distribution.raw)}
        return row

    def _query_teacher(self, t: int) -> None:
        """Write the labels of the previous query and query the teacher for step t."""
        self._write_labels()
        if self.teacher_queue is not None:
            self._pending = t, self._timed("teacher", self.teacher_queue.submit, self.obs, self.batch["action"][t])

    def _write_labels(self) -> None:
        """Wait for the pending query and write its labels into its step of the batch."""
        if self._pending is not None:
            (t, labels), self._pending = self._pending, None
            self._write(t, {"teacher": self._timed("teacher", labels.result)})

    def _outcome(self, t: int, step: Step) -> dict[str, Any]:
        """Return the results of step t as fields of the batch; resets the teacher where episodes ended."""
        final_value = torch.zeros_like(step.reward)
        if step.episode is not None:
            final_value[step.episode.env] = self._timed("inference", self.policy.value, step.final_obs)
            self._ended += ended_episodes(t, step.episode)
            if self.teacher_queue is not None:
                self.teacher_queue.reset(step.terminated | step.truncated)
        row = {"reward": step.reward, "terminated": step.terminated, "truncated": step.truncated, "final_value": final_value}
        if "success" in self.keep:
            row["success"] = torch.zeros_like(step.reward)
            if step.episode is not None:
                row["success"][step.episode.env] = step.episode.success_once.float()
        return row

    def _check(self, batch: TensorDict) -> None:
        """Check that a batch [T, N] is finite and plausible. Labels that are not valid are not checked.

        Raises:
            NonFiniteError: names the component that computed the first bad values.
        """
        bad = {name: rows for name, rows in _bad_rows(batch).items() if rows.any()}
        for t in range(batch.batch_size[0]):
            here = [name for name, rows in bad.items() if rows[t].any()]
            if here:
                source = min((self._cause(name) for name in here), key=self._causes.index)[0]
                fields = [name for name in here if self._cause(name)[0] == source]
                envs = torch.stack([bad[name][t] for name in fields]).any(0).nonzero()[:, 0].tolist()
                raise NonFiniteError(
                    self._named(source), f"{', '.join(fields)} of environment {listed(envs)}, step {t + 1} of the batch"
                )

    def _named(self, source: str) -> str:
        """Return the name of a component for messages, with the teacher's own name."""
        return f"teacher {self.teacher_queue.teacher.name}" if source == "teacher" and self.teacher_queue else source

    def _cause(self, name: str) -> tuple[str, str]:
        """Return the component of a field and the matching prefix."""
        return next(cause for cause in self._causes if name.startswith(cause[1]))

    def _timed(self, what: str, call: Callable[..., T], *args: Any) -> T:
        began = self.clock()
        result = call(*args)
        self.times[what] += self.clock() - began
        return result


def ended_episodes(t: int, episodes: EpisodeInfo) -> list[tuple[int, float, float, float]]:
    """Return step t, success, return and length of each episode."""
    rows = zip(episodes.success_once.tolist(), episodes.episode_return.tolist(), episodes.length.tolist(), strict=True)
    return [(t, float(success), ret, float(length)) for success, ret, length in rows]


def _bad_rows(batch: TensorDict) -> dict[str, Tensor]:
    """Return the non-finite or implausible entries of a batch [T, N]: [T, N] bool, by field."""
    bad: dict[str, Tensor] = {}
    for name, value in batch.flatten_keys(".").items():
        if isinstance(value, Tensor) and value.is_floating_point():
            fine = is_valid(value) if name.startswith("obs.") else value.isfinite()  # log-probabilities may be large
            rows = ~torch.all(fine.reshape(*batch.batch_size, -1), dim=-1)
            bad[name] = rows & cast("Tensor", batch["teacher", "valid"]) if name.startswith("teacher.") else rows
    return bad


def _spoiled(batch: TensorDict) -> Tensor:
    """Return whether `_bad_rows` finds any: a scalar bool tensor on the batch's device."""
    return torch.stack([rows.any() for rows in _bad_rows(batch).values()]).any()
