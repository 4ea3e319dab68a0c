import numpy as np
import pytest

from rpd.deploy import config as configs
from rpd.deploy import safety
from rpd.deploy.kinematics import Arm
from rpd.envs.errors import ConfigError
from rpd.envs.robots import ROBOTS


def test_every_tick_is_commanded_and_recorded(rig):
    deployed = rig()
    outcome = deployed.run(steps=40)
    assert outcome.reason == "time is up" and not outcome.fault
    frames = deployed.ticks()
    assert len(frames) == outcome.ticks == 40
    assert [f["tick"] for f in frames] == list(range(frames[0]["tick"], frames[0]["tick"] + 40))
    assert outcome.asked == 40
    answers = [f["answer"] for f in frames if "answer" in f]
    assert 0 < outcome.answered == len(answers) and (np.diff(answers) > 0).all()
    moved = np.ptp([f["joints"] for f in frames], axis=0)
    assert moved.max() > 0.05
    counters, drift = deployed.settled()
    assert counters["ignored"] == 0 and counters["stopped"] and drift < 1e-3


def test_commands_respect_the_limits(rig, config):
    deployed = rig(rate=100.0)
    deployed.run(steps=30)
    limits, period = config.safety_limits(), 0.01
    commands = np.array([f["command"] for f in deployed.ticks()])
    rates = np.diff(commands, axis=0) / period
    late = np.array([f["missed"] > 0 for f in deployed.ticks()])[2:, None]  # the arm rests after a missed deadline
    changes = rates[1:] - np.where(late, 0.0, rates[:-1])
    assert len(commands) == 150
    assert (commands >= limits.lower).all() and (commands <= limits.upper).all()
    assert (np.abs(rates) <= limits.velocity + 1e-9).all()
    assert (np.abs(changes) <= limits.acceleration * period + 1e-9).all()
    tcp = Arm(ROBOTS["panda"]).forward(commands)[0]
    assert (tcp >= limits.box[0]).all() and (tcp <= limits.box[1]).all()


def test_dry_run_sends_nothing(rig):
    deployed = rig(dry_run=True)
    outcome = deployed.run(steps=10)
    assert not outcome.fault and outcome.answered > 0
    assert deployed.robot.counters == {"commands": 0, "ignored": 0, "last_command": 0.0, "stopped": 0.0}
    assert all(np.isfinite(f["command"]).all() for f in deployed.ticks())


def test_ramp_starts_slowly(rig, config):
    slow = rig(config=config.model_copy(update={"ramp": 2.0}))
    slow.run(steps=20)
    commands = np.array([f["command"] for f in slow.ticks()])
    speed = np.abs(np.diff(commands, axis=0) * 20 / config.limits.velocity).max(axis=1)
    following = np.array([f["time"] for f in slow.ticks()])[2:]  # the next tick begins after a command is decided
    assert all(v <= safety.ramp(t, 2.0) + 1e-9 for v, t in zip(speed[:-1], following, strict=True))


def test_missing_limit_is_an_error(tmp_path):
    path = tmp_path / "own.yaml"
    text = configs.resources.files("rpd.configs").joinpath("robots/sim.yaml").read_text()
    for line, says in {
        "  tcp_speed: 1.0\n": "limits.tcp_speed is missing: it is required to move the robot",
        "  command_timeout: 0.4\n": "watchdog.command_timeout is missing",
        "  max_contact_force: null\n": "limits.max_contact_force is missing",
    }.items():
        path.write_text(text.replace(line, ""))
        with pytest.raises(ConfigError, match=says):
            configs.load(str(path))
    for line, other, says in (
        ("tcp_speed: 1.0", "tcp_speed: .inf", "limits.tcp_speed"),
        ("[2.175, ", "[125, ", "joint 1: 125 rad/s, and the arm has at most 2.175"),
        ("[-1.7628, 1.7628]", "[-101, 101]", "limits.position of joint 2: -101 to 101 rad"),
        ("[60, 60, 60, 60, ", "[60, ", "limits.acceleration has 4 entries, and panda has 7 joints"),
        ("stop_within: 0.4", "stop_within: 0.2", "stop_within 0.2 s cannot be kept"),
        ("[0, 0.37]", "[0.37, 0]", "z from 0.37 to 0 m is empty"),
    ):
        path.write_text(text.replace(line, other))
        with pytest.raises(ConfigError, match=says):
            configs.load(str(path))
    with pytest.raises(ConfigError, match="did you mean sim"):
        configs.load("simm")
