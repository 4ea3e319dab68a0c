"""The xArm driver and the real xarm-python-sdk against a fake controller on the wire, with a simulated arm behind it."""

import os
import signal
import socket

import numpy as np
import pytest
import yaml

pytest.importorskip("xarm")

from rpd.cli.main import main
from rpd.datasets.deploy_log import format as record
from rpd.datasets.deploy_log.reader import Record
from rpd.deploy import config as configs
from rpd.envs.errors import ConfigError
from tests.rpd.deploy.wire import deployed, solve
from tests.rpd.deploy.wire.command import Command
from tests.rpd.deploy.wire.deployed import TASK
from tests.rpd.deploy.wire.process import Fake

WATCHDOG = {"observation_age": 0.6, "policy": 20.0, "max_consecutive_overruns": 400}
PATIENT = WATCHDOG | {"observation_age": 20.0}
STOP_WITHIN = 1.3  # s; a busy machine's. scripts/wire.py measures with the limits of the shipped file


@pytest.fixture(scope="module")
def fake():
    try:
        socket.create_server(("127.255.0.1", 502)).close()
    except OSError as error:
        pytest.skip(f"the controller of an xArm is at port 502: {error}")
    fake = Fake("fake_xarm", TASK, "xarm6")
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def config():
    config = configs.load("xarm6")
    watchdog = config.watchdog.model_copy(update=WATCHDOG)
    return config.model_copy(update={"watchdog": watchdog, "stop_within": STOP_WITHIN})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("pause", "the robot has stopped by itself: paused"),
        ("pendant", "the robot has stopped by itself: by a stop command"),
        ("collision", "the robot has stopped by itself: error 31"),
        ("emergency", "the robot has stopped by itself: error 2"),
        ("contact", "9 A on the arm, and 4 are allowed"),
        ("motion stall", "robot xarm6: "),
        ("motion reset", "robot xarm6: "),
        ("reset", "the connection is closed"),
        ("report stall", "robot xarm6: no reports at port 30002"),
        ("gripper silent", "robot xarm6: gripper: "),
    ],
)
def test_fault_stops_the_arm(run, fault, reason):
    ended = run(fault)
    outcome, (how, when) = ended.outcome, ended.after["stops"][-1]
    assert outcome.fault and reason in outcome.reason, outcome.reason
    assert outcome.stop_failure is None and (how in ("set_state", fault) or reason.endswith(how))
    assert ended.fault <= when <= ended.fault + STOP_WITHIN and outcome.stopped_at <= ended.fault + STOP_WITHIN
    assert ended.speed > deployed.MOVING and ended.after["drift"] < 2e-3
    assert ended.after["last_command"] <= outcome.stopped_at
    assert [frame["kind"] for frame in ended.frames[:1]] == ["head"] and ended.frames[-1]["kind"] == "tick"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("stall", "robot xarm6: "),
        ("slow", "robot xarm6: "),
        ("wrong answers", "an answer to another request"),
    ],
)
def test_fault_of_the_connection_is_named_and_the_arm_holds(run, fault, reason):
    """The controller cannot be asked to stop: the loop says so, and the arm stays at the last command."""
    ended = run(fault)
    assert reason in ended.outcome.reason and "use its emergency stop" in ended.outcome.stop_failure
    assert ended.fault <= ended.outcome.stopped_at <= ended.fault + STOP_WITHIN
    assert ended.after["drift"] < 2e-3
    assert [frame["kind"] for frame in ended.frames[-1:]] == ["stop_failure"]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "reason"), [("refused stop", "refused (code 10)"), ("ignored stop", "it is in state")])
def test_refused_stop_is_announced(run, fault, reason):
    ended = run(fault, after=0.3, seconds=0.5)
    assert ended.outcome.fault and reason in ended.outcome.stop_failure
    assert not ended.after["stops"] and ended.after["drift"] < 2e-3


