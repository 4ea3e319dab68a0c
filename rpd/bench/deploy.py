"""`rpd bench deploy`: success of a policy in the real-time control loop and in an evaluation, on the same episodes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rpd.bench.result import Cell, Column
from rpd.config.deploy import DeployConfig
from rpd.core.statistics import PairedResult, format_rate, paired_difference
from rpd.deploy import config as configs
from rpd.deploy.config import RobotConfig
from rpd.deploy.outcome import Outcome
from rpd.deploy.policy import wanted_spec
from rpd.deploy.session import deploy
from rpd.envs import registry as envs
from rpd.envs.rebuild import config_for
from rpd.envs.robots import ROBOTS
from rpd.envs.specs import Settings
from rpd.evaluation.evaluate import evaluate
from rpd.policies.loading import load_policy

LOG = logging.getLogger(__name__)

CASES = ((20.0, 0.0), (100.0, 0.0), (20.0, 0.02), (20.0, 0.05), (20.0, 0.1))
"""Command rates, Hz, and artificial delays of the policy's answers, s."""


@dataclass(frozen=True)
class Row:
    """Result of running the episodes in one way."""

    what: str
    solved: list[bool]
    against: PairedResult | None
    """Comparison with the evaluation, paired by seed."""
    outcomes: list[Outcome]


def measure(
    policy: str, episodes: int, stepped: bool = False, seed: int = 3_000_000, delays: Sequence[float] = ()
) -> Iterator[Row]:
    """Evaluate a policy, then deploy it on the simulated arm with the limits of training; yields each result when it is done.

    Args:
        policy: a trained policy, of any robot of the tabletop simulation.
        episodes: episodes per row, on the seeds seed, seed + 1, ...
        stepped: in simulated time instead of real time.
        seed: seed of the first episode.
        delays: delays of the policy's answers at 20 commands per second, s, in place of `CASES`.
    """
    wanted = wanted_spec(policy, None, "panda")
    robot, limits = wanted.embodiment.name, (wanted.settings or Settings()).limits
    config = configs.as_trained(configs.load("sim"), ROBOTS[robot], limits)
    truth = evaluated(policy, robot, episodes, seed)
    yield Row("rpd eval", truth, None, [])
    for rate, delay in [(CASES[0][0], delay) for delay in delays] or CASES:
        options = DeployConfig(policy=policy, robot="sim", episodes=episodes, seed=seed, rate=rate, stepped=stepped)
        yield compared(f"{rate:g} Hz, {1000 * delay:g} ms", deployed(options, config, delay), truth)


def compared(what: str, outcomes: list[Outcome], truth: Sequence[bool]) -> Row:
    """A row of a deployment, paired with the evaluation: `truth`, see `evaluated`."""
    solved = solutions(outcomes)
    return Row(what, solved, paired_difference(solved, truth), outcomes)


def evaluated(policy: str, robot: str, episodes: int, seed: int) -> list[bool]:
    """Whether a policy solves each episode in its evaluation, on the seeds seed, seed + 1, ...; without randomization.

    Args:
        policy: a trained policy.
        robot: robot of the tabletop simulation.
        episodes: number of episodes.
        seed: seed of the first episode.
    """
    wanted = wanted_spec(policy, None, robot)
    shown = config_for(wanted, robot=robot).model_copy(
        update={"num_envs": min(episodes, 64), "domain_randomization": ()}  # the simulated robot randomizes nothing
    )
    env = envs.make(wanted.task, shown, num_threads=1)
    measured = evaluate(env, load_policy(policy, env), episodes, seed)
    env.close()
    return [episode.success_once for episode in measured.episodes]


def solutions(outcomes: Sequence[Outcome]) -> list[bool]:
    """Whether each episode was solved; one that ends by a fault was not."""
    return [bool(outcome.success) and not outcome.fault for outcome in outcomes]


COLUMNS = (
    Column("commands, delay"), Column("success"), Column("against rpd eval, paired"), Column("late: 50 %", ".2f"),
    Column("99 %", ".2f"), Column("max", ".2f"), Column("missed"), Column("measured to commanded", ".1f"), Column("faults"),
)  # fmt: skip


def cells(row: Row) -> list[Cell]:
    """Cells of one table row; trailing ones are empty for the evaluation."""
    values: list[Cell] = [row.what, format_rate(sum(row.solved), len(row.solved)), str(row.against or "")]
    if not row.outcomes:
        return values + [None] * (len(COLUMNS) - len(values))
    late, delay = ([1000 * x for o in row.outcomes for x in getattr(o, name)] for name in ("lateness", "delays"))
    values += [float(np.quantile(late, q)) for q in (0.5, 0.99, 1)]
    missed, faults = sum(o.overruns for o in row.outcomes), sum(o.fault for o in row.outcomes)
    return [*values, f"{missed} of {len(late):,}", float(np.median(delay)), faults]


def deployed(options: DeployConfig, config: RobotConfig, delay: float = 0.0) -> list[Outcome]:
    """Run all episodes of a deployment; continues with the next seed after a fault.

    Args:
        options: the deployment; its files are temporary.
        config: config of the robot.
        delay: artificial delay of the policy's answers, s.
    """
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        while len(outcomes) < options.episodes:
            first = options.seed + len(outcomes)
            rest = options.model_copy(
                update={"episodes": options.episodes - len(outcomes), "seed": first, "estop_file": Path(folder) / "ESTOP"}
            )
            outcomes += deploy(rest, config, Path(folder) / f"{first}.rpdlog", delay)
            if outcomes[-1].fault:
                LOG.info(f"seed {options.seed + len(outcomes) - 1}: {outcomes[-1].reason}")
    return outcomes
