import threading
import time
from collections import deque
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pytest

from rpd.datasets.deploy_log.reader import Record
from rpd.deploy import config as configs
from rpd.deploy import controller, safety, session
from rpd.deploy.camera_process import Newest
from rpd.deploy.loop import STOP_ATTEMPTS
from rpd.deploy.monitor import check_age
from rpd.deploy.outcome import Stop
from rpd.deploy.robots.base import RobotLost
from rpd.deploy.summary import facts
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.control.arm import Arm
from rpd.envs.control.arm_limits import alike, published
from rpd.envs.control.limit_config import self_contained
from rpd.envs.errors import ConfigError
from rpd.envs.rebuild import differences
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
    missed = np.array([f["missed"] for f in deployed.ticks()])[2:, None]
    changes = np.diff(rates, axis=0)
    assert len(commands) == 150
    assert (commands >= limits.lower).all() and (commands <= limits.upper).all()
    assert (np.abs(rates) <= limits.velocity + 1e-9).all()
    assert (np.abs(changes) <= limits.acceleration * (1 + missed) * period + 1e-9).all()  # also after a missed deadline
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
    text = resources.files("rpd.configs").joinpath("robots/sim.yaml").read_text()
    for line, says in {
        "  tcp_speed: 1.7\n": "limits.tcp_speed is missing: it is required to move the robot",
        "  command_timeout: 0.3\n": "watchdog.command_timeout is missing",
        "  max_contact_force: null\n": "limits.max_contact_force is missing",
        "  clearance: 0.003\n": "limits.clearance is missing",
        "  tilt: 1.058 # the controller aims 0.01 rad and 2 mm within tilt and clearance\n": "limits.tilt is missing",
        "  boxes: {}\n": "limits.boxes is missing",
    }.items():
        path.write_text(text.replace(line, ""))
        with pytest.raises(ConfigError, match=says):
            configs.load(str(path))
    for line, other, says in (
        ("tcp_speed: 1.7", "tcp_speed: .inf", "limits.tcp_speed"),
        ("[2.175, ", "[125, ", "joint 1: 125 rad/s, and the arm has at most 2.175"),
        ("[-1.7628, 1.7628]", "[-101, 101]", "limits.position of joint 2: -101 to 101 rad"),
        ("[15, 7.5, 10, 12.5, ", "[15, ", "limits.acceleration has 4 entries, and panda has 7 joints"),
        ("stop_within: 0.4", "stop_within: 0.2", "stop_within 0.2 s cannot be kept"),
        ("[0.013, 0.37]", "[0.37, 0.013]", "z from 0.37 to 0.013 m is empty"),
        ("command_timeout: 0.3", "command_timeout: 60", "stop_within 0.4 s cannot be kept if the control loop dies"),
        ("[15, 7.5, ", "[3437, 7.5, ", "limits.acceleration: 3437 is implausible: at most 100 rad/s"),
        (
            "rate: 20\n",
            "rate: 1000\n",
            "joint 1: 15 rad/s.2 at 1000 commands per second allows a jerk of 30000 .* 7500",
        ),
        ("tcp_speed: 1.7", "tcp_speed: 250", "limits.tcp_speed: 250 is implausible: at most 2 m/s; mm/s"),
        ("[0.013, 0.37]", "[0.013, 370]", "limits.workspace: 370 is implausible: at most 2 m; mm"),
        ("clearance: 0.003", "clearance: 5", "limits.clearance: 5 is implausible: at most 0.1 m; mm"),
        ("clearance: 0.003", "clearance: 0", "limits.clearance: Input should be greater than 0"),
        ("tilt: 1.058", "tilt: 30", "limits.tilt: 30 is implausible: at most 3.1416 rad; degrees"),
        ("boxes: {}", "boxes: {bin: [[0, 1], [0, 1], [0, 100]]}", "limits.boxes: 100 is implausible: at most 2 m; mm"),
        ("boxes: {}", "boxes: {bin: [[0, 1], [1, 0], [0, 1]]}", "limits.boxes.bin: y from 1 to 0 m is empty"),
        ("max_tracking_error: 0.5", "max_tracking_error: 28", "limits.max_tracking_error: 28 is implausible: at most 1 rad"),
        ("max_contact_force: null", "max_contact_force: 1.0e+9", "limits.max_contact_force: 1e.09 is implausible: at most 300"),
    ):
        path.write_text(text.replace(line, other))
        with pytest.raises(ConfigError, match=says):
            configs.load(str(path))
    with pytest.raises(ConfigError, match="did you mean sim"):
        configs.load("simm")


