"""`rpd deploy`: a policy on a robot, from a command line."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TypeVar

import tyro
from pydantic import BaseModel, ConfigDict, Field

from envs.errors import ConfigError
from envs.tabletop.robots import ROBOTS
from rpd.deploy import config as configs
from rpd.deploy import realtime, safety
from rpd.deploy.cameras import Camera
from rpd.deploy.cascade import CascadeConfig
from rpd.deploy.config import RobotConfig
from rpd.deploy.emergency import Emergency
from rpd.deploy.loop import Loop, Outcome
from rpd.deploy.observe import offered
from rpd.deploy.policy import PolicyProcess, wanted_spec
from rpd.deploy.record import Recorder
from rpd.deploy.robots.base import Robot
from rpd.deploy.robots.connect import build
from rpd.deploy.robots.sim import SimRobot
from rpd.deploy.summary import show
from rpd.machine import environment_info

Closable = TypeVar("Closable", Robot, Camera, PolicyProcess, Recorder)


class DeployOptions(BaseModel):
    """Run a policy on a robot, with its limits on, and record every tick."""

    model_config = ConfigDict(extra="forbid")

    policy: tyro.conf.Positional[str]
    """Run, checkpoint, policy folder, or a folder that `rpd export` wrote; or teacher:NAME, or remote:ws://HOST:PORT."""
    robot: str
    """Robot that ships (see configs/robots), or a YAML file of your own."""
    host: str | None = None
    """Address of the robot, in place of its file's."""
    task: str | None = None
    """sim: task; default: the one that the policy was trained on. A teacher needs it."""
    instruction: str = ""
    """What to do, for policies that read it; sim: the task's own."""
    episodes: int = Field(1, ge=1)
    """sim: how many, on the seeds seed, seed + 1, ..."""
    seed: int = Field(3_000_000, ge=0)
    """sim: seed of the first episode."""
    rate: float | None = Field(None, gt=0)
    """Commands per second, a multiple of the policy's rate; default: the robot file's."""
    seconds: float | None = Field(None, gt=0)
    """Time to act, at most; default: as long as an episode of the training."""
    dry_run: bool = False
    """Decide and record, but send nothing."""
    cascade: CascadeConfig = Field(default_factory=CascadeConfig)
    estop_file: Path = Path("ESTOP")
    """File that stops the robot as soon as it exists, beside any key and Ctrl-C."""
    out: Path | None = None
    """Record to write; default: runs/deploy-<when>-<robot>.rpdlog."""


def main(options: DeployOptions) -> int:
    """Deploy and print; returns the exit code: 1 where a fault ended it."""
    config = configs.load(options.robot)
    out = options.out or Path("runs") / f"deploy-{time.strftime('%Y%m%d-%H%M%S')}-{Path(options.robot).stem}.rpdlog"
    outcomes = deploy(options, config, out)
    show(outcomes)
    print(f"record: {out}")
    return int(any(outcome.fault for outcome in outcomes))


def deploy(options: DeployOptions, config: RobotConfig, out: Path, delay: float = 0.0) -> list[Outcome]:
    """Run the episodes that the options ask for.

    Args:
        options: what to do.
        config: of the robot.
        out: record to write.
        delay: seconds by which the policy's answers are late on purpose.

    Returns:
        What became of the episodes that were begun; a fault ends the last.

    Raises:
        ConfigError: something does not fit, found before anything moves.
    """
    options.cascade.check()
    realtime.prefer()
    with contextlib.ExitStack() as stack:
        wanted = wanted_spec(options.policy, options.task, config.kinematics)
        rate = options.rate or config.rate
        if rate / wanted.control_hz != round(rate / wanted.control_hz):
            raise ConfigError(f"rate {rate:g} Hz is no multiple of the policy's {wanted.control_hz:g} Hz")
        config = config.model_copy(update={"rate": rate})
        emergency = Emergency(options.estop_file)
        robot = build(config, wanted, options.host)
        stack.callback(robot.close)
        robot.connect()
        _fits(robot, config, options)
        spec = offered(wanted, ROBOTS[config.kinematics], robot.spec.tracked, privileged=robot.spec.scene)
        cameras = {key: _enter(stack, _camera(key, spec.observations[key].shape[0], config, robot)) for key in spec.cameras}
        policy = _enter(stack, PolicyProcess(options.policy, spec, delay, options.cascade))
        head = {
            "kind": "head", "policy": options.policy, "robot": options.robot, "spec": policy.spec.model_dump_json(),
            "config": config.model_dump_json(), "rate": rate, "dry_run": options.dry_run, "when": time.time(),
            "began": time.monotonic(), "environment": json.dumps(environment_info(), default=str),
        }  # fmt: skip
        recorder = _enter(stack, Recorder(out, head))
        loop = Loop(robot, policy, cameras, config, recorder, emergency, options.dry_run)
        _announce(options, config)
        if robot.spec.real and not options.dry_run:
            _confirm(options.robot)
        with emergency:
            if not realtime.promise(realtime.LOOP):
                print("no real-time scheduling: other programs on this computer will delay commands; see docs/deploy.md")
            stack.callback(realtime.release)
            return _episodes(loop, options, spec.max_episode_steps, spec.control_hz)


