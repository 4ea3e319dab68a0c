"""`rpd deploy`: run a policy on a robot."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from rpd.config.deploy import DeployConfig
from rpd.datasets.deploy_log.reader import Record
from rpd.deploy import config as configs
from rpd.deploy.outcome import Outcome
from rpd.deploy.requested_motion import describe, requested_motion
from rpd.deploy.session import deploy
from rpd.deploy.summary import facts
from rpd.envs.errors import ConfigError
from rpd.reporting import tables
from rpd.students.io.outputs import claimed_file, unused_file

NOT_STOPPED = 3


def main(options: DeployConfig) -> int:
    """Deploy and print; returns the exit code: 1 after a fault, `NOT_STOPPED` if the robot did not take the stop command."""
    if options.simulate and options.driver is not None:
        raise ConfigError("--simulate runs the simulated arm, and --driver another: leave out one")
    config = configs.load(options.robot, options.driver)
    if options.simulate:
        config = configs.simulated(config)
    stem = f"deploy-{time.strftime('%Y%m%d-%H%M%S')}-{Path(options.robot).stem}"
    out = options.out or unused_file(Path("runs"), stem, ".rpdlog")
    with claimed_file(out, f"{out} exists already: name another --out"):
        outcomes = deploy(options, config, out)
    show(outcomes, asked_of(Record(out)) if options.dry_run else {})
    print(f"record: {out}")
    if any(outcome.stop_failure is not None for outcome in outcomes):
        return NOT_STOPPED
    return int(any(outcome.fault for outcome in outcomes))


def asked_of(recorded: Record) -> dict[str, str]:
    """Lines about the motion that the policy asked for, by label."""
    robot, action = recorded.robot, recorded.spec.action
    ticks = [tick for played in recorded.played for tick in played.ticks]
    return describe(requested_motion(ticks, action, robot), action)


def show(outcomes: Sequence[Outcome], more: Mapping[str, str]) -> None:
    """Print a deployment's statistics, and further lines by label, as a table."""
    table = Table(title="deployment", title_justify="left", header_style="bold", show_header=False)
    for name, value in {**facts(outcomes), **more}.items():
        table.add_row(name, value)
    tables.show(table)
