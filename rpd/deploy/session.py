"""One deployment: robot, cameras, policy and control loop connected, run and closed."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from rpd.config.deploy import STOP, DeployConfig
from rpd.core import realtime
from rpd.datasets.deploy_log.format import Recorder
from rpd.deploy import safety
from rpd.deploy.cameras import Camera, ImageSource, SteppedCamera, check_rates
from rpd.deploy.clock import Clock, RealClock, SteppedClock
from rpd.deploy.config import RobotConfig
from rpd.deploy.consent import confirm_motion
from rpd.deploy.controller import check_actions
from rpd.deploy.delayed_policy import DelayedPolicy
from rpd.deploy.emergency import Emergency
from rpd.deploy.loop import ControlLoop
from rpd.deploy.observe import check_measured, offered
from rpd.deploy.operators.base import Operator
from rpd.deploy.operators.connect import DEVICES
from rpd.deploy.operators.keyboard import Keyboard
from rpd.deploy.operators.scripted import Scripted
from rpd.deploy.outcome import Outcome
from rpd.deploy.policy import PolicyProcess, wanted_spec
from rpd.deploy.robots.base import RobotDriver
from rpd.deploy.robots.connect import build
from rpd.deploy.robots.fits import check_fits
from rpd.deploy.robots.sim import SimDriver
from rpd.deploy.viewpoints import placed_elsewhere
from rpd.envs import user_files
from rpd.envs.config import EnvConfig
from rpd.envs.control.arm import Arm
from rpd.envs.control.arm_limits import alike
from rpd.envs.control.limit_config import limits_of
from rpd.envs.errors import ConfigError
from rpd.envs.live.base import SIMULATORS
from rpd.envs.rebuild import recorded
from rpd.envs.robots import ROBOTS
from rpd.envs.simulator_options import COSTS
from rpd.envs.specs import EnvSpec, Settings
from rpd.policies.made_for import remarks
from rpd.runs.provenance import environment_info

LOG = logging.getLogger(__name__)

Closable = TypeVar("Closable", RobotDriver, Camera, PolicyProcess, Recorder, Operator)


def deploy(options: DeployConfig, config: RobotConfig, out: Path, delay: float = 0.0) -> list[Outcome]:
    """Run the requested episodes.

    Args:
        options: deployment options.
        config: config of the robot.
        out: log file to write.
        delay: artificial delay of the policy's answers, s.

    Returns:
        Outcomes of the started episodes; a fault ends the last.

    Raises:
        ConfigError: inconsistent options, found before the robot moves.
    """
    options.cascade.check()
    realtime.raise_priority()
    with contextlib.ExitStack() as stack:
        wanted = wanted_spec(options.policy, options.task, config.kinematics)
        rate = options.rate or config.rate
        if rate / wanted.control_hz != round(rate / wanted.control_hz):
            raise ConfigError(f"rate {rate:g} Hz is not a multiple of the policy's {wanted.control_hz:g} Hz")
        config = config.model_copy(update={"rate": rate})
        emergency = Emergency(options.estop_file)
        operator: Operator | None = None
        if options.operator in DEVICES:
            if options.stepped:
                raise ConfigError(
                    f"--operator {options.operator}: simulated time does not wait for a person: leave out --stepped"
                )
            operator = _enter(stack, DEVICES[options.operator].connect(options.operator_speed))
            if isinstance(operator, Keyboard):
                emergency.share_keys(operator.press)
        robot = build(config, wanted, options.host, options.stepped)
        stack.callback(robot.close)
        if isinstance(robot, SimDriver):  # its spec is known only after connecting
            robot.connect()
        _fits(robot, config, options)
        _check_cameras(wanted, config)
        spec = offered(wanted, ROBOTS[config.kinematics], robot.spec.tracked, privileged=robot.spec.scene)
        if options.operator == "scripted":
            operator = Scripted(spec)
        clock = SteppedClock(robot) if isinstance(robot, SimDriver) and robot.stepped else RealClock()
        if delay and isinstance(clock, SteppedClock):
            policy: PolicyProcess = DelayedPolicy(options.policy, spec, delay, options.cascade, clock, 1 / rate)
        else:
            policy = PolicyProcess(options.policy, spec, delay, options.cascade)
        _enter(stack, policy)
        check_measured(policy.spec.state_names, Arm(ROBOTS[config.kinematics]), robot.spec.tracked)
        check_actions(policy.spec.action)
        if not isinstance(robot, SimDriver):  # SDK and connection are checked last
            robot.connect()
        cameras = _cameras(stack, spec, config, robot, clock)
        for note in placed_elsewhere(wanted, config):
            LOG.warning(note)
        asked = None if options.cascade.ask == STOP else options.cascade.ask
        met = _met(spec, robot, config, options.robot, wanted)
        for note in remarks(met, options.policy, *options.cascade.ensemble, asked, but=COSTS):
            LOG.warning(note)
        head = {
            "kind": "head", "policy": options.policy, "robot": options.robot, "spec": policy.spec.model_dump_json(),
            "config": config.model_dump_json(), "rate": rate, "dry_run": options.dry_run, "operator": options.operator,
            "when": time.time(), "began": time.monotonic(), "environment": json.dumps(environment_info(), default=str),
            "imports": list(user_files.loaded()),
        }  # fmt: skip
        recorder = _enter(stack, Recorder(out, head))
        loop = ControlLoop(robot, policy, cameras, config, recorder, emergency, options.dry_run, clock, operator)
        _announce(options, config)
        if robot.spec.real and not options.dry_run:
            confirm_motion(options.robot)
        with emergency:
            if not options.stepped:
                if not realtime.enable_realtime(realtime.LOOP):
                    LOG.warning(
                        "no real-time scheduling: other programs on this computer will delay commands; see docs/deploy.md"
                    )
                stack.callback(realtime.disable_realtime)
            return _episodes(loop, options, spec.max_episode_steps, spec.control_hz)


def _episodes(loop: ControlLoop, options: DeployConfig, limit: int, control_hz: float) -> list[Outcome]:
    outcomes = []
    steps = limit if options.seconds is None else max(1, round(options.seconds * control_hz))
    for seed in range(options.seed, options.seed + options.episodes):
        instruction = options.instruction
        if isinstance(loop.context.robot, SimDriver):
            loop.context.robot.reset(seed)
            instruction = instruction or loop.context.robot.instruction
        loop.record({"kind": "episode", "seed": seed, "instruction": instruction})
        outcome = loop.run(steps, instruction, until_solved=loop.context.robot.resets)
        loop.record({"kind": "end", "reason": outcome.reason, "fault": outcome.fault, "stopped_at": outcome.stopped_at,
                     "success": outcome.success, "stop_failure": outcome.stop_failure})  # fmt: skip
        outcomes.append(outcome)
        if outcome.fault:
            break
    return outcomes


def _fits(robot: RobotDriver, config: RobotConfig, options: DeployConfig) -> None:
    """Raise if a robot does not match its file or the options.

    Raises:
        ConfigError: states the difference.
    """
    check_fits(robot, config)
    if not robot.resets and options.episodes > 1:
        raise ConfigError(f"--episodes {options.episodes}: robot {robot.spec.name} begins no episodes by itself: leave it out")


def _met(spec: EnvSpec, robot: RobotDriver, config: RobotConfig, name: str, wanted: EnvSpec) -> EnvSpec:
    """Spec of the actual environment: the simulated robot randomizes nothing; for a real robot, the settings are unknown.

    Args:
        spec: spec of the policy's observations and actions.
        robot: the driver.
        config: config of the robot, whose limits the loop keeps.
        name: name of the robot.
        wanted: spec of training; its limits stay as they are if the loop's are the same.
    """
    if robot.spec.real:
        return spec
    here = recorded(spec, EnvConfig())
    trained, arm = (wanted.settings or Settings()).limits, ROBOTS[config.kinematics]
    same = wanted.embodiment.name == arm.name and alike(config.safety_limits(), limits_of(trained, arm))
    limits = trained if same else f"of robot {name}"
    assert here.settings is not None, "they have just been recorded"
    return here.model_copy(update={"settings": here.settings.model_copy(update={"limits": limits})})


def _check_cameras(wanted: EnvSpec, config: RobotConfig) -> None:
    """Raise if the policy uses a camera that the robot file does not define."""
    for name in (key.removeprefix("image.") for key in wanted.cameras):
        if name not in config.cameras:
            has = ", ".join(config.cameras) or "none"
            raise ConfigError(f"the policy uses camera '{name}', and the robot file has {has}: add it under cameras")
        if config.cameras[name].driver == "sim" and config.driver not in SIMULATORS:
            raise ConfigError(f"cameras.{name}: driver sim has pictures of simulated robots alone, not of {config.driver}")


def _cameras(
    stack: contextlib.ExitStack, spec: EnvSpec, config: RobotConfig, robot: RobotDriver, clock: Clock
) -> Mapping[str, ImageSource]:
    """Start the cameras of a spec, by observation key.

    Raises:
        ConfigError: a camera is missing, or slower than its file states.
    """
    names = {key: key.removeprefix("image.") for key in spec.cameras}
    if isinstance(robot, SimDriver) and robot.stepped:
        return {key: SteppedCamera(name, robot, clock) for key, name in names.items()}
    address = robot.camera_address if isinstance(robot, SimDriver) else None
    cameras = {
        key: _enter(stack, Camera(name, config.cameras[name], spec.observations[key].shape[0], address))
        for key, name in names.items()
    }
    check_rates(cameras, config)
    return cameras


def _announce(options: DeployConfig, config: RobotConfig) -> None:
    brake, unsent = 1000 * safety.stop_time(config.safety_limits()), ", none of them sent" if options.dry_run else ""
    LOG.info(f"{options.policy} on {options.robot}: {config.rate:g} commands per second{unsent}")
    other = "other " if options.operator == "keyboard" else ""
    if options.operator in DEVICES:
        LOG.info(f"{options.operator}: {DEVICES[options.operator].help}")
    LOG.info(
        f"stop: any {other}key, Ctrl-C, or `touch {options.estop_file}`. After a fault the robot is stopped within "
        f"{1000 * config.stop_within:.0f} ms; at its limits it brakes from full speed in {brake:.0f} ms"
    )


def _enter(stack: contextlib.ExitStack, part: Closable) -> Closable:
    stack.callback(part.close)
    return part
