"""The UR driver and the real ur_rtde against a fake controller on the wire, with a simulated arm behind it."""

import os
import re
import signal
import socket

import numpy as np
import pytest
import yaml

pytest.importorskip("rtde_control")

from rpd.cli.main import main
from rpd.datasets.deploy_log import format as record
from rpd.datasets.deploy_log.reader import Record
from rpd.deploy import config as configs
from rpd.envs.errors import ConfigError
from tests.rpd.deploy.wire import deployed, episodes
from tests.rpd.deploy.wire.command import Command
from tests.rpd.deploy.wire.deployed import TASK
from tests.rpd.deploy.wire.process import Fake

WATCHDOG = {"observation_age": 0.6, "policy": 20.0, "max_consecutive_overruns": 400, "command_timeout": 1.0}
STOP_WITHIN = 10.0  # s; generous for a busy machine: scripts/deploy_ur.py measures with the limits of the shipped file


@pytest.fixture(scope="module")
def fake():
    fake = Fake("fake_ur", TASK, "ur5e")
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def config():
    config = configs.load("ur5e")
    watchdog = config.watchdog.model_copy(update=WATCHDOG)
    return config.model_copy(update={"watchdog": watchdog, "stop_within": STOP_WITHIN, "ramp": 0.0})


def moving(fake):
    """Wait until the arm moves; returns the speed of its fastest joint, rad/s."""
    deployed.until(lambda: np.abs(fake.ask("state")["velocities"]).max() > 2 * deployed.MOVING)
    return np.abs(fake.ask("state")["velocities"]).max()


def check_stopped(fault, speed, after):
    """The arm was moving, and was stopped in time; it rests."""
    first = min(when for _, when in after["stops"])
    assert speed > deployed.MOVING
    assert fault <= first <= fault + STOP_WITHIN
    assert after["drift"] < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("protective", "the robot has stopped by itself: protective stop"),
        ("safeguard", "the robot has stopped by itself: safeguard stop"),
        ("emergency", "the robot has stopped by itself: emergency stop"),
        ("pendant", "the robot has stopped by itself: its script does not run any more"),
        ("nan", "the robot reports joints that are not numbers"),
        ("jump", "from where it was commanded to be"),
        ("late", "the robot's last measurement is"),
        ("gripper silent", "robot ur5e: gripper: the gripper does not answer"),
        ("gripper wrong", "robot ur5e: gripper: the gripper answers '?'"),
    ],
)
def test_fault_stops_the_arm(run, fault, reason):
    ended = run(fault)
    assert ended.outcome.fault and ended.outcome.stop_failure is None
    assert reason in ended.outcome.reason or "it refuses servoJ" in ended.outcome.reason, ended.outcome.reason
    check_stopped(ended.fault, ended.speed, ended.after)
    assert ended.after["last_command"] <= ended.outcome.stopped_at
    assert ended.frames[0]["kind"] == "head" and ended.frames[-1]["kind"] == "tick"


@pytest.mark.slow
def test_trained_policy_solves_its_task_through_the_sdk(fake, tmp_path):
    words = "--env.robot ur5e --algorithm dagger --teacher scripted --total-timesteps 6400 --env.num-envs 32 --name reach"
    evaluated = "--eval-episodes 1 --final-eval-episodes 1 --runs-dir"
    assert main(["train", TASK, *words.split(), *evaluated.split(), str(tmp_path)]) == 0
    patient = episodes.AS_SIMULATED | {"watchdog": WATCHDOG, "stop_within": 60.0}
    robot = episodes.robot_file(tmp_path, fake, "tracked-ur", "ur5e", **patient)
    for seed in range(2):
        done = episodes.episode(fake, str(tmp_path / "reach"), robot, seed, tmp_path / f"{seed}.rpdlog")
        assert done["solved"] and done["exit_code"] == 0, done


