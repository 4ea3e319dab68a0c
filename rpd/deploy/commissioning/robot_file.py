"""Steps: the robot's file, and a first dry run with it."""

from __future__ import annotations

import time
from pathlib import Path

import yaml

from rpd.config.deploy import DeployConfig
from rpd.core.files import write_text
from rpd.deploy import config as configs
from rpd.deploy.commissioning.console import StepFailed, choose
from rpd.deploy.commissioning.walk import Walk
from rpd.deploy.config import RobotConfig
from rpd.deploy.session import deploy
from rpd.deploy.summary import facts
from rpd.envs.errors import ConfigError
from rpd.students.io.outputs import claimed_file, unused_file


def write_file(walk: Walk) -> str:
    """Write the robot file; an existing one is replaced only where a person types so."""
    config, path = walk.station.config, walk.out
    if walk.options.host is not None:
        config = config.model_copy(update={"connection": {**config.connection, "host": walk.options.host}})
    if path.exists():
        walk.console.show(f"{path} exists already")
        if choose(walk.console, "Replace it?", {"replace": "", "keep": "end here"}) == "keep":
            raise StepFailed(f"{path} is kept: name another --out")
    write(config, path, walk.progress.robot)
    return str(path)


def write(config: RobotConfig, path: Path, begun_with: str) -> None:
    """Write a robot file that `rpd.deploy.config.load` reads back as it is.

    Args:
        config: config of the robot.
        path: YAML file to write.
        begun_with: name of the robot file with which the commissioning began.

    Raises:
        ConfigError: a config that its own file would not give; nothing is written.
    """
    when = time.strftime("%Y-%m-%d")
    content = config.model_dump(mode="json", exclude_none=False)
    content["cameras"] = {name: camera.model_dump(mode="json", exclude_none=True) for name, camera in config.cameras.items()}
    text = f"# Written by `rpd robot check {begun_with}` on {when}.\n" + yaml.safe_dump(
        content, sort_keys=False, default_flow_style=None, width=120
    )
    trial = path.with_name(f".{path.stem}.trial{path.suffix}")
    write_text(trial, text)
    try:
        if configs.load(str(trial)) != config:
            raise ConfigError(f"{path}: the robot file does not give the config that it was written from")
        trial.replace(path)
    finally:
        trial.unlink(missing_ok=True)


def dry_run(walk: Walk) -> str:
    """Run the policy without sending its commands, and show what it asks for."""
    policy, console = walk.options.policy, walk.console
    if policy is None:
        console.show(f"next: rpd deploy POLICY --robot {walk.out} --dry-run True")
        return "without a policy"
    out = unused_file(walk.folder, "dry-run", ".rpdlog")
    options = DeployConfig(
        policy=policy, robot=str(walk.out), task=walk.options.task, dry_run=True, out=out, estop_file=walk.options.estop_file
    )
    with claimed_file(out, f"{out} exists already"):
        outcomes = deploy(options, configs.load(str(walk.out)), out)
    for name, value in facts(outcomes).items():
        console.show(f"{name}: {value}")
    if outcomes[-1].fault:
        raise StepFailed(f"the dry run ended by a fault: {outcomes[-1].reason}")
    console.show(f"what the policy asked for: rpd log {out}")
    return f"{outcomes[-1].reason}, {out}"
