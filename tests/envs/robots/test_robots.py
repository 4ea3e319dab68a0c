"""Robots against published kinematics, and as machines: they track, reach, grasp and lift."""

import math

import mujoco
import numpy as np
import pytest

from rpd.envs.control import kinematics
from rpd.envs.robots import ROBOTS, Robot
from rpd.envs.tabletop.mjcf import SUBSTEPS, TIMESTEP

pytestmark = pytest.mark.parametrize("robot", ROBOTS.values(), ids=ROBOTS.keys())


def transform(rotation=None, translation=(0, 0, 0)) -> np.ndarray:
    t = np.eye(4)
    t[:3, :3] = np.eye(3) if rotation is None else rotation
    t[:3, 3] = translation
    return t


def rx(a):
    return np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])


def ry(a):
    return np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])


def rz(a):
    return np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])


def panda_tcp(q):
    """Franka's modified (Craig) DH table: a, d, alpha; then the flange and the hand."""
    rows = [(0, 0.333, 0), (0, 0, -90), (0, 0.316, 90), (0.0825, 0, 90), (-0.0825, 0.384, -90), (0, 0, 90), (0.088, 0, 90)]
    t = modified_dh(rows, q)
    return t @ transform(rz(-math.pi / 4), (0, 0, 0.107)) @ transform(None, (0, 0, 0.1034))


def xarm6_tcp(q):
    """The manual's modified DH table: a, d, alpha, with the offset of joints 2 and 3; then the gripper."""
    rows = [(0, 0.267, 0), (0, 0, -90), (0.28948866, 0, 0), (0.0775, 0.3425, -90), (0, 0, 90), (0.076, 0.097, -90)]
    offset = np.array([0, -1.3849179, 1.3849179, 0, 0, 0])
    return modified_dh(rows, q + offset) @ transform(None, (0, 0, 0.172))


def modified_dh(rows, q):
    t = np.eye(4)
    for (a, d, alpha), angle in zip(rows, q, strict=True):
        t = t @ transform(rx(math.radians(alpha)), (a, 0, 0)) @ transform(rz(angle), (0, 0, d))
        # Tx(a) and Rx(alpha) commute, Rz(theta) and Tz(d) too
    return t


def ur_tcp(rows, q):
    t = transform(rz(math.pi))
    for (d, a, alpha), angle in zip(rows, q, strict=True):
        t = t @ transform(rz(angle), (0, 0, d)) @ transform(rx(math.radians(alpha)), (a, 0, 0))
    return t @ transform(None, (0, 0, 0.152))


def ur5e_tcp(q):
    """Universal Robots' standard DH table: d, a, alpha; seen from a base turned by half a turn (REP 103)."""
    return ur_tcp([(0.1625, 0, 90), (0, -0.425, 0), (0, -0.3922, 0), (0.1333, 0, 90), (0.0997, 0, -90), (0.0996, 0, 0)], q)


def ur10e_tcp(q):
    """As the UR5e's."""
    rows = [
        (0.1807, 0, 90), (0, -0.6127, 0), (0, -0.57155, 0), (0.17415, 0, 90), (0.11985, 0, -90), (0.11655, 0, 0)
    ]  # fmt: skip
    return ur_tcp(rows, q)


def so101_tcp(q):
    """The public URDF's joint origins: xyz and rpy; then its gripperframe, with z out and y along the jaw's opening."""
    joints = [
        ((0.0388353, 0, 0.0624), (math.pi, 0, -math.pi)),
        ((-0.0303992, -0.0182778, -0.0542), (-math.pi / 2, -math.pi / 2, 0)),
        ((-0.11257, -0.028, 0), (0, 0, math.pi / 2)),
        ((-0.1349, 0.0052, 0), (0, 0, -math.pi / 2)),
        ((0, -0.0611, 0.0181), (math.pi / 2, 0.0486795, math.pi)),
    ]
    t = np.eye(4)
    for (xyz, (roll, pitch, yaw)), angle in zip(joints, q, strict=True):
        t = t @ transform(rz(yaw) @ ry(pitch) @ rx(roll), xyz) @ transform(rz(angle))
    axes = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    return t @ transform(axes, (-0.0079, -0.000218121, -0.0981274))


