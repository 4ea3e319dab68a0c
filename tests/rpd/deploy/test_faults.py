"""Whatever fails while the arm moves: it is told to stop in the stated time, the record is whole, and nothing is sent after."""

import os
import resource
import signal
import threading
import time

import numpy as np
import pytest

from envs.errors import ConfigError
from rpd.deploy.cameras import Camera
from rpd.deploy.config import CameraConfig
from rpd.deploy.emergency import Emergency

FAULT = 0.6  # s after the start: the arm swings


def check(deployed, outcome, when, says):
    """What has to hold after every fault from which the robot survives."""
    assert outcome.fault and says in outcome.reason, outcome.reason
    within = deployed.loop.config.stop_within
    counters, drift = deployed.settled()
    assert when[0] < counters["stopped"] <= when[0] + within + 0.02  # when the robot heard it
    assert counters["last_command"] <= counters["stopped"] and counters["ignored"] == 0
    assert drift < 2e-3
    speeds = [np.abs(f["velocities"]).max() for f in deployed.ticks() if "velocities" in f]
    assert max(speeds[-8:]) > 0.02, "the arm was moving"


@pytest.fixture
def front(sim, keep):
    """A camera, which the test may end."""
    name = "camera"
    return keep(name, lambda: Camera("front", CameraConfig(driver="sim", rate=20), 32, sim.camera_address))


def test_the_policy_answers_with_nan(rig, swing):
    deployed = rig()

    def fail():
        swing.change = lambda n, action: action * np.nan

    when = deployed.later(FAULT, fail)
    check(deployed, deployed.run(), when, "the policy's action is not finite")
    assert np.isnan(deployed.ticks()[-1]["raw"]).any()  # what it said is in the record


@pytest.mark.parametrize(("how", "says"), [("STOP", "the last picture of image.front is"), ("KILL", "camera front: is gone")])
def test_the_camera_freezes_or_dies(rig, front, how, says):
    deployed = rig(cameras={"image.front": front})
    when = deployed.later(FAULT, lambda: os.kill(front.pid, getattr(signal, f"SIG{how}")))
    outcome = deployed.run()
    os.kill(front.pid, signal.SIGCONT)
    check(deployed, outcome, when, says)
    assert deployed.ticks()[-3]["obs"]["image.front"].shape == (32, 32, 3)


@pytest.mark.parametrize(("how", "says"), [("STOP", "the policy has not answered for"), ("KILL", "is gone")])
def test_the_policy_freezes_or_dies(rig, how, says):
    deployed = rig()
    when = deployed.later(FAULT, lambda: os.kill(deployed.policy.pid, getattr(signal, f"SIG{how}")))
    outcome = deployed.run()
    os.kill(deployed.policy.pid, signal.SIGCONT)
    check(deployed, outcome, when, says)


def test_the_disk_is_full(rig):
    deployed = rig()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (deployed.path.stat().st_size + 700, before[1]))

    when = deployed.later(FAULT, fill)
    try:
        outcome = deployed.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check(deployed, outcome, when, "File too large")
    assert len(deployed.ticks()) >= 10


@pytest.mark.parametrize(("pause", "says"), [(0.3, "the computer is too busy"), (0.8, "has stopped by itself: no command for")])
def test_the_processor_is_starved(rig, pause, says):
    """The loop stops running for a while: it or the robot's own watchdog stops the arm, and nothing more is sent."""
    deployed, done = rig(), []

    def hog():
        if time.monotonic() > deployed.began + FAULT and not done:
            done.append(time.monotonic())
            time.sleep(pause)

    deployed.loop.emergency, deployed.began = hog, time.monotonic() + 0.5
    outcome = deployed.run()
    assert outcome.overruns == 0  # it was within a tick
    check(deployed, outcome, done, says)


def test_a_person_stops_it(rig):
    deployed = rig()
    when = deployed.later(FAULT, lambda: setattr(deployed, "wish", "emergency stop: a key"))
    check(deployed, deployed.run(), when, "emergency stop: a key")


def test_the_robot_does_not_answer_any_more(rig):
    """Its process is frozen: what was sent to it waits, and the last of it is the stop."""
    deployed = rig()
    when = deployed.later(FAULT, lambda: os.kill(deployed.robot.pid, signal.SIGSTOP))
    outcome = deployed.run()
    threading.Timer(0.1, lambda: os.kill(deployed.robot.pid, signal.SIGCONT)).start()
    assert outcome.fault and "last measurement is" in outcome.reason
    assert outcome.stopped_at - when[0] <= deployed.loop.config.stop_within
    time.sleep(0.3)
    counters, drift = deployed.settled()
    assert counters["stopped"] and counters["ignored"] == 0 and drift < 2e-3


def test_the_robot_is_disconnected(rig):
    deployed = rig()
    when = deployed.later(FAULT, lambda: os.kill(deployed.robot.pid, signal.SIGKILL))
    outcome = deployed.run()
    assert outcome.fault and "robot sim: is gone" in outcome.reason
    assert outcome.stopped_at - when[0] <= deployed.loop.config.stop_within
    assert "command" not in deployed.ticks()[-1] and "command" in deployed.ticks()[-2]


def test_ways_to_stop(tmp_path):
    with Emergency(tmp_path / "ESTOP") as emergency:
        assert emergency() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert emergency() == "emergency stop: SIGTERM"
    with Emergency(tmp_path / "ESTOP") as emergency:
        (tmp_path / "ESTOP").touch()
        assert emergency() == f"emergency stop: {tmp_path / 'ESTOP'} exists"
    with pytest.raises(ConfigError, match="remove it, or name another --estop-file"):
        Emergency(tmp_path / "ESTOP")
