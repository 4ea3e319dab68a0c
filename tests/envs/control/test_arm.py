import mujoco
import numpy as np
import pytest

from rpd.envs.control.arm import Arm
from rpd.envs.robots import ROBOTS
from rpd.envs.tabletop.mjcf import build
from rpd.envs.tabletop.tasks import TASKS


@pytest.mark.parametrize("name", ["panda", "ur5e", "xarm6", "so101"])
def test_agrees_with_mujoco(name):
    robot = ROBOTS[name]
    world = build(TASKS["Reach"], robot)
    data, arm = mujoco.MjData(world.model), Arm(robot)
    low, high = np.array([link.limits for link in robot.links]).T
    joints = low + (high - low) * np.random.default_rng(0).random((20, len(low)))
    position, rotation = arm.forward(joints)
    jacp, jacr = arm.jacobian(joints)
    for k, q in enumerate(joints):
        data.qpos[world.arm] = q
        mujoco.mj_kinematics(world.model, data)
        mujoco.mj_comPos(world.model, data)
        p, r = np.zeros((3, world.model.nv)), np.zeros((3, world.model.nv))
        mujoco.mj_jacSite(world.model, data, p, r, world.tcp)
        np.testing.assert_allclose(position[k], data.site_xpos[world.tcp], atol=1e-9)
        np.testing.assert_allclose(rotation[k], data.site_xmat[world.tcp].reshape(3, 3), atol=1e-9)
        np.testing.assert_allclose(jacp[k], p[:, world.arm_dofs], atol=1e-9)
        np.testing.assert_allclose(jacr[k], r[:, world.arm_dofs], atol=1e-9)
