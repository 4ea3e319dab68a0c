"""Every driver keeps one contract, against a stand-in of its SDK; see `standin.py` and scripts/signatures.py."""

import contextlib
import copy
import logging
import socket
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from rpd.deploy import config as configs
from rpd.deploy import safety
from rpd.deploy.collision import RESOLUTION, CollisionChecker
from rpd.deploy.policy import wanted_spec
from rpd.deploy.robots.base import RobotLost
from rpd.deploy.robots.connect import build
from rpd.deploy.robots.freshness import Freshness
from rpd.envs.control.arm_limits import work_box
from rpd.envs.control.limit_config import robot_files
from rpd.envs.errors import ConfigError
from rpd.envs.live.base import SIMULATORS
from rpd.envs.robots import ROBOTS
from tests.rpd.deploy import standin


class World:
    """The robot behind an SDK."""

    def __init__(self, robot):
        self.joints = np.array(ROBOTS[robot].home)
        self.opening, self.force, self.halted, self.gone, self.refuses = 0.3, 3.0, False, False, False
        self.state = 2  # of an xArm
        self.frozen: float | None = None  # time stamp of a stream that has ended

    @property
    def clock(self):
        """Time of the newest measurement, on the controller's clock."""
        return time.monotonic() - 1000 if self.frozen is None else self.frozen


def ur(world):
    def servo(this, q, *rest):
        world.joints = np.array(q)
        return not world.refuses

    return "ur5e", {
        "RTDEControlInterface.servoJ": servo,
        "RTDEControlInterface.servoStop": lambda this, a: not world.refuses,
        "RTDEControlInterface.triggerProtectiveStop": lambda this: not world.refuses,
        "RTDEReceiveInterface.getTimestamp": lambda this: world.clock,
        "RTDEReceiveInterface.isConnected": lambda this: not world.gone,
        "RTDEControlInterface.setWatchdog": lambda this, min_frequency: True,
        "RTDEReceiveInterface.getSafetyStatusBits": lambda this: 1 << 2 if world.halted else 1,
        "RTDEReceiveInterface.getRuntimeState": lambda this: 2,
        "RTDEReceiveInterface.getActualQ": lambda this: world.joints.tolist(),
        "RTDEReceiveInterface.getActualQd": lambda this: [0.0] * 6,
        "RTDEReceiveInterface.getActualTCPForce": lambda this: [0.0, world.force, 0.0, 9.0, 9.0, 9.0],
    }


def franka(world):
    sdk = sys.modules["standins"]

    def move(this, motion, asynchronous=False):
        if world.refuses:
            raise sdk.classes["ControlException"]("reflex")
        if hasattr(motion, "goal"):
            world.joints = np.array(motion.goal)

    def state(this):
        if world.gone:
            raise sdk.classes["NetworkException"]("timeout")
        modes, force = sdk.classes["RobotMode"], [0.0, 0.0, world.force, 9.0, 9.0, 9.0]
        return SimpleNamespace(
            q=world.joints, dq=np.zeros(7), O_F_ext_hat_K=force, robot_mode=modes.Reflex if world.halted else modes.Move,
            time=SimpleNamespace(to_sec=lambda: world.clock),
        )  # fmt: skip

    return "panda", {
        "Robot.move": move,
        "Robot.stop": lambda this: move(this, None),
        "Robot.state": state,
        "JointMotion.__init__": lambda this, target, **rest: setattr(this, "goal", target),
        "Gripper.max_width": lambda this: 0.08,
        "Gripper.width": lambda this: 0.08 * world.opening,
    }


def xarm(world):
    def servo(this, angles, is_radian):
        assert is_radian
        world.joints = np.array(angles)
        return 9 if world.refuses else 0

    def set_state(this, state):
        if world.refuses:
            return 9
        world.state = 2 if state == 0 else state
        return 0

    closed = threading.Event()

    def report(this, callback):
        def keep_reporting():
            while not closed.wait(0.02):
                callback({})

        threading.Thread(target=keep_reporting, daemon=True).start()

    fine = {f"XArmAPI.{n}": lambda *a, **k: 0 for n in standin.offers("xarm")["xarm.wrapper.XArmAPI"] if n.startswith("set_")}
    return "xarm6", {
        **fine,
        "XArmAPI.set_servo_angle_j": servo,
        "XArmAPI.set_state": set_state,
        "XArmAPI.register_report_callback": report,
        "XArmAPI.disconnect": lambda this: closed.set(),
        "XArmAPI.axis": lambda this: 6,
        "XArmAPI.mode": lambda this: 1,
        "XArmAPI.get_joint_states": lambda this, is_radian: (
            -1 if world.gone else 0,
            [[*world.joints, 0.0], [0.0] * 7, [0.0] * 7],
        ),
        "XArmAPI.get_gripper_position": lambda this: (0, 850 * world.opening),
        "XArmAPI.error_code": lambda this: 31 if world.halted else 0,
        "XArmAPI.get_err_warn_code": lambda this: (0, [31 if world.halted else 0, 0]),
        "XArmAPI.get_state": lambda this: (0, world.state),
        "XArmAPI.currents": lambda this: [0.1, -world.force, 0.1, 0.1, 0.1, 0.1, 99.0],
    }


