import itertools
from dataclasses import replace

import mujoco
import numpy as np
import pytest

from rpd.deploy import config as configs
from rpd.deploy import safety
from rpd.deploy.collision import RESOLUTION, CollisionChecker, Near
from rpd.deploy.controller import Controller
from rpd.envs.control.arm import Arm
from rpd.envs.control.arm_limits import tool_points
from rpd.envs.control.ee_delta import action_spec
from rpd.envs.robots import ROBOTS

ARMS = ("panda", "fr3", "xarm6", "ur5e", "so101", "ur10e")
BOX = {"bin": ((0.45, 0.55), (0.1, 0.2), (0.0, 0.1))}
CLEARANCE = 0.005


@pytest.fixture(scope="module")
def panda():
    return CollisionChecker(ROBOTS["panda"], CLEARANCE, BOX)


def postures(name, count, spread=0.5, seed=0):
    """Random ones around the home posture."""
    home = np.array(ROBOTS[name].home)
    lower, upper = np.array([link.limits for link in ROBOTS[name].links]).T
    return np.clip(home + np.random.default_rng(seed).normal(0, spread, (count, len(home))), lower, upper)


@pytest.mark.parametrize("name", ARMS)
def test_tool_is_that_of_the_kinematics(name):
    robot, joints = ROBOTS[name], postures(name, 5)
    position, axis = CollisionChecker(robot, CLEARANCE, {}).tool(joints)
    expected, rotation = Arm(robot).forward(joints)
    np.testing.assert_allclose(position, expected, atol=1e-9)
    np.testing.assert_allclose(axis, rotation[:, :, 2], atol=1e-9)


@pytest.mark.parametrize("name", ARMS)
def test_parts_that_touch_by_construction_are_left_out_and_others_are_not(name):
    robot = ROBOTS[name]
    checker = CollisionChecker(robot, CLEARANCE, {})
    assert checker.too_near(np.array(robot.home)) is None
    pairs, last = set(checker.pairs), len(robot.links)
    assert {("the hand", "the table"), ("a finger", "the table"), ("the hand", "the base"), ("a finger", "link 2")} <= pairs
    assert all((f"link {i}", "the table") in pairs for i in range(2, last + 1))
    assert not {("link 1", "the base"), ("the hand", f"link {last}"), ("a finger", "the hand")} & pairs


@pytest.mark.parametrize("name", ARMS)
def test_fingers_are_no_nearer_than_stated_for_any_opening(name):
    robot = ROBOTS[name]
    points = tool_points(robot)
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    robot.attach(spec)
    model = spec.compile()
    data = mujoco.MjData(model)
    table, pads = model.geom("table").id, [model.geom(pad).id for pad in robot.finger_geoms]
    for joints in postures(name, 20, spread=0.2):
        position, rotation = (x[0] for x in Arm(robot).forward(joints[None]))
        stated = position[2] + (points @ rotation[2]).min()
        actual = []
        for opening in (0.0, 0.3, 0.7, 1.0):
            data.qpos[: len(joints)], data.qpos[len(joints) :] = joints, opening * robot.opening / 2
            mujoco.mj_kinematics(model, data)
            actual += [mujoco.mj_geomDistance(model, data, table, pad, 10.0, None) for pad in pads]
        assert stated <= min(actual) + 1e-9


def test_nearest_pair_is_named(panda):
    home = np.array(ROBOTS["panda"].home)
    low = home + np.array([0, 0.4, 0, 0, 0, 0, 0])  # bent forward
    nearest = panda.nearest(np.array([home, low]))
    assert nearest[0].distance > CLEARANCE and panda.too_near(home) is None
    assert (nearest[1].part, nearest[1].other) == ("a finger", "the table") and panda.too_near(low) == nearest[1]
    assert str(Near("link 6", "the table", 0.0031)) == "link 6 is 3 mm from the table"
    assert str(Near("the hand", "the box 'bin'", -0.02)) == "the hand is 20 mm inside of the box 'bin'"


def test_boxes_are_obstacles(panda):
    robot, arm = ROBOTS["panda"], Arm(ROBOTS["panda"])
    joints = np.array(robot.home)
    found = set()
    for _ in range(200):  # over the box, and down
        position, _ = arm.forward(joints[None])
        jacobian = np.concatenate([part[0] for part in arm.jacobian(joints[None])])
        way = np.array([0.5, 0.15, 0.05]) - position[0]
        after = joints + np.linalg.pinv(jacobian, rcond=1e-2) @ np.concatenate((0.05 * way, np.zeros(3)))
        near = panda.collision(np.stack((joints, after)))
        if near is not None:
            found.add(near.other)
            break
        joints = after
    assert found == {"the box 'bin'"}


@pytest.mark.parametrize("name", ["panda", "ur5e", "so101"])
def test_ways_are_judged_as_by_sampling_them_densely(name):
    """Accepted ways keep the clearance everywhere; refused ones do not keep what is required of commands."""
    checker, sampling = (CollisionChecker(ROBOTS[name], CLEARANCE, BOX) for _ in range(2))
    random, judged = np.random.default_rng(0), [0, 0]
    for start in postures(name, 150, seed=1):
        if checker.too_near(start) is not None:
            continue
        steps = random.normal(0, random.choice([0.02, 0.1, 0.3]), (4, len(start)))
        way = np.vstack((start, start + np.cumsum(steps, axis=0)))
        found = checker.collision(way)
        dense = np.concatenate([a + np.linspace(0, 1, 41)[1:, None] * (b - a) for a, b in itertools.pairwise(way)])
        distance = min(near.distance for near in sampling.nearest(dense))
        judged[found is not None] += 1
        if found is None:
            assert distance >= CLEARANCE - 1e-9
        elif found.distance < CLEARANCE + RESOLUTION:  # and not only too much to compute
            assert distance < CLEARANCE + RESOLUTION + 5e-3
    assert min(judged) > 20


def test_going_down_and_rolling_keeps_everything_above_the_table():
    """With the shipped limits the tool could stay in its workspace while the hand and a link go through the table."""
    kept, unchecked = (lowest_of_a_dive(checks) for checks in (True, False))
    assert kept >= CLEARANCE
    assert unchecked < -0.05


def lowest_of_a_dive(checks):
    """Smallest distance of a part of the Panda from the table, m, with `panda.yaml`, and optionally without checks of links."""
    config = configs.load("panda")
    robot, limits, period = ROBOTS["panda"], config.safety_limits(), 1 / config.rate
    body = CollisionChecker(robot, config.limits.clearance, {})
    sampling = CollisionChecker(robot, config.limits.clearance, {})
    if not checks:
        body.collision = lambda way: None
        limits = replace(limits, tilt=np.pi, clearance=-1.0)
    controller = Controller(robot, Arm(robot), action_spec(robot), limits, period)
    home = np.array(robot.home)
    command = safety.initial_command(home, 0 * home, limits, body)
    controller.reset(home)
    smallest = np.inf
    for tick in range(200):
        action = np.array([0, 0, -1.0, 1.0 if tick > 80 else 0, 0, 0, 1])
        wanted = controller.step(action, command.position, command.position)
        command = safety.filter_command(wanted, command, limits, body, period).command
        smallest = min(smallest, sampling.nearest(command.position[None])[0].distance)
    return smallest