@pytest.mark.parametrize("error", [RobotLost("robot sim: it refuses"), RuntimeError("from an SDK"), ValueError()])
def test_refused_stop_is_loud_recorded_and_repeated(error, rig, monkeypatch, caplog):
    deployed, asked = rig(), []
    monkeypatch.setattr("rpd.deploy.loop.STOP_PAUSE", 0.0)

    def refuse():
        asked.append(1)
        raise error

    with monkeypatch.context() as refusing:
        refusing.setattr(deployed.robot, "stop", refuse)
        outcome = deployed.run(steps=3)
    deployed.robot.stop()
    reason = str(error) or "ValueError"
    assert (outcome.reason, outcome.fault, outcome.stop_failure) == ("time is up", True, reason)
    assert len(asked) == STOP_ATTEMPTS
    assert f"THE ROBOT DOES NOT TAKE THE STOP COMMAND, USE ITS EMERGENCY STOP ({reason})" in caplog.text
    assert {"kind": "stop_failure", "reason": reason} in deployed.frames()
    assert facts([outcome])["NOT STOPPED"] == f"{reason}: use the robot's emergency stop"


def test_stop_that_is_taken_at_the_second_attempt_is_no_failure(rig, monkeypatch):
    deployed, asked = rig(), []
    stop = deployed.robot.stop

    def refuse_once():
        asked.append(1)
        if len(asked) == 1:
            raise RobotLost("robot sim: busy")
        stop()

    with monkeypatch.context() as refusing:
        refusing.setattr(deployed.robot, "stop", refuse_once)
        outcome = deployed.run(steps=3)
    assert outcome.stop_failure is None and not outcome.fault and len(asked) == 2


def test_gripper_is_not_commanded_before_the_first_answer(rig, monkeypatch):
    deployed, given = rig(), []
    command = deployed.robot.command
    with monkeypatch.context() as noting:
        noting.setattr(deployed.robot, "command", lambda joints, gripper: given.append(gripper) or command(joints, gripper))
        deployed.run(steps=10)
    ticks = deployed.ticks()
    first = next(i for i, tick in enumerate(ticks) if "answer" in tick)
    assert given[:first] == [None] * first and None not in given[first:]
    assert [tick["open"] for tick in ticks] == [None if opening is None else bool(opening) for opening in given]


@pytest.mark.parametrize("age", [float("nan"), -1.0, 0.3])
def test_measurement_of_an_impossible_time_stops(age):
    with pytest.raises(Stop, match=r"the picture is 300 ms old|the time of the picture is not valid"):
        check_age(age, 0.2, "the picture")


def test_fresh_measurement_passes():
    check_age(0.2, 0.2, "the picture")
    check_age(0.0, 0.2, "the picture")


def test_camera_that_is_faster_than_its_rate_gives_its_newest_image():
    """As OpenCV: four buffers, of which `read` returns the oldest."""
    queue, ready = deque(), threading.Condition()

    def grab():
        with ready:
            assert ready.wait_for(lambda: queue, 60)
            return queue.popleft()

    newest = Newest(grab)
    for number in range(5):
        with ready:
            queue.append((float(number), np.zeros((2, 2, 3), np.uint8)))
            ready.notify()
    until = time.monotonic() + 60
    while queue and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert newest()[0] == 4.0


def test_failure_of_a_camera_is_raised_where_it_is_read():
    def grab():
        raise OSError("no more pictures")

    with pytest.raises(OSError, match="no more pictures"):
        Newest(grab)()


