"""Drivers as a user writes them, named ``own_robots.py:Class`` in tests; also stand-ins for an arm in memory."""

import time
from typing import ClassVar

import numpy as np

from rpd.deploy.robots.base import RobotLost, RobotSpec, RobotState
from rpd.envs.robots import ROBOTS


class OwnRobot:
    """An arm that follows its commands at once, in memory."""

    resets = False
    world: ClassVar = {}
    """State of the arms by address, which outlives their drivers."""

    def __init__(self, config, host="here"):
        body = ROBOTS[config.kinematics]
        effort = None if config.limits.max_contact_force is None else "N"
        self.spec = RobotSpec("own", body.joints, (1.0, 500.0), effort=effort, real=False)
        self.arm = self.world.setdefault(host, {"joints": np.array(body.home), "gripper": 1.0})
        self.stopped = False

    def connect(self):
        pass

    def read(self):
        effort = None if self.spec.effort is None else 0.0
        joints = self.arm["joints"].copy()
        return RobotState(time.monotonic(), joints, np.zeros(len(joints)), self.arm["gripper"], effort=effort)

    def command(self, joints, gripper):
        if not self.stopped:
            self.arm["joints"] = joints.copy()
            if gripper is not None:
                self.arm["gripper"] = gripper

    def stop(self):
        self.stopped = True

    def close(self):
        pass


class Slow(OwnRobot):
    """Reading waits."""

    def read(self):
        time.sleep(0.2)
        return super().read()


class Swapped(OwnRobot):
    """Two joints are interchanged."""

    def command(self, joints, gripper):
        super().command(joints[[1, 0, *range(2, len(joints))]], gripper)


class Signed(OwnRobot):
    """Reports and takes motor angles, as LeRobot does: joint = sign (motor - offset), degrees; the arm has its own."""

    truth: ClassVar = {"offset": [0.0] * 5, "sign": [1.0] * 5}

    def __init__(self, config, offset, sign, host="here"):
        super().__init__(config, host)
        self.offset, self.sign = np.array(offset), np.array(sign)

    def read(self):
        state, truth = super().read(), self.truth
        motors = np.degrees(state.joints) / np.array(truth["sign"]) + truth["offset"]
        joints = np.radians(self.sign * (motors - self.offset))
        return RobotState(state.time, joints, state.velocities, state.gripper, effort=state.effort)

    def command(self, joints, gripper):
        motors = np.degrees(joints) / self.sign + self.offset
        super().command(np.radians(np.array(self.truth["sign"]) * (motors - self.truth["offset"])), gripper)


class Restless(OwnRobot):
    """Moves after a stop."""

    def command(self, joints, gripper):
        self.stopped = False
        super().command(joints, gripper)


class Grasping(OwnRobot):
    """The gripper moves without a command for it."""

    def command(self, joints, gripper):
        super().command(joints, 0.0 if gripper is None else gripper)


class Stale(OwnRobot):
    """Its last measurement is a second old."""

    def read(self):
        state = super().read()
        return RobotState(state.time - 1, state.joints, state.velocities, state.gripper, effort=state.effort)


class Fallen(OwnRobot):
    """Stops by an error of its own."""

    def stop(self):
        raise RobotLost("robot own: no answer")


class Half:
    """No driver."""

    def __init__(self, config):
        self.config = config

    def connect(self):
        pass


class Nameless(OwnRobot):
    """Without a spec."""

    def __init__(self, config, host="here"):
        super().__init__(config, host)
        del self.spec


def not_a_class(config):
    return OwnRobot(config)
