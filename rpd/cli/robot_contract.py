"""`rpd robot contract`: check a driver against the contract of drivers."""

from __future__ import annotations

from rich.table import Table

from rpd.cli.options.robot import ContractOptions
from rpd.deploy import config as configs
from rpd.deploy.commissioning.station import Station
from rpd.reporting import tables

VERDICTS = {True: "kept", False: "BROKEN", None: "not checked"}


def main(options: ContractOptions) -> int:
    """Check a driver; returns the exit code: 1 if it breaks the contract."""
    config = configs.load(options.robot, options.driver)
    station = Station(options.robot, config, options.task, options.host, options.estop_file)
    findings = station.check_contract(options.move)
    table = Table(title=f"contract of driver {options.driver}", title_justify="left", header_style="bold")
    for column in ("clause", "", "measured"):
        table.add_column(column)
    for finding in findings:
        table.add_row(finding.clause, VERDICTS[finding.kept], finding.detail)
    tables.show(table)
    return int(any(finding.kept is False for finding in findings))