PUBLISHED_TCP = {"panda": panda_tcp, "xarm6": xarm6_tcp, "ur5e": ur5e_tcp, "so101": so101_tcp}
PUBLISHED_TCP |= {"fr3": panda_tcp, "ur10e": ur10e_tcp, "ur5e_slow": ur5e_tcp}
PUBLISHED_LIMITS = {  # degrees; datasheets
    "panda": [(-166, 166), (-101, 101), (-166, 166), (-176, -4), (-166, 166), (-1, 215), (-166, 166)],
    "fr3": [(-157.2, 157.2), (-102.2, 102.2), (-166.2, 166.2), (-174.3, -8.7), (-160.8, 160.8), (31.2, 258.8), (-172.8, 172.8)],
    "xarm6": [(-360, 360), (-118, 120), (-225, 11), (-360, 360), (-97, 180), (-360, 360)],
    "ur5e": [(-360, 360), (-360, 360), (-180, 180), (-360, 360), (-360, 360), (-360, 360)],
    "ur10e": [(-360, 360), (-360, 360), (-180, 180), (-360, 360), (-360, 360), (-360, 360)],
    "so101": [(-110, 110), (-100, 100), (-96.8, 96.8), (-95, 95), (-157.2, 162.8)],
}

PUBLISHED_LIMITS["ur5e_slow"] = PUBLISHED_LIMITS["ur5e"]


class Bench:
    """A robot on a table, with a 50 g cube if asked, driven by inverse kinematics as an environment does."""

    def __init__(self, robot: Robot, cube: tuple[float, float, float] | None = None, contacts: bool = True):
        spec = mujoco.MjSpec()
        spec.option.timestep, spec.option.integrator = TIMESTEP, mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0.5, 0, -0.05], size=[1, 1, 0.05])
        robot.attach(spec, contacts)
        if cube is not None:
            body = spec.worldbody.add_body(name="cube", pos=cube)
            body.add_freejoint()
            body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[robot.cube_half_size] * 3, mass=0.05)
        self.robot, self.n = robot, len(robot.joints)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.data.qpos[: self.n], self.data.ctrl[: self.n] = robot.home, robot.home
        self.data.qpos[self.n : self.n + 2] = self.data.ctrl[self.n : self.n + 2] = robot.opening / 2
        mujoco.mj_forward(self.model, self.data)
        self.home_quat = kinematics.mat_to_quat(self.tcp_axes)

    @property
    def tcp(self) -> np.ndarray:
        return self.data.site(self.robot.tcp_site).xpos.copy()

    @property
    def tcp_axes(self) -> np.ndarray:
        return self.data.site(self.robot.tcp_site).xmat.reshape(3, 3).copy()

    @property
    def tilt(self) -> float:
        """Degrees between the gripper's axis and straight down."""
        return math.degrees(math.acos(min(1.0, -self.tcp_axes[2, 2])))

    def fk(self, q) -> np.ndarray:
        self.data.qpos[: self.n] = q
        mujoco.mj_kinematics(self.model, self.data)
        return transform(self.tcp_axes, self.tcp)

    def turn_left(self, yaw: float) -> np.ndarray:
        """Rotation vector to home's orientation turned by yaw."""
        return kinematics.rotation_error(
            kinematics.quat_mul(kinematics.rotvec_to_quat(np.array([0, 0, yaw])), self.home_quat),
            kinematics.mat_to_quat(self.tcp_axes),
        )

    def control(self, position, closed=False, yaw=0.0) -> None:
        """One control step of 50 ms towards a position, pointing down, turned by yaw against home."""
        m, d, n = self.model, self.data, self.n
        jacp, jacr = np.zeros((3, m.nv)), np.zeros((3, m.nv))
        mujoco.mj_forward(m, d)
        mujoco.mj_jacSite(m, d, jacp, jacr, m.site(self.robot.tcp_site).id)
        turn = self.turn_left(yaw)[None]
        lower, upper = m.jnt_range[:n].T
        posture = 0.1 * (np.array(self.robot.home) - d.qpos[None, :n]) if n > 6 else None
        d.ctrl[:n] = kinematics.joint_targets(
            d.qpos[None, :n], lower, upper, jacp[None, :, :n], jacr[None, :, :n],
            (position - self.tcp)[None], turn, 0.02, self.robot.rot_weight, posture,
        )  # fmt: skip
        d.ctrl[n : n + 2] = 0 if closed else self.robot.opening / 2
        mujoco.mj_step(m, d, SUBSTEPS)
        mujoco.mj_forward(m, d)

    def move(self, goal, closed=False, settle=15, speed=1.0, yaw=0.0) -> float:
        """Go straight, then wait; return the largest error after 6 control steps of waiting, m."""
        start, goal = self.tcp, np.asarray(goal)
        steps = math.ceil(np.abs(goal - start).max() / (speed * self.robot.max_delta_pos))
        for i in range(steps):
            self.control(start + (goal - start) * (i + 1) / steps, closed, yaw)
        errors = []
        for _ in range(settle):
            self.control(goal, closed, yaw)
            errors.append(np.linalg.norm(self.tcp - goal))
        return max(errors[6:])