def _episodes(loop: Loop, options: DeployOptions, limit: int, control_hz: float) -> list[Outcome]:
    outcomes = []
    steps = limit if options.seconds is None else max(1, round(options.seconds * control_hz))
    for seed in range(options.seed, options.seed + options.episodes):
        instruction = options.instruction
        if isinstance(loop.robot, SimRobot):
            loop.robot.reset(seed)
            instruction = instruction or loop.robot.instruction
        loop.record({"kind": "episode", "seed": seed, "instruction": instruction})
        outcome = loop.run(steps, instruction, until_solved=loop.robot.resets)
        loop.record({"kind": "end", "reason": outcome.reason, "fault": outcome.fault, "stopped_at": outcome.stopped_at,
                     "success": outcome.success})  # fmt: skip
        outcomes.append(outcome)
        if outcome.fault:
            break
    return outcomes


def _fits(robot: Robot, config: RobotConfig, options: DeployOptions) -> None:
    """Refuse a robot that is not the one of its file.

    Raises:
        ConfigError: how it differs.
    """
    low, high = robot.spec.rates
    if not low <= config.rate <= high:
        raise ConfigError(f"robot {robot.spec.name} takes {low:g} to {high:g} commands per second, and not {config.rate:g}")
    body = ROBOTS[config.kinematics]
    if len(robot.spec.joints) != len(body.joints):
        raise ConfigError(f"robot {robot.spec.name} has {len(robot.spec.joints)} joints, and {body.name} {len(body.joints)}")
    if (config.limits.effort is None) != (robot.spec.effort is None):
        said = "null" if robot.spec.effort is None else f"a limit in {robot.spec.effort}"
        raise ConfigError(f"limits.effort has to be {said}: robot {robot.spec.name} reports {robot.spec.effort or 'none'}")
    if not robot.resets and options.episodes > 1:
        raise ConfigError(f"--episodes {options.episodes}: robot {robot.spec.name} begins no episodes by itself: leave it out")


def _camera(key: str, size: int, config: RobotConfig, robot: Robot) -> Camera:
    name = key.removeprefix("image.")
    if name not in config.cameras:
        has = ", ".join(config.cameras) or "none"
        raise ConfigError(f"the policy looks through camera '{name}', and the robot's file has {has}: add it under cameras")
    address = robot.camera_address if isinstance(robot, SimRobot) else None
    return Camera(name, config.cameras[name], size, address)


def _announce(options: DeployOptions, config: RobotConfig) -> None:
    brake, unsent = 1000 * safety.stop_time(config.safety_limits()), ", none of them sent" if options.dry_run else ""
    print(f"{options.policy} on {options.robot}: {config.rate:g} commands per second{unsent}")
    print(
        f"stop: any key, Ctrl-C, or `touch {options.estop_file}`. A fault tells the robot to stop within "
        f"{1000 * config.stop_within:.0f} ms; at its limits it brakes from full speed in {brake:.0f} ms"
    )


def _confirm(robot: str) -> None:
    """Have a person who stands beside the robot say so.

    Raises:
        ConfigError: nobody does.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f"robot {robot} is about to move: that is confirmed at a terminal, or not at all (see --dry-run)")
    typed = input(f"The robot will move. Is its workspace clear, and the emergency stop at hand? Type {robot} to begin: ")
    if typed.strip() != robot:
        raise ConfigError(f"not confirmed: '{typed.strip()}' is not {robot}")


def _enter(stack: contextlib.ExitStack, part: Closable) -> Closable:
    stack.callback(part.close)
    return part