@pytest.fixture
def command(fake, config, swing, tmp_path):
    """`rpd deploy`, while its arm swings."""
    fake.ask("begin")
    patient = config.model_copy(update={"stop_within": 60.0})
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(patient.model_dump(mode="json")))
    words = ["deploy", swing.url, "--robot", "arm.yaml", "--host", fake.host, "--task", TASK, "--seconds", "300"]
    command = Command(*words, "--out", "a.rpdlog", cwd=tmp_path)
    command.until(lambda: fake.ask("state")["commands"] > 100)
    yield command
    command.close()


@pytest.mark.slow
def test_arm_holds_after_the_loop_is_killed(command, fake, tmp_path):
    command.kill()
    deployed.until(lambda: fake.ask("state")["stops"])
    after = deployed.settled(fake)
    assert [how for how, _ in after["stops"]] == ["set_state"]  # by the driver's process
    assert after["drift"] < 2e-3 and after["commands"] == fake.ask("state")["commands"]
    (played,) = Record(tmp_path / "a.rpdlog").played
    assert len(played.ticks) > 50


@pytest.mark.slow
def test_command_ends_with_the_fault(command, fake, tmp_path):
    fake.ask("fault", name="stall")
    assert command.wait() == 3
    assert "USE ITS EMERGENCY STOP" in command.shown
    assert deployed.settled(fake)["drift"] < 2e-3
    (end,) = [frame for frame in record.read(tmp_path / "a.rpdlog") if frame["kind"] == "end"]
    assert end["fault"] and end["reason"] in command.shown and end["stop_failure"]


@pytest.mark.slow
def test_crash_of_the_sdk_stops_the_arm_without_it(command, fake, tmp_path):
    os.kill(command.child("device_process"), signal.SIGSEGV)
    assert command.wait() == 1, command.shown
    after = deployed.settled(fake)
    assert [how for how, _ in after["stops"]] == ["set_state"] and after["drift"] < 2e-3
    (end,) = [frame for frame in record.read(tmp_path / "a.rpdlog") if frame["kind"] == "end"]
    assert "robot xarm6: the process of its driver has" in end["reason"] and end["stop_failure"] is None


@pytest.mark.slow
def test_trained_policy_solves_its_task_through_the_sdk(fake, tmp_path):
    words = "--robot xarm6 --env.limits published --algorithm dagger --teacher scripted --total-timesteps 6400 --name reach"
    rest = "--env.num-envs 32 --eval-episodes 1 --final-eval-episodes 1 --runs-dir"
    assert main(["train", TASK, *words.split(), *rest.split(), str(tmp_path)]) == 0
    done = list(solve.episodes("xarm6", TASK, str(tmp_path / "reach"), range(3), tmp_path, PATIENT))
    assert any(row["solved"] for row in done), done  # on a busy machine answers come late


def test_gripper_moves_while_the_arm_moves(run, fake, config, swing):
    """The SDK's own default waits until the arm is at rest."""
    swing.change = lambda n, action: np.append(action[:6], np.float32(-1))
    assert fake.ask("state")["opening"] > 0.9
    ended = run("pause", after=1.5)
    assert ended.speed > deployed.MOVING and ended.after["opening"] < 0.5


def test_unsuitable_controller_is_named(fake, config):
    fake.ask("begin")
    timeout = socket.getdefaulttimeout()
    fake.ask("fault", name="report stall")
    with pytest.raises(ConfigError, match="no reports at port 30002"):
        deployed.connected(config, fake.host)
    assert socket.getdefaulttimeout() == timeout, "the SDK's is not left behind"
    fake.ask("begin")
    fake.ask("fault", name="collision")
    with pytest.raises(ConfigError, match="robot xarm6 has error 31: clear it"):
        deployed.connected(config, fake.host)
    with pytest.raises(ConfigError, match=r"robot xarm6 at 127\.254\.0\.9: .*is it on\?"):
        deployed.connected(config, "127.254.0.9")
