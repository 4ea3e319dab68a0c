"""`rpd deploy`: run a policy on a robot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from rpd.config.deploy import DeployConfig
from rpd.deploy import config as configs
from rpd.deploy.outcome import Outcome
from rpd.deploy.session import deploy
from rpd.deploy.summary import facts
from rpd.reporting import tables
from rpd.students.io.outputs import claimed_file, unused_file

NOT_STOPPED = 3


def main(options: DeployConfig) -> int:
    """Deploy and print; returns the exit code: 1 after a fault, `NOT_STOPPED` if the robot did not take the stop command."""
    config = configs.load(options.robot)
    stem = f"deploy-{time.strftime('%Y%m%d-%H%M%S')}-{Path(options.robot).stem}"
    out = options.out or unused_file(Path("runs"), stem, ".rpdlog")
    with claimed_file(out, f"{out} exists already: name another --out"):
        outcomes = deploy(options, config, out)
    show(outcomes)
    print(f"record: {out}")
    if any(outcome.stop_failure is not None for outcome in outcomes):
        return NOT_STOPPED
    return int(any(outcome.fault for outcome in outcomes))


def show(outcomes: Sequence[Outcome]) -> None:
    """Print a deployment's statistics as a table."""
    table = Table(title="deployment", title_justify="left", header_style="bold", show_header=False)
    for name, value in facts(outcomes).items():
        table.add_row(name, value)
    tables.show(table)
