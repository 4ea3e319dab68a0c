"""The LeRobot driver and the real lerobot 0.4.4 against fake motors on a serial line, with a simulated SO-101 behind them.

`make test-lerobot` makes their environment, whose pins are not those of the others, and runs these tests in it.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("scservo_sdk", reason="lerobot is in an environment of its own: make test-lerobot")

from rpd.datasets.deploy_log.reader import Record
from rpd.deploy import config as configs
from rpd.deploy.robots.base import RobotLost
from rpd.envs import user_files
from rpd.envs.errors import ConfigError
from tests.rpd.deploy.wire import deployed, feetech_motors
from tests.rpd.deploy.wire.command import Command
from tests.rpd.deploy.wire.deployed import TASK
from tests.rpd.deploy.wire.process import Fake

WATCHDOG = {"observation_age": 1.0, "policy": 20.0, "max_consecutive_overruns": 100}
UNSURE = "switch its power off if it moves"
STOP_WITHIN = 1.7  # s; a busy machine's. scripts/wire.py measures with the limits of the shipped file


@pytest.fixture(scope="module")
def fake():
    fake = Fake("fake_feetech", TASK, "so101")
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    config = configs.load("so101")
    watchdog = config.watchdog.model_copy(update=WATCHDOG)
    connection = feetech_motors.connection(config.connection, folder)
    return config.model_copy(update={"watchdog": watchdog, "connection": connection, "stop_within": STOP_WITHIN})


@pytest.fixture(autouse=True, scope="module")
def patient():
    """The process of a driver imports it, too."""
    user_files.load([Path(__file__).parent / "patient_feetech.py"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("overload", "the robot has stopped by itself: elbow_flex: overload"),
        ("voltage", "the robot has stopped by itself: elbow_flex: voltage"),
        ("jump", "joint 3 is"),
    ],
)
def test_fault_stops_the_arm(run, fault, reason):
    ended = run(fault)
    outcome = ended.outcome
    assert outcome.fault and outcome.stop_failure is None and reason in outcome.reason, outcome.reason
    for stopped in (ended.after["last_command"], outcome.stopped_at):  # commands are not acknowledged
        assert ended.fault <= stopped <= ended.fault + STOP_WITHIN
    assert ended.speed > deployed.MOVING and ended.after["drift"] < 5e-3 and not ended.after["torque_off"]
    assert ended.frames[-1]["kind"] == "tick"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("silent", "There is no status packet"),
        ("missing", "There is no status packet"),
        ("checksum", "Incorrect status packet"),
        ("unplugged", "Input/output error"),
    ],
)
def test_fault_of_the_line_is_named_and_the_arm_holds(run, fault, reason):
    """Without answers nobody knows whether the motors take the stop command; they hold the last one."""
    ended = run(fault)
    assert reason in ended.outcome.reason
    assert re.search(f"{UNSURE}|has not returned for 300 ms: use its emergency stop", ended.outcome.stop_failure)
    assert ended.fault <= ended.outcome.stopped_at <= ended.fault + STOP_WITHIN
    assert ended.after["drift"] < 2e-3 and not ended.after["torque_off"] and ended.after["torque"] == [1] * 6


def test_motors_keep_their_torque_from_connecting_to_closing(fake, config):
    fake.ask("begin")
    before = fake.ask("state")
    robot = deployed.connected(config, fake.host)
    state = robot.read()
    np.testing.assert_allclose(state.joints, before["joints"], atol=2e-3)
    assert state.gripper == pytest.approx(before["opening"], abs=2e-3) and state.stopped is None
    assert fake.ask("state")["commands"] == 0, "nothing is sent"
    robot.command(state.joints, None)
    robot.stop()
    robot.close()
    after = fake.ask("state")
    assert not after["torque_off"] and after["torque"] == [1] * 6


def test_slack_arm_is_configured_and_does_not_jump_to_old_goals(fake, config):
    fake.ask("begin", torque=False)
    before = fake.ask("state")
    robot = deployed.connected(config, fake.host)
    after = deployed.settled(fake)
    robot.close()
    assert after["torque"] == [1] * 6
    np.testing.assert_allclose(after["joints"], before["joints"], atol=3e-3)


def test_one_lost_packet_does_not_end_a_run(fake, robot):
    robot.read()
    fake.ask("lose")
    state = robot.read()
    np.testing.assert_allclose(state.joints, fake.ask("state")["joints"], atol=3e-3)


def test_unsuitable_motors_are_named(fake, config, tmp_path):
    fake.ask("begin")
    fake.ask("set", motor="elbow_flex", address=21, value=32)
    with pytest.raises(ConfigError, match="robot so101 holds, but P_Coefficient of elbow_flex is 32, and LeRobot's is 16"):
        deployed.connected(config, fake.host)
    assert not fake.ask("state")["torque_off"]
    fake.ask("begin")
    fake.ask("fault", name="missing")
    with pytest.raises(ConfigError, match=r"Missing motor IDs: - 3 \(expected model: 777\)$"):
        deployed.connected(config, fake.host)
    fake.ask("begin")
    elsewhere = {**config.connection, "options": {"calibration_dir": str(tmp_path)}}
    with pytest.raises(ConfigError, match="robot so101 is not calibrated: run lerobot-calibrate first"):
        deployed.connected(config.model_copy(update={"connection": elsewhere}), fake.host)
    with pytest.raises(ConfigError, match="Could not connect on port"):
        deployed.connected(config, "/dev/none")


def test_stop_is_refused_while_the_line_is_silent(fake, robot):
    robot.read()
    fake.ask("fault", name="silent")
    with pytest.raises(RobotLost, match=f"{UNSURE}|has not returned"):
        robot.stop()


@pytest.mark.slow
def test_arm_holds_after_the_loop_is_killed(fake, config, swing, tmp_path):
    fake.ask("begin")
    patient = config.model_copy(update={"stop_within": 60.0})
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(patient.model_dump(mode="json")))
    words = ["deploy", swing.url, "--robot", "arm.yaml", "--host", fake.host, "--task", TASK, "--seconds", "300"]
    command = Command(*words, "--out", "a.rpdlog", cwd=tmp_path)
    try:
        command.until(lambda: fake.ask("state")["commands"] > 30)
        command.kill()
        after = deployed.settled(fake)
        assert after["drift"] < 2e-3 and not after["torque_off"] and after["torque"] == [1] * 6
        (played,) = Record(tmp_path / "a.rpdlog").played
        assert len(played.ticks) > 10
    finally:
        command.close()
