"""Deployments on a fake controller through the real SDK, with a fault while the arm moves."""

import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from rpd.core import realtime
from rpd.datasets.deploy_log import format as record
from rpd.datasets.deploy_log.format import Recorder
from rpd.deploy.loop import ControlLoop
from rpd.deploy.observe import offered
from rpd.deploy.outcome import Outcome
from rpd.deploy.policy import PolicyProcess, wanted_spec
from rpd.deploy.robots.connect import build
from rpd.envs.robots import ROBOTS
from rpd.envs.specs import ObsSpec

TASK = "tabletop/Reach"
AT_REST = 0.01  # rad/s
MOVING = 0.02  # rad/s


@dataclass
class Faulty:
    """A deployment that a fault ended."""

    outcome: Outcome
    fault: float
    """`time.monotonic` of the fault."""
    speed: float
    """Speed of the fastest joint at the fault, rad/s."""
    after: dict
    """The fake's state when its arm is at rest, and `drift`, its motion in the 0.2 s after that, rad."""
    frames: list
    """Frames of the record."""


def load(url, task, config):
    """Process of a served policy that sees what the driver measures."""
    wanted = wanted_spec(url, task, config.kinematics)
    names = offered(wanted, ROBOTS[config.kinematics], (), privileged=False).state_names
    seen = {"state": ObsSpec(shape=(len(names),), dtype="float32")}
    wanted = wanted.model_copy(update={"observations": seen, "state_names": names})
    return PolicyProcess(url, offered(wanted, ROBOTS[config.kinematics], (), privileged=False))


def connected(config, host):
    """A connected driver, as `rpd deploy` makes it."""
    robot = build(config, SimpleNamespace(cameras=[], observations={}, task=""), host)
    try:
        robot.connect()
    except BaseException:
        robot.close()
        raise
    return robot


def run(fake, robot, policy, config, path, fault, after=0.8, seconds=6.0, ramp=0.0):
    """Deploy, and begin a fault `after` seconds; for ``kill`` and the like, `fault` may be a function."""
    config = config.model_copy(update={"ramp": ramp})
    recorder = Recorder(path, {"kind": "head", "spec": policy.spec.model_dump_json(), "config": config.model_dump_json()})
    loop = ControlLoop(robot, policy, {}, config, recorder, lambda: None)
    when = []

    def begin_fault():
        before = fake.ask("state")
        when.extend([fake.ask("fault", name=fault), np.abs(before["velocities"]).max()])

    timer = threading.Timer(after, begin_fault)
    realtime.enable_realtime(realtime.LOOP)
    timer.start()
    try:
        outcome = loop.run(round(seconds * policy.spec.control_hz), "go", until_solved=False)
    finally:
        realtime.disable_realtime()
        timer.join()
        recorder.close()
    return Faulty(outcome, *when, settled(fake), list(record.read(path)))


def until(reached, timeout=30):
    """Wait until `reached()`."""
    end = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def settled(fake, timeout=30):
    """State of the fake once its arm is at rest, with the motion in the 0.2 s after that."""
    until = time.monotonic() + timeout
    while np.abs(fake.ask("state")["velocities"]).max() > AT_REST and time.monotonic() < until:
        time.sleep(0.02)
    before = fake.ask("state")["joints"]
    time.sleep(0.2)
    state = fake.ask("state")
    return state | {"drift": float(np.abs(np.subtract(state["joints"], before)).max())}