@pytest.fixture
def command(fake, config, swing, tmp_path):
    """`rpd deploy`, while its arm swings: its process ends with all that an SDK leaves behind."""
    fake.ask("begin")
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(config.model_copy(update={"stop_within": 60.0}).model_dump(mode="json")))
    words = ["deploy", swing.url, "--robot", "arm.yaml", "--host", fake.host, "--task", TASK, "--seconds", "300"]
    command = Command(*words, "--out", "a.rpdlog", cwd=tmp_path)
    command.until(lambda: fake.ask("state")["commands"] > 200)
    yield command
    command.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason", "expected"),
    [
        ("stall", "the robot's last measurement is", 1),
        ("reset", "robot ur5e: (it has closed the connection|the process of its driver has)", 1),
        ("silent", "the robot's last measurement is", 3),
    ],
)
def test_lost_connection_ends_the_command(command, fake, tmp_path, fault, reason, expected):
    """Without an answer to the stop command, the controller's own watchdog stops the arm, and the exit does not hang.

    After a reset, ur_rtde 1.6.5 reconnects by itself, with two threads at one socket, and crashes often: that of its process.
    """
    speed = moving(fake)
    when = fake.ask("fault", name=fault)
    code = command.wait()
    assert code == expected, command.shown
    deployed.until(lambda: fake.ask("state")["stops"])
    check_stopped(when, speed, deployed.settled(fake))
    (end,) = [frame for frame in record.read(tmp_path / "a.rpdlog") if frame["kind"] == "end"]
    assert end["fault"] and re.search(reason, end["reason"]) and end["reason"] in command.shown, end["reason"]
    assert ("USE ITS EMERGENCY STOP" in command.shown) == bool(end["stop_failure"]) == (expected == 3)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_crash_of_the_sdk_stops_the_arm_through_the_dashboard(command, fake, tmp_path, how):
    speed, when = moving(fake), fake.ask("fault", name="none")
    os.kill(command.child("device_process"), how)
    assert command.wait() == 1, command.shown
    after = deployed.settled(fake)
    check_stopped(when, speed, after)
    assert [by for by, _ in after["stops"]] == ["dashboard"]
    (end,) = [frame for frame in record.read(tmp_path / "a.rpdlog") if frame["kind"] == "end"]
    assert end["fault"] and end["stop_failure"] is None
    assert "robot ur5e: the process of its driver has" in end["reason"] and end["reason"] in command.shown


@pytest.mark.slow
def test_arm_holds_after_the_loop_is_killed(command, fake, tmp_path):
    speed = moving(fake)
    when = fake.ask("fault", name="none")
    command.kill()
    deployed.until(lambda: fake.ask("state")["stops"])
    after = deployed.settled(fake)
    assert after["stops"][0][0] == "servo stop"  # by the driver's process
    check_stopped(when, speed, after)
    (played,) = Record(tmp_path / "a.rpdlog").played
    assert len(played.ticks) > 50


def test_controller_without_a_stream_is_refused(fake, config):
    fake.ask("begin")
    fake.ask("fault", name="stall")
    with pytest.raises(ConfigError, match=r"robot ur5e at .*: its data stream \(port 30004\) does not answer within 3 s"):
        deployed.connected(config, fake.host)
    with pytest.raises(ConfigError, match=r"robot ur5e at 127\.9\.9\.9: .*Connection refused: is it on"):
        deployed.connected(config, "127.9.9.9")


def test_gripper_that_is_missing_is_refused(fake, config):
    fake.ask("begin")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    absent = config.model_copy(update={"connection": {"gripper_port": port}})
    with pytest.raises(ConfigError, match="Connection refused"):
        deployed.connected(absent, fake.host)


def test_watchdog_begins_with_the_first_command(fake, config):
    """A person may take a while to confirm the start."""
    fake.ask("begin")
    robot = deployed.connected(config, fake.host)
    deployed.settled(fake)
    joints = robot.read().joints
    assert not fake.ask("state")["stops"]
    robot.command(joints, None)
    deployed.until(lambda: fake.ask("state")["stops"])
    assert fake.ask("state")["stops"][0][0] == "watchdog"
    robot.close()
