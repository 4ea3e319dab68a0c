"""Faults while the arm moves: the stop command comes in time, the record is complete, and no command follows the stop."""

import os
import resource
import signal
import threading
import time

import numpy as np
import pytest

from rpd.deploy.cameras import Camera
from rpd.deploy.config import CameraConfig
from rpd.deploy.emergency import Emergency
from rpd.envs.errors import ConfigError

FAULT = 0.6  # s after the start: the arm swings


class Stalls(threading.Thread):
    """Measures how long this process waits for the processor: the longest delay of a thread that sleeps 5 ms at a time."""

    def __init__(self):
        super().__init__(daemon=True)
        self.longest, self._done = 0.0, threading.Event()

    def run(self):
        while not self._done.is_set():
            began = time.monotonic()
            self._done.wait(0.005)
            self.longest = max(self.longest, time.monotonic() - began - 0.005)

    def close(self):
        self._done.set()
        self.join()


@pytest.fixture
def stalls():
    thread = Stalls()
    thread.start()
    yield thread
    thread.close()


@pytest.fixture
def check(stalls):
    """`check(deployed, outcome, when, reason)`: what holds after every fault from which the robot survives."""

    def check(deployed, outcome, when, reason):
        assert outcome.fault and reason in outcome.reason, outcome.reason
        assert outcome.stopped_at - when[0] <= deployed.loop.context.config.stop_within + stalls.longest + 0.02
        counters, drift = deployed.settled()
        assert when[0] < counters["stopped"]
        assert counters["last_command"] <= counters["stopped"] and counters["ignored"] == 0
        assert drift < 2e-3
        speeds = [np.abs(f["velocities"]).max() for f in deployed.ticks() if "velocities" in f]
        assert max(speeds[-30:]) > 0.02, "the arm was moving"

    return check


@pytest.fixture
def slow_watchdog(make_config):
    """`slow_watchdog("policy")`: one limit of the watchdog at 1 s instead of the robot file's, and time to stop for it."""
    limits = {"policy": 1.0, "observation_age": 1.0, "max_consecutive_overruns": 20}

    def make(name):
        return make_config(**{name: limits[name]}).model_copy(update={"stop_within": 1.1})

    return make


@pytest.fixture
def front(sim, keep):
    """A camera, which the test may end."""
    name = "camera"
    return keep(name, lambda: Camera("front", CameraConfig(driver="sim", rate=20), 32, sim.camera_address))


def test_nan_action_stops_the_robot(rig, swing, check):
    deployed = rig()

    def fail():
        swing.change = lambda n, action: action * np.nan

    when = deployed.later(FAULT, fail)
    check(deployed, deployed.run(), when, "the policy's action is not finite")
    assert np.isnan(deployed.ticks()[-1]["raw"]).any()  # the action is in the record


@pytest.mark.parametrize(("how", "reason"), [("STOP", "the last picture of image.front is"), ("KILL", "camera front: is gone")])
def test_frozen_or_dead_camera_stops_the_robot(rig, front, slow_watchdog, check, how, reason):
    deployed = rig(cameras={"image.front": front}, config=slow_watchdog("observation_age"))
    when = deployed.later(FAULT, lambda: os.kill(front.pid, getattr(signal, f"SIG{how}")))
    outcome = deployed.run()
    os.kill(front.pid, signal.SIGCONT)
    check(deployed, outcome, when, reason)
    assert deployed.ticks()[-3]["obs"]["image.front"].shape == (32, 32, 3)


@pytest.mark.parametrize(("how", "reason"), [("STOP", "the policy has not answered for"), ("KILL", "is gone")])
def test_frozen_or_dead_policy_stops_the_robot(rig, slow_watchdog, check, how, reason):
    deployed = rig(config=slow_watchdog("policy"))
    when = deployed.later(FAULT, lambda: os.kill(deployed.policy.pid, getattr(signal, f"SIG{how}")))
    outcome = deployed.run()
    os.kill(deployed.policy.pid, signal.SIGCONT)
    check(deployed, outcome, when, reason)


def test_full_disk_stops_the_robot(rig, check):
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


@pytest.mark.parametrize(
    ("limit", "pause", "reason"),
    [("max_consecutive_overruns", 1.05, "a command took"), ("policy", 2.5, "has stopped by itself: no command for")],
)
def test_stalled_loop_stops_the_robot(rig, slow_watchdog, check, limit, pause, reason):
    """The loop pauses within a tick: it or the robot's own watchdog stops the arm, and sends no further command."""
    config = slow_watchdog(limit)
    deployed, calls, done = rig(config=config.model_copy(update={"stop_within": pause + 0.1})), [], []

    def hog():  # called at the start of a tick, and before its command
        calls.append(time.monotonic())
        if len(calls) % 2 and calls[-1] > calls[0] + FAULT and not done:
            done.append(calls[-1])
            time.sleep(pause)

    deployed.loop.context.emergency = hog
    check(deployed, deployed.run(), done, reason)


def test_emergency_stop_stops_the_robot(rig, check):
    deployed = rig()
    when = deployed.later(FAULT, lambda: setattr(deployed, "wish", "emergency stop: a key"))
    check(deployed, deployed.run(), when, "emergency stop: a key")


def test_frozen_robot_receives_the_stop_last(rig, slow_watchdog, stalls):
    """The robot's process is frozen: commands queue up, and the last of them is the stop."""
    deployed = rig(config=slow_watchdog("observation_age"))
    when = deployed.later(FAULT, lambda: os.kill(deployed.robot.pid, signal.SIGSTOP))
    outcome = deployed.run()
    threading.Timer(0.1, lambda: os.kill(deployed.robot.pid, signal.SIGCONT)).start()
    assert outcome.fault and "last measurement is" in outcome.reason
    assert outcome.stopped_at - when[0] <= deployed.loop.context.config.stop_within + stalls.longest
    counters, drift = deployed.settled()
    assert counters["stopped"] and counters["ignored"] == 0 and drift < 2e-3


def test_dead_robot_ends_the_episode(rig, stalls):
    deployed = rig()
    when = deployed.later(FAULT, lambda: os.kill(deployed.robot.pid, signal.SIGKILL))
    outcome = deployed.run()
    assert outcome.fault and "robot sim: is gone" in outcome.reason
    assert outcome.stopped_at - when[0] <= deployed.loop.context.config.stop_within + stalls.longest
    assert "command" in deployed.ticks()[-2]  # the last tick has one where the pipe took it before the kernel had closed it


def test_emergency_stop_by_signal_and_file(tmp_path):
    with Emergency(tmp_path / "ESTOP") as emergency:
        assert emergency() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert emergency() == "emergency stop: SIGTERM"
    with Emergency(tmp_path / "ESTOP") as emergency:
        (tmp_path / "ESTOP").touch()
        assert emergency() == f"emergency stop: {tmp_path / 'ESTOP'} exists"
    with pytest.raises(ConfigError, match="remove it, or name another --estop-file"):
        Emergency(tmp_path / "ESTOP")
