"""Collect T steps from N environments into one batch; the teacher labels each observation once, as it is collected."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.base import Episodes, Step, VectorEnv
from envs.errors import ConfigError, NonFiniteError
from rpd.distill.objective import PREFIX
from students.actor_critic import ActorCritic
from teachers.base import Teacher, TeacherOutput


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
    ``truncated``, ``final_value`` (of the true last observation of episodes that were truncated), and, where a
    teacher labels, ``teacher.<field>``.

    Attributes:
        explore: whether the student samples its actions. Without a reward there is nothing to explore for: DAgger
            visits the states of the policy that will be used, and noise would keep it from the precise ones.
        obs: [N] the observation to act on next.
        queries: observations that the teacher has labelled so far.
        owed: fraction of a label that is still to be asked, where `label_fraction` is below 1.
        times: seconds spent in ``env``, ``teacher`` and ``inference`` during the last `collect`.
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
    ) -> None:
        """See the attributes.

        Raises:
            ConfigError: a label fraction that leaves some step without any label.
        """
        if label_fraction * env.num_envs < 1:
            raise ConfigError(
                f"distill.label_fraction {label_fraction:g} of {env.num_envs} environments is less than one label per step: "
                f"at least {1 / env.num_envs:.2g} is needed"
            )
        self.env, self.policy, self.teacher = env, policy, teacher
        self.num_steps, self.label_fraction = num_steps, label_fraction
        self.generator, self.explore = generator, explore
        self.episodes = EpisodeStats()
        self.queries = 0
        self.clock = time.perf_counter
        self.times: dict[str, float] = {}
        self.obs = TensorDict()
        self.owed = 0.0
        self._batch: TensorDict | None = None

    def collect(self, label: bool) -> tuple[TensorDict, Tensor]:
        """Collect one batch.

        Args:
            label: whether to ask the teacher.

        Returns:
            The batch [T, N], reused by the next call, and the value [N] of the observation after its last step.

        Raises:
            NonFiniteError: an environment or the teacher answered with NaN or Inf.
        """
        self.times = defaultdict(float)
        with torch.inference_mode():
            for t in range(self.num_steps):
                row = self._act(label)
                step = self._timed("env", self.env.step, row["action"])
                row["reward"], row["terminated"], row["truncated"] = step.reward, step.terminated, step.truncated
                row["final_value"] = self._final_value(step)
                self._store(t, row)
                self.obs = step.obs
            last_value = self._timed("inference", self.policy.value, self.obs)
        _check_finite(self.batch)
        return self.batch, last_value.clone()

    @property
    def batch(self) -> TensorDict:
        """The batch [T, N] as far as it is filled: evidence, when something went wrong half-way."""
        return TensorDict() if self._batch is None else self._batch

    def _act(self, label: bool) -> TensorDict:
        """What the student does and the teacher would do, on the current observation."""
        distribution, value = self._timed("inference", self.policy, self.obs)
        action = distribution.sample(self.generator) if self.explore else distribution.mode()
        row = TensorDict(
            {"obs": self.obs, "action": action, "log_prob": distribution.log_prob(action), "value": value},
            batch_size=[self.env.num_envs],
        )
        if label and self.teacher is not None:
            for name, tensor in self._timed("teacher", self._label, self.teacher, action).items():
                row[PREFIX + name] = tensor
        return row

    def _label(self, teacher: Teacher, action: Tensor) -> dict[str, Tensor]:
        """Ask the teacher about `label_fraction` of the environments; rows that were not asked are not valid."""
        n, device = self.env.num_envs, action.device
        instructions = self.env.instructions
        if self.label_fraction >= 1:
            self.queries += n
            return _to(teacher.label(self.obs.to(teacher.device), instructions, action), device)
        self.owed += self.label_fraction * n
        count = int(self.owed)
        self.owed -= count
        self.queries += count
        rows = torch.randperm(n, generator=self.generator, device=device)[:count].sort().values
        some = [instructions[i] for i in rows.tolist()]
        answer = _to(teacher.label(self.obs[rows].to(teacher.device), some, action[rows]), device)
        full = {k: torch.zeros(n, *v.shape[1:], dtype=v.dtype, device=device) for k, v in answer.items()}
        for name, value in answer.items():
            full[name][rows] = value
        return full

    def _final_value(self, step: Step) -> Tensor:
        """[N] value of the true last observation of episodes that ended, 0 elsewhere."""
        value = torch.zeros_like(step.reward)
        if step.episode is not None:
            value[step.episode.env] = self._timed("inference", self.policy.value, step.final_obs)
            self.episodes.add(step.episode)
            if self.teacher is not None:
                self.teacher.reset((step.terminated | step.truncated).to(self.teacher.device))
        return value

    def _store(self, t: int, row: TensorDict) -> None:
        if t == 0 and (self._batch is None or set(self._batch.keys()) != set(row.keys())):
            with torch.inference_mode(False):  # the update needs ordinary tensors; writing into them here is allowed
                self._batch = TensorDict(batch_size=[self.num_steps, *row.batch_size], device=row.device)
                for key, value in row.items(include_nested=True, leaves_only=True):
                    self._batch[key] = torch.zeros(self.num_steps, *value.shape, dtype=value.dtype, device=value.device)
        self.batch[t] = row

    def _timed(self, what: str, call, *args):  # noqa: ANN001, ANN002, ANN202  (passes through whatever it is given)
        began = self.clock()
        result = call(*args)
        self.times[what] += self.clock() - began
        return result


def _to(answer: TeacherOutput, device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in answer.tensors().items()}


def _check_finite(batch: TensorDict) -> None:
    """One check per batch: a wait for the device per step would cost more than the steps it saves.

    Raises:
        NonFiniteError: naming whose numbers they were.
    """
    sums = {}
    for key, value in batch.items(include_nested=True, leaves_only=True):
        if value.is_floating_point():
            sums[".".join(key) if isinstance(key, tuple) else key] = value.isfinite().all()
    good = torch.stack(list(sums.values())).tolist()
    bad = [name for name, fine in zip(sums, good, strict=True) if not fine]
    if bad:
        source = "teacher" if any(b.startswith(PREFIX) for b in bad) else "environment"
        source = "policy" if all(b in ("action", "log_prob", "value", "final_value") for b in bad) else source
        raise NonFiniteError(source, ", ".join(bad))
