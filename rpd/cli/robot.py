"""`rpd robot`: bring a robot into service, or check a driver against the contract of drivers."""

from __future__ import annotations

from rpd.config.parser import parse
from rpd.envs.errors import ConfigError, unknown_name

USAGE = "usage: rpd robot check ROBOT, or rpd robot contract FILE.py:Class --robot ROBOT   (--help after each for its options)"


def main(args: list[str]) -> int:
    """Run one of the subcommands; returns the exit code."""
    if not args:
        raise ConfigError(f"which part? {USAGE}")
    what, *rest = args
    if what in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    if what == "contract":
        from rpd.cli.options.robot import ContractOptions

        options = parse(ContractOptions, rest, "rpd robot contract")
        from rpd.cli import robot_contract

        return robot_contract.main(options)
    if what == "check":
        from rpd.cli.options.robot import CheckOptions

        chosen = parse(CheckOptions, rest, "rpd robot check")
        from rpd.cli import robot_check

        return robot_check.main(chosen)
    raise unknown_name("part of rpd robot", what, ("check", "contract"))
