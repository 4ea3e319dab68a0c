"""Success rates on fixed seeds, with their intervals, and comparisons paired by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from envs.base import VectorEnv
from envs.errors import ConfigError, NonFiniteError, RunFault
from rpd.atomic import write_json, write_text
from rpd.machine import environment_info
from rpd.policies import Policy
from rpd.progress import Patience
from rpd.stats import PairedResult, paired_difference, wilson

SCHEMA_VERSION = 1

OnFrame = Callable[[VectorEnv, Tensor, Tensor], None]
"""Called as on_frame(env, running [N] bool, success [N] bool)."""


@dataclass(frozen=True)
class EpisodeRecord:
    """One evaluated episode."""

    seed: int
    success_once: bool
    success_at_end: bool
    ret: float
    length: int
    seconds: float | None = None
    """Until it was solved for the first time; None where it was not."""


@dataclass(frozen=True)
class EvalResult:
    """What a policy did on a list of seeds.

    `successes` counts episodes that were solved at some step (``success_once``, the convention of ManiSkill). The
    built-in environments end on success, so there it equals ``success_at_end``; both are recorded.
    """

    task: str
    policy: str
    episodes: tuple[EpisodeRecord, ...]
    """In the order of their seeds."""

    @property
    def n(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    @property
    def successes(self) -> int:
        """Episodes that were solved at some step."""
        return sum(e.success_once for e in self.episodes)

    @property
    def rate(self) -> float:
        """Fraction of episodes that were solved."""
        return self.successes / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the rate."""
        return wilson(self.successes, self.n)

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return."""
        return sum(e.ret for e in self.episodes) / self.n

    @property
    def mean_length(self) -> float:
        """Mean length, control steps."""
        return sum(e.length for e in self.episodes) / self.n

    @property
    def travel_time(self) -> float | None:
        """Mean time until an episode was solved, of those that were, seconds; None where none was."""
        times = [e.seconds for e in self.episodes if e.seconds is not None]
        return sum(times) / len(times) if times else None

    @property
    def weighted_travel_time(self) -> float | None:
        """COMPASS's measure (arXiv 2502.16372): the sum of the durations of the solved episodes over the success rate, seconds.

        As published: a failure adds nothing to the sum and shrinks the rate, so it is n times `travel_time`, and compares
        policies on equally many episodes only.
        """
        return None if self.travel_time is None else self.n * self.travel_time

    def to_dict(self) -> dict[str, Any]:
        """The summary, as JSON values, without the single episodes."""
        return {
            "task": self.task,
            "policy": self.policy,
            "n": self.n,
            "successes": self.successes,
            "rate": self.rate,
            "interval": list(self.interval),
            "successes_at_end": sum(e.success_at_end for e in self.episodes),
            "mean_return": self.mean_return,
            "mean_length": self.mean_length,
            "travel_time": self.travel_time,
            "weighted_travel_time": self.weighted_travel_time,
            "first_seed": self.episodes[0].seed,
        }

    def to_full_dict(self) -> dict[str, Any]:
        """Everything, as JSON values; `from_full_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_full_dict(cls, values: dict[str, Any]) -> EvalResult:
        """Rebuild a result from `to_full_dict`."""
        episodes = tuple(EpisodeRecord(**e) for e in values["episodes"])
        return cls(values["task"], values["policy"], episodes)

    def metrics(self) -> dict[str, float]:
        """The numbers that a training run logs."""
        low, high = self.interval
        return {
            "eval/success": self.rate,
            "eval/success_lo": low,
            "eval/success_hi": high,
            "eval/return": self.mean_return,
            "eval/length": self.mean_length,
        }


def evaluate(env: VectorEnv, policy: Policy, episodes: int, seed: int, on_frame: OnFrame | None = None) -> EvalResult:
    """Run the episodes of seeds ``seed .. seed + episodes - 1``, `env.num_envs` at a time.

    Only the first episode that each environment plays after a reset counts: later ones would favour short episodes.

    Args:
        env: where to act.
        policy: who acts.
        episodes: how many, >= 1.
        seed: of the first episode; also seeds the policy.
        on_frame: called in the first batch after the reset and after every step, see `OnFrame`; for videos.

    Raises:
        NonFiniteError: the policy answered with NaN or Inf.
        RunFault: an episode did not end after the steps that the spec allows.
    """
    if episodes < 1:
        raise ConfigError(f"cannot evaluate {episodes} episodes: at least 1 is needed")
    policy.seed(seed)
    records: list[EpisodeRecord] = []
    limit = env.spec.max_episode_steps
    patience = Patience(f"evaluating {policy.name} on {env.spec.task}", limit * math.ceil(episodes / env.num_envs))
    for batch, first in enumerate(range(0, episodes, env.num_envs)):
        count = min(env.num_envs, episodes - first)
        played = _batch(env, policy, count, seed + first, on_frame if first == 0 else None)
        for step, ended in enumerate(played, batch * limit + 1):
            records += ended
            patience.tell(step, f"{len(records)} of {episodes} episodes")
    return EvalResult(env.spec.task, policy.name, tuple(sorted(records, key=lambda r: r.seed)))


@torch.no_grad()
def _batch(env: VectorEnv, policy: Policy, count: int, seed: int, on_frame: OnFrame | None) -> Iterator[list[EpisodeRecord]]:
    """Of the first episodes of environments 0 .. count - 1 after a reset with `seed`: after each step those that ended."""
    running = torch.arange(env.num_envs, device=env.device) < count  # [N]
    success, left = torch.zeros_like(running), count
    obs = env.reset(seed)
    policy.reset(torch.ones_like(running))
    if on_frame:
        on_frame(env, running, success)
    for _ in range(env.spec.max_episode_steps):
        action = policy.act(obs.update(env.look()) if policy.looks else obs, env.instructions)
        if not torch.isfinite(action).all():
            raise NonFiniteError(f"policy {policy.name}", f"action of {_rows(~torch.isfinite(action).all(-1))}")
        step = env.step(action)
        obs, records = step.obs, list[EpisodeRecord]()
        if (ended := step.episode) is not None:
            success[ended.env] |= ended.success_once & running[ended.env]
            first = running[ended.env].tolist()
            fields = (ended.seed, ended.success_once, ended.success_at_end, ended.ret, ended.length)
            solved_after = ended.length if ended.solved_after is None else ended.solved_after
            seconds = [
                steps / env.spec.control_hz if solved else None
                for steps, solved in zip(solved_after.tolist(), ended.success_once.tolist(), strict=True)
            ]
            rows = zip(*(t.tolist() for t in fields), seconds, strict=True)
            records = [EpisodeRecord(*row) for row, counts in zip(rows, first, strict=True) if counts]
            running[ended.env] = False
            policy.reset(step.terminated | step.truncated)
        if on_frame:
            on_frame(env, running, success)
        yield records
        left -= len(records)
        if not left:
            return
    raise RunFault(f"{env.spec.task}: {_rows(running)} did not end an episode in {env.spec.max_episode_steps} steps")


def compare(a: EvalResult, b: EvalResult) -> PairedResult:
    """Return the difference of success rates a - b, paired by seed.

    Raises:
        ConfigError: the two were not evaluated on the same episodes.
    """
    if a.task != b.task:
        raise ConfigError(f"cannot pair evaluations of different tasks: {a.task} and {b.task}")
    seeds_a, seeds_b = [e.seed for e in a.episodes], [e.seed for e in b.episodes]
    if seeds_a != seeds_b:
        raise ConfigError(
            f"cannot pair evaluations on different seeds: {a.policy} has {_span(seeds_a)}, {b.policy} has {_span(seeds_b)}"
        )
    return paired_difference([e.success_once for e in a.episodes], [e.success_once for e in b.episodes])


def save(result: EvalResult, folder: Path, env: dict[str, Any] | None = None) -> None:
    """Write eval.json (summary, versions, git, machine) and episodes.jsonl into a folder.

    Args:
        result: what is saved.
        folder: where to.
        env: how the environment was built, as JSON values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "episodes.jsonl", "".join(json.dumps(asdict(e)) + "\n" for e in result.episodes))
    summary = {"schema_version": SCHEMA_VERSION, **result.to_dict(), "env": env or {}, **environment_info()}
    write_json(folder / "eval.json", summary)


def _rows(mask: Tensor) -> str:
    rows = mask.nonzero()[:, 0].tolist()
    return f"environment{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:8]))}{'…' if len(rows) > 8 else ''}"


def _span(seeds: list[int]) -> str:
    return f"{len(seeds)} seeds {seeds[0]}..{seeds[-1]}"
