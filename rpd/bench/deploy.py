"""`rpd bench deploy`: a policy in the control loop, in real time, against itself in an evaluation, on the same episodes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs import registry as envs
from envs.base import EnvConfig
from rpd.bench.result import Cell, Column
from rpd.deploy import config as configs
from rpd.deploy.command import DeployOptions, deploy
from rpd.deploy.config import RobotConfig
from rpd.deploy.loop import Outcome
from rpd.deploy.policy import wanted_spec
from rpd.evaluate import evaluate
from rpd.policies import resolve
from rpd.stats import PairedResult, format_rate, paired_difference
from rpd.views import seen_by

CASES = ((20.0, 0.0), (100.0, 0.0), (20.0, 0.02), (20.0, 0.05), (20.0, 0.1))
"""Commands per second, and seconds by which the policy's answers are late."""


@dataclass(frozen=True)
class Row:
    """One way to run the episodes."""

    what: str
    solved: list[bool]
    against: PairedResult | None
    """Compared with the evaluation, paired by seed."""
    outcomes: list[Outcome]


def measure(policy: str, robot: str, episodes: int, seed: int = 3_000_000) -> Iterator[Row]:
    """Evaluate a policy, then deploy it at several rates and delays; yields each as it is done.

    Args:
        policy: a trained one.
        robot: a simulated one.
        episodes: of each, on the seeds seed, seed + 1, ...
        seed: of the first.
    """
    config = configs.load(robot)
    wanted = wanted_spec(policy, None, config.kinematics)
    shown = seen_by(EnvConfig(robot=config.kinematics, num_envs=min(episodes, 64)), wanted)
    env = envs.make(wanted.task, shown, num_threads=1)
    measured = evaluate(env, resolve(policy, env), episodes, seed)
    env.close()
    truth = [episode.success_once for episode in measured.episodes]
    yield Row("rpd eval", truth, None, [])
    for rate, delay in CASES:
        outcomes = _deployed(policy, robot, config, episodes, seed, rate, delay)
        solved = [bool(outcome.success) and not outcome.fault for outcome in outcomes]
        yield Row(f"{rate:g} Hz, {1000 * delay:g} ms", solved, paired_difference(solved, truth), outcomes)


COLUMNS = (
    Column("commands, delay"), Column("success"), Column("against rpd eval, paired"), Column("late: 50 %", ".2f"),
    Column("99 %", ".2f"), Column("max", ".2f"), Column("missed"), Column("measured to commanded", ".1f"), Column("faults"),
)  # fmt: skip


def cells(row: Row) -> list[Cell]:
    """One line of the table, as far as it has something to say."""
    said: list[Cell] = [row.what, format_rate(sum(row.solved), len(row.solved)), str(row.against or "")]
    if not row.outcomes:
        return said + [None] * (len(COLUMNS) - len(said))
    late, delay = ([1000 * x for o in row.outcomes for x in getattr(o, name)] for name in ("lateness", "delays"))
    said += [float(np.quantile(late, q)) for q in (0.5, 0.99, 1)]
    missed, faults = sum(o.overruns for o in row.outcomes), sum(o.fault for o in row.outcomes)
    return [*said, f"{missed} of {len(late):,}", float(np.median(delay)), faults]


def _deployed(
    policy: str, robot: str, config: RobotConfig, episodes: int, seed: int, rate: float, delay: float
) -> list[Outcome]:
    """All episodes, also where a fault ends some."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        while len(outcomes) < episodes:
            first = seed + len(outcomes)
            options = DeployOptions(
                policy=policy, robot=robot, episodes=episodes - len(outcomes), seed=first, rate=rate,
                estop_file=Path(folder) / "ESTOP",
            )  # fmt: skip
            outcomes += deploy(options, config, Path(folder) / f"{first}.rpdlog", delay)
            if outcomes[-1].fault:
                print(f"seed {seed + len(outcomes) - 1}: {outcomes[-1].reason}")
    return outcomes
