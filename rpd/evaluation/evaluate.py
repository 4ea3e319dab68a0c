"""Success rates on fixed seeds with confidence intervals, and comparisons paired by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rpd.core.distributed import SOLO, World
from rpd.core.files import write_json, write_text
from rpd.core.statistics import PairedResult, paired_difference, wilson
from rpd.envs.errors import ConfigError, RunFault
from rpd.envs.finite import check_exchange
from rpd.envs.rebuild import episode_options, words
from rpd.envs.simulator_options import COSTS
from rpd.envs.vector_env import VectorEnv
from rpd.policies.base import Policy
from rpd.runs.progress import ProgressLog
from rpd.runs.provenance import environment_info
from rpd.teachers.observation import teacher_observation

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
    """Time of the first success, s; None if the episode was not solved."""
    violated: bool | None = None
    """Whether the arm came too near to something; None: not measured."""
    limited: float | None = None
    """Share of the commands that a limit of the arm changed; None: not measured."""


@dataclass(frozen=True)
class EvalResult:
    """Results of a policy on a list of seeds.

    `successes` counts episodes that were solved at some step (``success_once``, ManiSkill's convention). Episodes of the
    built-in environments end on success, so there it equals ``success_at_end``; both are recorded.
    """

    task: str
    policy: str
    episodes: tuple[EpisodeRecord, ...]
    """In the order of their seeds."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Environment options that determine the episodes; empty if unknown."""

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
        """Mean time to success of the solved episodes, s; None if none was solved."""
        times = [e.seconds for e in self.episodes if e.seconds is not None]
        return sum(times) / len(times) if times else None

    @property
    def violations(self) -> int | None:
        """Episodes in which hand, fingers or links came too near to the table, the base or each other; None: not measured."""
        known = [e.violated for e in self.episodes if e.violated is not None]
        return sum(known) if known else None

    @property
    def limited(self) -> float | None:
        """Mean share of the commands that a limit of the arm changed; None: not measured."""
        known = [e.limited for e in self.episodes if e.limited is not None]
        return sum(known) / len(known) if known else None

    @property
    def weighted_travel_time(self) -> float | None:
        """COMPASS's metric (arXiv 2502.16372): sum of the durations of solved episodes over the success rate, s.

        As published, a failure adds nothing to the sum and lowers the rate, so the metric is n times `travel_time`, and is
        comparable only between policies with equal numbers of episodes.
        """
        return None if self.travel_time is None else self.n * self.travel_time

    def to_dict(self) -> dict[str, Any]:
        """Summary as JSON values, without the single episodes."""
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
            "violations": self.violations,
            "limited": self.limited,
            "first_seed": self.episodes[0].seed,
        }

    def to_full_dict(self) -> dict[str, Any]:
        """All fields as JSON values; the inverse of `from_full_dict`."""
        return asdict(self)

    @classmethod
    def from_full_dict(cls, values: dict[str, Any]) -> EvalResult:
        """Rebuild a result from `to_full_dict`."""
        episodes = tuple(EpisodeRecord(**e) for e in values["episodes"])
        return cls(values["task"], values["policy"], episodes, values["options"])

    def metrics(self) -> dict[str, float]:
        """Metrics that a training run logs."""
        low, high = self.interval
        arm = {} if self.violations is None or self.limited is None else {
            "eval/violations": self.violations / self.n, "eval/limited": self.limited
        }  # fmt: skip
        return arm | {
            "eval/success_once": self.rate,
            "eval/success_once_lo": low,
            "eval/success_once_hi": high,
            "eval/success_at_end": sum(e.success_at_end for e in self.episodes) / self.n,
            "eval/ep_return": self.mean_return,
            "eval/ep_length": self.mean_length,
        }


def evaluate(
    env: VectorEnv, policy: Policy, episodes: int, seed: int, on_frame: OnFrame | None = None, world: World = SOLO
) -> EvalResult:
    """Run the episodes of seeds ``seed .. seed + episodes - 1``, `env.num_envs` at a time.

    Only the first episode of each environment after a reset counts: counting later ones would favor short episodes.

    Args:
        env: environment to act in.
        policy: the policy.
        episodes: number of episodes, >= 1.
        seed: seed of the first episode, and of the policy.
        on_frame: called in the first batch after the reset and after every step, see `OnFrame`; for videos.
        world: ranks that share the episodes; each gets the results of all.

    Raises:
        NonFiniteError: an observation or an action is not finite; names it.
        RunFault: an episode did not end within the spec's maximum number of steps.
    """
    if episodes < 1:
        raise ConfigError(f"cannot evaluate {episodes} episodes: at least 1 is needed")
    share = world.share(episodes)
    with world.together():
        own = _records(env, policy, share.count, seed + share.first, on_frame)
    records = own if world.size == 1 else [EpisodeRecord(**e) for part in world.gather([asdict(e) for e in own]) for e in part]
    options = {name: words(value) for name, value in episode_options(env.spec).items()}
    return EvalResult(env.spec.task, policy.name, tuple(sorted(records, key=lambda r: r.seed)), options)