def test_unexpected_error_of_an_sdk_ends_the_episode_with_a_stop(rig, monkeypatch):
    deployed = rig()

    def fail(joints, gripper):
        raise KeyError("firmware")

    with monkeypatch.context() as failing:
        failing.setattr(deployed.robot, "command", fail)
        outcome = deployed.run(steps=3)
    assert (outcome.reason, outcome.fault, outcome.stop_failure) == ("KeyError: 'firmware'", True, None)
    assert deployed.settled()[0]["stopped"]


def test_beginning_outside_of_the_training_is_logged_and_recorded(rig, caplog, monkeypatch):
    deployed = rig()
    names = deployed.loop.context.policy.spec.state_names
    training = {"names": [names[0], names[1]], "mean": [10.0, 0.0], "std": [1.0, 100.0]}
    monkeypatch.setattr(deployed.loop.context.policy, "training", training)
    deployed.loop.record({"kind": "episode", "seed": 0, "instruction": "go"})
    outcome = deployed.run(steps=3)
    assert list(outcome.outside) == [names[0]] and outcome.outside[names[0]] < -5
    assert f"outside of what the policy was trained on: {names[0]} by -" in caplog.text
    (played,) = Record(deployed.path).played
    assert played.outside == outcome.outside and len(played.ticks) == 3
    assert names[0] in facts([outcome])["outside of training"]


def test_file_of_a_real_robot_is_simulated_unchanged_but_for_its_devices():
    config = configs.load("so101")
    simulated = configs.simulated(config)
    assert simulated.driver == "sim" and not simulated.connection and simulated.limits.max_contact_force is None
    assert {camera.driver for camera in simulated.cameras.values()} == {"sim"}
    same = {"kinematics", "rate", "stop_within", "ramp", "smoothing", "gripper_hysteresis", "watchdog"}
    assert config.model_dump(include=same) == simulated.model_dump(include=same)
    assert config.safety_limits().tcp_speed == simulated.safety_limits().tcp_speed


@pytest.mark.parametrize("robot", ROBOTS.values(), ids=ROBOTS)
def test_simulated_arm_as_trained_aims_within_the_limits_of_training(robot):
    config = configs.as_trained(configs.load("sim"), robot, "published")
    aimed, trained = controller._inset(config.safety_limits()), published(robot)
    assert config.kinematics == robot.name and (config.safety_limits().velocity == trained.velocity).all()
    assert aimed.clearance == pytest.approx(trained.clearance) and aimed.tilt == pytest.approx(trained.tilt)
    ours = configs.as_trained(configs.load("sim"), ROBOTS["panda"], "published")
    assert ours.limits.acceleration == configs.load("sim").limits.acceleration


def test_simulated_arm_has_the_file_of_training():
    given = configs.as_trained(configs.load("sim"), ROBOTS["so101"], self_contained("so101"))
    assert given.limits == configs.load("so101").limits and given.driver == "sim"


@pytest.mark.parametrize("name", ["sim", "maniskill-panda", "maniskill-xarm6", "robosuite-panda"])
def test_simulated_robots_have_the_limits_of_training(name):
    config = configs.load(name)
    assert alike(config.safety_limits(), published(ROBOTS[config.kinematics]))


@pytest.mark.parametrize("changes", [{"tcp_speed": 0.5}, {"tilt": 0.5}, {"boxes": {"bin": ((0, 1), (0, 1), (0, 1))}}])
def test_other_limits_are_not_alike(changes):
    config = configs.load("sim")
    other = config.limits.model_copy(update=changes)
    assert alike(config.limits.arrays(), config.limits.arrays()) and not alike(config.limits.arrays(), other.arrays())


def test_remarks_on_limits_have_a_cause():
    """Robot sim has the limits of training; a file with others is named."""
    here = SimpleNamespace(spec=SimpleNamespace(real=False))
    env = registry.make("tabletop/Reach", EnvConfig(num_envs=1), num_threads=1)
    for name, differ in (("robosuite-panda", []), ("panda", ["limits published, here of robot panda"])):
        met = session._met(env.spec, here, configs.load(name), name, env.spec)
        assert differences(env.spec, met) == differ
