import numpy as np
import pytest

from rpd.datasets.deploy_log.commanded import commanded_actions
from rpd.envs.control import kinematics
from rpd.envs.control.arm import Arm
from rpd.envs.control.ee_delta import action_spec
from rpd.envs.robots import ROBOTS

PANDA = ROBOTS["panda"]
SCALE = action_spec(PANDA).scale
TICKS = 5  # commands per control step


def moved(arm, joints, action):
    """Joint positions after the motion of the tool that an action asks for, by repeated inverse kinematics."""
    delta = action[:6] * SCALE[:6]
    position, rotation = arm.forward(joints[None])
    goal = (
        position + delta[:3],
        kinematics.quat_mul(kinematics.rotvec_to_quat(delta[None, 3:]), kinematics.mat_to_quat(rotation)),
    )
    for _ in range(30):
        position, rotation = arm.forward(joints[None])
        error = goal[0] - position, kinematics.rotation_error(goal[1], kinematics.mat_to_quat(rotation))
        joints = joints + kinematics.dls(*arm.jacobian(joints[None]), *error, 1e-4, 1.0)[0]
    return joints


def recorded(actions, joints, first=3):
    """Tick frames of a robot that does what it is asked for; the policy's first answer comes at tick `first`."""
    arm, ticks = Arm(PANDA), [{"tick": i, "joints": joints, "command": joints, "open": None} for i in range(first)]
    for action in actions:
        start, joints = joints, moved(arm, joints, action)
        for part in range(1, TICKS + 1):
            command = start + (joints - start) * part / TICKS
            ticks.append({"tick": len(ticks), "joints": start, "command": command, "open": bool(action[6] > 0)})
    return ticks, range(first, len(ticks), TICKS)


@pytest.mark.parametrize("first", [0, 3])
def test_commands_of_a_robot_that_does_what_it_is_asked_for_are_the_actions(first):
    rng = np.random.default_rng(0)
    actions = np.concatenate((rng.uniform(-1, 1, (8, 6)), rng.choice([-1.0, 1.0], (8, 1))), axis=1)
    ticks, answered = recorded(actions, np.array(PANDA.home), first)
    np.testing.assert_allclose(commanded_actions(ticks, answered, PANDA, SCALE), actions, atol=1e-4)


def test_a_step_that_is_cut_short_counts_what_was_commanded():
    ticks, answered = recorded(np.array([[0, 0, 1, 0, 0, 0, 1], [0.5, 0, 0, 0, 0, 0, -1]]), np.array(PANDA.home))
    last = commanded_actions(ticks[:-3], answered, PANDA, SCALE)[-1]
    assert 0.1 < last[0] < 0.3 and last[6] == -1


def test_an_arm_that_is_held_back_did_not_act():
    still = [{"tick": i, "joints": np.array(PANDA.home), "command": np.array(PANDA.home), "open": True} for i in range(10)]
    done = commanded_actions(still, [0, 5], PANDA, SCALE)
    np.testing.assert_allclose(done, [[0, 0, 0, 0, 0, 0, 1]] * 2, atol=1e-6)
    assert done.dtype == np.float32