def _records(env: VectorEnv, policy: Policy, episodes: int, seed: int, on_frame: OnFrame | None) -> list[EpisodeRecord]:
    """Run the episodes of this rank."""
    policy.seed(seed)
    records: list[EpisodeRecord] = []
    limit = env.spec.max_episode_steps
    log = ProgressLog(f"evaluating {policy.name} on {env.spec.task}", limit * math.ceil(episodes / env.num_envs))
    for batch, first in enumerate(range(0, episodes, env.num_envs)):
        count = min(env.num_envs, episodes - first)
        played = _batch(env, policy, count, seed + first, on_frame if first == 0 else None)
        for step, ended in enumerate(played, batch * limit + 1):
            records += ended
            log.update(step, f"{len(records)} of {episodes} episodes")
    return records


@torch.no_grad()
def _batch(env: VectorEnv, policy: Policy, count: int, seed: int, on_frame: OnFrame | None) -> Iterator[list[EpisodeRecord]]:
    """Run environments 0 .. count - 1 after a reset with `seed`; after each step, yield the first episodes that ended."""
    running = torch.arange(env.num_envs, device=env.device) < count  # [N]
    success, left = torch.zeros_like(running), count
    obs = env.reset(seed)
    policy.reset(torch.ones_like(running))
    if on_frame:
        on_frame(env, running, success)
    for _ in range(env.spec.max_episode_steps):
        shown = teacher_observation(env, obs, policy)
        action = policy.act(shown, env.instructions)
        check_exchange(shown, {"action": action}, f"policy {policy.name}", env.spec, env.added_keys)
        step = env.step(action)
        obs, records = step.obs, list[EpisodeRecord]()
        if (ended := step.episode) is not None:
            success[ended.env] |= ended.success_once & running[ended.env]
            first = running[ended.env].tolist()
            fields = (ended.seed, ended.success_once, ended.success_at_end, ended.episode_return, ended.length)
            solved_after = ended.length if ended.solved_after is None else ended.solved_after
            seconds = [
                steps / env.spec.control_hz if solved else None
                for steps, solved in zip(solved_after.tolist(), ended.success_once.tolist(), strict=True)
            ]
            arm = [[None] * len(first) if t is None else t.tolist() for t in (ended.violated, ended.limited)]
            rows = zip(*(t.tolist() for t in fields), seconds, *arm, strict=True)
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
    """Return the difference of the success rates a - b, paired by seed.

    Raises:
        ConfigError: the episodes differ in task, seed or an environment option.
    """
    if a.task != b.task:
        raise ConfigError(f"cannot pair evaluations of different tasks: {a.task} and {b.task}")
    shared = [name for name in a.options if name in b.options and name not in COSTS]
    if differ := [name for name in shared if a.options[name] != b.options[name]]:
        sides = " and ".join(f"{r.policy} {r.options[differ[0]]}" for r in (a, b))
        raise ConfigError(f"cannot pair evaluations of different episodes ({differ[0]}: {sides}): evaluate both with the same")
    seeds_a, seeds_b = [e.seed for e in a.episodes], [e.seed for e in b.episodes]
    if seeds_a != seeds_b:
        raise ConfigError(
            f"cannot pair evaluations on different seeds: {a.policy} has {_span(seeds_a)}, {b.policy} has {_span(seeds_b)}"
        )
    return paired_difference([e.success_once for e in a.episodes], [e.success_once for e in b.episodes])


def save(
    result: EvalResult,
    folder: Path,
    env: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
    identity: str | None = None,
) -> None:
    """Write eval.json (summary, versions, git, machine) and episodes.jsonl into a folder.

    Args:
        result: result to save.
        folder: destination.
        env: environment configuration, as JSON values.
        notes: differences from the policy's training environment, see `rpd.policies.made_for.remarks`.
        identity: identity of the policy, see `rpd.policies.identity`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "episodes.jsonl", "".join(json.dumps(asdict(e)) + "\n" for e in result.episodes))
    summary = {
        "schema_version": SCHEMA_VERSION,
        **result.to_dict(),
        "identity": identity,
        "env": env or {},
        "notes": list(notes),
        **environment_info(),
    }
    write_json(folder / "eval.json", summary)


def _rows(mask: Tensor) -> str:
    rows = mask.nonzero()[:, 0].tolist()
    return f"environment{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:8]))}{'…' if len(rows) > 8 else ''}"


def _span(seeds: list[int]) -> str:
    return f"{len(seeds)} seeds {seeds[0]}..{seeds[-1]}"