def centre(robot: Robot) -> np.ndarray:
    return np.mean(robot.workspace, axis=0)


def test_forward_kinematics_match_the_published_tables(robot):
    bench, rng = Bench(robot), np.random.default_rng(0)
    lower, upper = bench.model.jnt_range[: bench.n].T
    for q in [np.zeros(bench.n), np.array(robot.home), *rng.uniform(lower, upper, (20, bench.n))]:
        np.testing.assert_allclose(bench.fk(q), PUBLISHED_TCP[robot.name](q), atol=1e-5)  # tables are rounded


def test_joint_limits_match_the_datasheets(robot):
    bench = Bench(robot)
    limits = np.degrees(bench.model.jnt_range[: bench.n])
    np.testing.assert_allclose(limits, PUBLISHED_LIMITS[robot.name], atol=0.15)
    np.testing.assert_allclose(bench.model.actuator_ctrlrange[: bench.n], np.radians(limits), atol=1e-9)
    assert [bench.model.joint(i).name for i in range(bench.n + 2)] == [*robot.joints, *robot.fingers]
    assert [bench.model.actuator(i).name for i in range(bench.n + 2)] == [*robot.joints, *robot.fingers]


def test_home_points_down_over_the_middle_of_the_workspace(robot):
    bench = Bench(robot)
    np.testing.assert_allclose(bench.tcp[:2], centre(robot), atol=1e-3)
    assert 2 * robot.cube_half_size < bench.tcp[2] <= robot.max_height + 1e-4
    opening = [1, 0, 0] if robot.name == "so101" else [0, -1, 0]
    np.testing.assert_allclose(bench.tcp_axes[:, 1:], np.transpose([opening, [0, 0, -1]]), atol=1e-3)


def test_home_is_at_rest_without_any_servo_effort(robot):
    bench = Bench(robot)
    mujoco.mj_step(bench.model, bench.data, 100)
    np.testing.assert_allclose(bench.data.qpos[: bench.n], robot.home, atol=1e-6)
    np.testing.assert_allclose(bench.data.actuator_force, 0, atol=1e-3)
    assert bench.data.nefc == 0  # idle fingers and joints cost the solver nothing


def test_pads_open_and_close_as_far_as_promised(robot):
    bench = Bench(robot)
    left, right = (bench.model.geom(name) for name in robot.finger_geoms)

    def gap() -> float:
        apart = np.linalg.norm(bench.data.geom(left.id).xpos - bench.data.geom(right.id).xpos)
        return apart - left.size[1] - right.size[1]

    assert gap() == pytest.approx(robot.opening, abs=1e-6)
    middle = (bench.data.geom(left.id).xpos + bench.data.geom(right.id).xpos) / 2
    offset = bench.tcp_axes.T @ (bench.tcp - middle)
    np.testing.assert_allclose(offset[:2], 0, atol=1e-9)
    assert 0 < offset[2] < left.size[2]  # between the pads, towards their tips
    for _ in range(10):
        bench.control(bench.tcp, closed=True)
    assert gap() == pytest.approx(0, abs=2e-3)