def lerobot(world):
    sdk = sys.modules["standins"]
    names = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll"]

    def observe(this):
        if world.gone:
            raise OSError("no status packet")
        degrees = np.degrees(world.joints)
        return {**{f"{n}.pos": d for n, d in zip(names, degrees, strict=True)}, "gripper.pos": 100 * world.opening}

    def send(this, action):
        if world.refuses:
            raise OSError("no status packet")
        world.joints = np.radians([action[f"{n}.pos"] for n in names])

    # LeRobot's configurations are registered by draccus, whose `get_choice_class` they inherit.
    own = sdk.classes["SO101FollowerConfig"]
    fields = {**vars(own), **vars(sdk.classes["RobotConfig"])}

    def choose(name):
        assert name == "so101_follower"

        def configure(**given):
            assert set(given) <= set(fields), given
            return given

        return configure

    sdk.classes["RobotConfig"].get_choice_class = staticmethod(choose)
    return "so101", {
        "make_robot_from_config": lambda config: sdk.classes["SO101Follower"](),
        "SO101Follower.get_observation": observe,
        "SO101Follower.send_action": send,
        "SO101Follower.is_connected": lambda this: True,
        "SO101Follower.is_calibrated": lambda this: True,
    }


DRIVERS = {"ur": ur, "franka": franka, "xarm": xarm, "lerobot": lerobot}
MOVES = {
    "ur": ("RTDEControlInterface.servoJ",), "franka": ("JointMotion.__init__",), "xarm": ("XArmAPI.set_servo_angle_j",),
    "lerobot": ("SO101Follower.send_action",),
}  # fmt: skip
STOPS = {
    "ur": ("RTDEControlInterface.servoStop",), "franka": ("JointStopMotion.__init__",), "xarm": ("XArmAPI.set_state",),
    "lerobot": ("SO101Follower.send_action",),
}  # fmt: skip


