"""What a policy asks for, from hand-made frames of a recording."""

import numpy as np
import pytest

from rpd.deploy.requested_motion import describe, requested_motion
from rpd.envs.control.arm import Arm
from rpd.envs.control.ee_delta import action_spec
from rpd.envs.robots import ROBOTS

ROBOT = ROBOTS["panda"]
ACTION = action_spec(ROBOT)
HOME = np.array(ROBOT.home)


def frame(**changes):
    return {"wanted": HOME, "command": HOME, "clamps": [], "near": [], **changes}


def test_steps_are_in_units_of_the_robot():
    ticks = [frame(raw=np.array([1.0, 0, 0, 0, 0, -2.0, 1.0])), frame(), frame(raw=np.array([-0.5, 0, 0, 0, 0, 0, -1.0]))]
    motion = requested_motion(ticks, ACTION, ROBOT)
    assert motion.steps["x"] == pytest.approx((-0.5 * ACTION.scale[0], ACTION.scale[0]))
    assert motion.steps["yaw"] == pytest.approx((-2 * np.degrees(ACTION.scale[5]), 0.0))
    assert "gripper" not in motion.steps


def test_joints_that_limits_hold_back_are_counted():
    other = HOME.copy()
    other[3] += 0.1
    motion = requested_motion([frame(wanted=other), frame(), frame(), frame()], ACTION, ROBOT)
    assert motion.held_back == {4: 0.25}
    assert describe(motion, ACTION)["joints held back"] == "4 in 25 %"


def test_limits_and_parts_that_come_too_near_are_counted():
    held = frame(clamps=["tilt", "collision"], near=["the hand", "the table"])
    motion = requested_motion([held, held, frame(clamps=["tilt"]), frame()], ACTION, ROBOT)
    assert motion.clamps == {"tilt": 0.75, "collision": 0.5}
    lines = describe(motion, ACTION)
    assert lines["limits"] == "tilt 75.0 %, collision 50.0 %"
    assert lines["too near"] == "the hand to the table (2)"


def test_path_is_that_of_the_tool():
    other = HOME.copy()
    other[0] += 0.2
    motion = requested_motion([frame(), frame(command=other)], ACTION, ROBOT)
    tools = Arm(ROBOT).forward(np.array([HOME, other]))[0]
    np.testing.assert_allclose(motion.path, (tools.min(0), tools.max(0)))


def test_recording_without_commands_has_no_motion():
    assert describe(requested_motion([{}], ACTION, ROBOT), ACTION) == {}