def test_only_pads_of_an_ideal_arm_touch_and_few_shapes_are_drawn(robot):
    model = Bench(robot, contacts=False).model
    touching = {model.geom(i).name for i in range(model.ngeom) if model.geom_contype[i] or model.geom_conaffinity[i]}
    assert touching == {"table", *robot.finger_geoms}
    assert model.ngeom - 1 <= 16
    a, b = (model.geom(name) for name in robot.finger_geoms)
    assert not (a.contype & b.conaffinity) | (b.contype & a.conaffinity)


def test_everything_touches_but_neighbors(robot):
    bench = Bench(robot)
    model, data = bench.model, bench.data
    assert all(model.geom_conaffinity > 0)
    assert data.ncon == 0  # at home nothing is near anything else
    touching = set()
    for _ in range(20):
        data.qpos[1] += 0.05  # shoulder: the hand goes down
        mujoco.mj_forward(model, data)
        touching |= {model.body(model.geom_bodyid[i]).name for c in data.contact if c.dist < 0 for i in c.geom}
    assert touching >= {"world", "hand"}


def test_reaches_every_corner_of_the_workspace_pointing_down(robot):
    bench = Bench(robot)
    (x0, y0), (x1, y1) = robot.workspace
    for z in (robot.cube_half_size, robot.max_height):
        for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)):
            for yaw in (-math.pi / 4, math.pi / 4):
                assert bench.move((x, y, z), yaw=yaw) < 5e-3
                assert bench.tilt < 3
                assert math.degrees(np.linalg.norm(bench.turn_left(yaw))) < 3


def test_moving_target_is_followed_without_oscillation(robot):
    bench = Bench(robot)
    start, step = bench.tcp, 0.7 * robot.max_delta_pos
    errors = []
    for i in range(12):
        goal = start + np.array([0.5, 1, 0]) * step * min(i + 1, 2)
        bench.control(goal)
        errors.append(np.linalg.norm(bench.tcp - goal))
    assert max(errors) < robot.max_delta_pos  # never a whole control step behind
    assert max(errors[6:]) < 2e-3


def test_lifts_a_cube_without_letting_it_slip(robot):
    half = robot.cube_half_size
    cube = np.array([*centre(robot), half])
    bench = Bench(robot, cube=tuple(cube))
    bench.move(cube + np.array([0, 0, 2 * half]))
    bench.move(cube)
    for _ in range(8):
        bench.control(cube, closed=True)
    squeeze = np.abs(bench.data.actuator_force[-2:])
    assert (squeeze > 4 * 0.05 * 9.81).all()  # with friction 1, one finger alone could carry four cubes
    assert (squeeze < robot.gripper.force).all()
    top = np.array([*centre(robot), robot.max_height])
    bench.move(top, closed=True, speed=0.4, settle=8)
    held = bench.data.body("cube").xpos - bench.tcp
    assert np.linalg.norm(held) < half / 2
    assert bench.data.body("cube").xpos[2] > robot.max_height - half / 2


def test_descriptor_is_physics(robot):
    embodiment = robot.embodiment()
    assert embodiment.num_joints == len(robot.joints)
    d = embodiment.descriptor
    assert d["opening"] == robot.opening
    lengths = [np.linalg.norm(link.pos) for link in robot.links]
    assert 0.5 * d["reach"] < sum(lengths) < 2 * d["reach"]
    for i, (low, high) in enumerate(PUBLISHED_LIMITS[robot.name], start=1):
        assert math.degrees(d[f"joint{i}_lower"]) == pytest.approx(low, abs=0.15)
        assert math.degrees(d[f"joint{i}_upper"]) == pytest.approx(high, abs=0.15)
        assert d[f"joint{i}_kp"] > 0 and d[f"joint{i}_kv"] > 0 and d[f"joint{i}_velocity"] > 0