class Gripper(threading.Thread):
    """A Robotiq gripper's URCap."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket, self.position = socket.create_server(("127.0.0.1", 0)), 178
        self.port = self.socket.getsockname()[1]
        self.start()

    def run(self):
        end, _ = self.socket.accept()
        with end, contextlib.suppress(ConnectionError):  # a driver that fails hangs up with an answer on the way
            while line := end.recv(1024).decode():
                words = line.split()
                if words[:2] == ["SET", "POS"]:
                    self.position = int(words[2])
                end.sendall(f"POS {self.position}".encode() if words[0] == "GET" else b"ack")


def assemble(driver, monkeypatch, recorded=None):
    """A driver, not connected yet; the world and the stand-in behind it."""
    sdk = standin.Standin(recorded or standin.offers(driver), {})
    monkeypatch.setitem(sys.modules, "standins", sdk)
    world = World({"ur": "ur5e", "franka": "panda", "xarm": "xarm6", "lerobot": "so101"}[driver])
    name, behaviour = DRIVERS[driver](world)
    sdk.behaviour = behaviour
    if driver == "xarm":
        sdk.module("xarm.core.utils.log").logger = logging.getLogger("xarm")
    sdk.install(monkeypatch)
    config = configs.load(name)
    if driver == "ur":
        monkeypatch.setattr("rpd.deploy.robots.ur.check_stream", lambda host, timeout: None)
        config = config.model_copy(update={"connection": {"host": "127.0.0.1", "gripper_port": Gripper().port}})
    wanted = SimpleNamespace(cameras=[], observations={}, task="")
    return build(config, wanted, None).driver, world, sdk, config


def keeps_the_contract(driver, monkeypatch, recorded=None):
    robot, world, sdk, config = assemble(driver, monkeypatch, recorded)
    robot.connect()
    assert not sdk.called(*MOVES[driver]), "nothing moves when it connects"
    assert robot.spec.real and not robot.resets and robot.spec.joints == ROBOTS[config.kinematics].joints

    began = time.monotonic()
    state = robot.read()
    np.testing.assert_allclose(state.joints, world.joints, atol=1e-9)
    assert state.velocities.shape == state.joints.shape and began <= state.time <= time.monotonic()
    assert state.gripper == pytest.approx(0.3, abs=2e-3) and state.stopped is None
    assert state.effort == (pytest.approx(3.0) if robot.spec.effort else None)
    assert (config.limits.max_contact_force is None) == (robot.spec.effort is None)

    goal = state.joints + 0.01 * np.arange(1, len(state.joints) + 1)
    robot.command(goal, 1.0)
    np.testing.assert_allclose(robot.read().joints, goal, atol=1e-9)
    assert len(sdk.called(*MOVES[driver])) == 1

    world.refuses = True
    with pytest.raises(RobotLost, match=f"robot {config.kinematics}: "):
        robot.command(goal, 0.0)
    with pytest.raises(RobotLost, match=f"robot {config.kinematics}: "):
        robot.stop()
    world.refuses = False

    before = len(sdk.calls)
    robot.stop()
    assert any(name in STOPS[driver] for name, _ in sdk.calls[before:])
    before = len(sdk.calls)
    robot.command(goal + 0.1, 1.0)
    assert not [name for name, _ in sdk.calls[before:] if name in MOVES[driver]], "after a stop, nothing is sent"
    np.testing.assert_allclose(robot.read().joints, goal, atol=1e-9)

    if driver != "lerobot":
        world.halted = True
        assert robot.read().stopped
    world.gone = True
    with pytest.raises(RobotLost, match=f"robot {config.kinematics}"):
        robot.read()
    world.gone = False
    robot.close()
    robot.close()


@pytest.mark.parametrize("driver", DRIVERS)
def test_contract(driver, monkeypatch):
    keeps_the_contract(driver, monkeypatch)


@pytest.mark.parametrize("driver", ["ur", "franka"])
def test_measurements_of_a_frozen_stream_grow_old(driver, monkeypatch):
    """The socket stays, and the SDK returns its last packet."""
    robot, world, *_ = assemble(driver, monkeypatch)
    robot.connect()
    robot.read()
    world.frozen = world.clock
    first = robot.read().time
    time.sleep(0.05)
    assert robot.read().time == first <= time.monotonic() - 0.05
    world.frozen = None
    assert robot.read().time > first
    robot.close()


@pytest.mark.parametrize("driver", DRIVERS)
def test_without_an_answer_the_gripper_gets_no_command(driver, monkeypatch):
    grippers = ("Gripper.move_async", "Gripper.grasp_async", "XArmAPI.set_gripper_position")
    robot, world, sdk, _ = assemble(driver, monkeypatch)
    robot.connect()
    robot.command(world.joints, None)
    assert not sdk.called(*grippers)
    assert not any("gripper.pos" in given["action"] for given in sdk.called("SO101Follower.send_action"))
    assert driver != "ur" or robot.read().gripper == pytest.approx(0.3, abs=2e-3)
    robot.close()


@pytest.mark.parametrize("state", [3, 4, 5, 6])
def test_paused_xarm_has_stopped(state, monkeypatch):
    robot, world, *_ = assemble("xarm", monkeypatch)
    robot.connect()
    assert robot.read().stopped is None
    world.state = state
    assert robot.read().stopped
    robot.close()


def test_blocked_gripper_command_does_not_block_the_loop(monkeypatch):
    """As on a paused xArm, whose SDK waits without a limit."""
    robot, world, sdk, _ = assemble("xarm", monkeypatch)
    released, asked = threading.Event(), threading.Event()
    sdk.behaviour["XArmAPI.set_gripper_position"] = lambda this, pos, **rest: (asked.set(), released.wait(60), 0)[-1]
    robot.connect()
    robot.command(world.joints, 1.0)
    assert asked.wait(10)
    robot.command(world.joints + 0.001, 0.0)
    robot.read()
    robot.stop()
    assert not released.is_set()
    released.set()
    robot.close()


def test_refused_gripper_command_ends_the_run(monkeypatch):
    robot, world, sdk, _ = assemble("xarm", monkeypatch)
    sdk.behaviour["XArmAPI.set_gripper_position"] = lambda this, pos, **rest: 9
    robot.connect()

    def command_for_a_while():
        until = time.monotonic() + 30
        while time.monotonic() < until:
            robot.command(world.joints, 1.0)
            time.sleep(0.01)

    with pytest.raises(RobotLost, match=r"set_gripper_position failed: not ready to move \(code 9\)"):
        command_for_a_while()
    robot.close()


def test_so101_keeps_its_torque_when_a_run_ends(monkeypatch):
    given = {}
    robot, _, sdk, _ = assemble("lerobot", monkeypatch)
    choose = sdk.classes["RobotConfig"].get_choice_class

    def noting(name):
        return lambda **fields: given.update(fields) or choose(name)(**fields)

    sdk.classes["RobotConfig"].get_choice_class = staticmethod(noting)
    robot.connect()
    robot.close()
    assert given["disable_torque_on_disconnect"] is False


@pytest.mark.parametrize(
    ("driver", "thing", "member"),
    [
        ("ur", "rtde_control.RTDEControlInterface", "servoJ"),
        ("ur", "rtde_control.RTDEControlInterface", "servoStop"),
        ("franka", "franky.Robot", "move"),
        ("franka", "franky.JointStopMotion", None),
        ("xarm", "xarm.wrapper.XArmAPI", "set_servo_angle_j"),
        ("lerobot", "lerobot.robots.so_follower.SO101Follower", "send_action"),
    ],
)
def test_method_that_is_renamed_is_noticed(driver, thing, member, monkeypatch):
    recorded = copy.deepcopy(standin.offers(driver))
    if member is None:
        del recorded[thing]
    else:
        recorded[thing][f"{member}_new"] = recorded[thing].pop(member)
    with pytest.raises((AttributeError, KeyError)):
        keeps_the_contract(driver, monkeypatch, recorded)


def test_argument_that_is_renamed_is_noticed(monkeypatch):
    recorded = copy.deepcopy(standin.offers("franka"))
    recorded["franky.Robot"]["move"] = "(self, motion, wait=...)"
    with pytest.raises(TypeError, match="asynchronous"):
        keeps_the_contract("franka", monkeypatch, recorded)


@pytest.mark.parametrize("driver", DRIVERS)
def test_missing_sdk_names_the_install_command(driver, monkeypatch):
    robot, *_ = assemble(driver, monkeypatch)
    module = {"ur": "rtde_control", "franka": "franky", "xarm": "xarm.wrapper", "lerobot": "lerobot.robots"}[driver]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"pip install -e '\.\[{driver}\]'"):
        robot.connect()


@pytest.mark.parametrize("name", robot_files())
def test_shipped_robot_limits_allow_its_home_position(name):
    config = configs.load(name)
    robot = ROBOTS[config.kinematics]
    body = CollisionChecker(robot, config.limits.clearance, config.limits.boxes)
    command = safety.initial_command(np.array(robot.home), np.zeros(len(robot.home)), config.safety_limits(), body)
    assert not command.velocity.any()


@pytest.mark.parametrize("name", robot_files())
def test_shipped_workspace_is_that_of_training_with_the_fingertips_above_the_table(name):
    config = configs.load(name)
    robot, box = ROBOTS[config.kinematics], np.array(config.limits.workspace)
    low, high = work_box(robot)
    tip = robot.gripper.finger_tip - robot.gripper.tcp[2]
    np.testing.assert_allclose(box[:, 1], high)
    np.testing.assert_allclose(box[:2, 0], low[:2])
    inside = 0.001 if config.driver in SIMULATORS else 0.0  # which need no more distance than training keeps
    assert -1e-9 - inside <= box[2, 0] - (tip + config.limits.clearance + RESOLUTION) < 0.001


def test_wrong_options_are_named():
    config = configs.load("xarm6").model_copy(update={"connection": {"port": 3}})
    with pytest.raises(ConfigError, match=r"connection of driver xarm: .*'port'"):
        build(config, SimpleNamespace(cameras=[]), "10.0.0.1")
    with pytest.raises(ConfigError, match="for which task"):
        wanted_spec("scripted", None, "panda")
    with pytest.raises(ConfigError, match="random ignores observations and must not drive a robot"):
        wanted_spec("random", None, "panda")


def test_delayed_measurements_are_as_old_as_their_delay(monkeypatch):
    """Their time stamps go on, but they arrive later than the first ones did."""
    now, delay = 100.0, 0.003
    monkeypatch.setattr("rpd.deploy.robots.freshness.time.monotonic", lambda: now)
    freshness = Freshness()
    for _ in range(100):
        now += 0.01
        assert now - freshness.time(now - 60.0 - delay) == pytest.approx(0.0, abs=1e-9)
    delay = 0.5
    now += 0.01
    assert now - freshness.time(now - 60.0 - delay) == pytest.approx(0.497, abs=1e-3)
    delay, now = 0.003, now + 0.01
    assert now - freshness.time(now - 60.0 - delay) == pytest.approx(0.0, abs=1e-3)
