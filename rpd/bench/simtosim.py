"""`rpd bench simtosim`: success of a policy in other simulators, unchanged, on the episodes of its evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from rpd.bench.deploy import Row, compared, deployed, evaluated
from rpd.bench.result import Cell, Column
from rpd.config.deploy import DeployConfig
from rpd.core.statistics import format_rate
from rpd.deploy import config as configs
from rpd.deploy.config import RobotConfig
from rpd.envs.errors import ConfigError
from rpd.envs.live.base import SIMULATORS


def measure(policy: str, robots: Sequence[str], episodes: int, seed: int = 3_000_000) -> Iterator[Row]:
    """Evaluate a policy; deploy it in simulated time on each robot, and with its limits on robot sim; yields each result.

    The difference of robot sim from the evaluation is that of the control loop and its limits; that of the other from robot
    sim is that of the simulators.

    Args:
        policy: a trained policy.
        robots: robot files of simulated robots with the kinematics of the policy.
        episodes: episodes per row, on the seeds seed, seed + 1, ...
        seed: seed of the first episode.

    Raises:
        ConfigError: a robot that is not simulated.
    """
    files = {robot: configs.load(robot) for robot in robots}
    for robot, config in files.items():
        if config.driver not in SIMULATORS:
            raise ConfigError(f"robot {robot} is not simulated: its driver is {config.driver}, and not {', '.join(SIMULATORS)}")
    truth = evaluated(policy, next(iter(files.values())).kinematics, episodes, seed)
    yield Row("rpd eval", truth, None, [])
    home: dict[str, RobotConfig] = {}
    for robot, config in files.items():
        if (at_home := configs.simulated(config)) not in home.values():
            home[f"sim, limits of {robot}"] = at_home
    for what, config in {**home, **files}.items():
        options = DeployConfig(policy=policy, robot=what, episodes=episodes, seed=seed, stepped=True)
        yield compared(what, deployed(options, config), truth)


COLUMNS = (
    Column("robot"), Column("success"), Column("against rpd eval, paired"), Column("commands of a solved episode", ".0f"),
    Column("clamped"), Column("faults"), Column("seeds not solved"),
)  # fmt: skip


def cells(row: Row) -> list[Cell]:
    """Cells of one table row; seeds are counted from the first."""
    failed = " ".join(str(i) for i, solved in enumerate(row.solved) if not solved)
    values: list[Cell] = [row.what, format_rate(sum(row.solved), len(row.solved)), str(row.against or "")]
    if not row.outcomes:
        return [*values, None, None, None, failed]
    lengths = [o.ticks for o, solved in zip(row.outcomes, row.solved, strict=True) if solved]
    ticks, clamps = sum(o.ticks for o in row.outcomes), sum((o.clamps for o in row.outcomes), Counter[str]())
    clamped = ", ".join(f"{name} {100 * count / ticks:.1f} %" for name, count in clamps.most_common())
    faults = "; ".join(sorted({o.reason for o in row.outcomes if o.fault}))
    return [*values, float(np.median(lengths)) if lengths else None, clamped, faults, failed]
