import math

import numpy as np
import pytest

from rpd.deploy import safety
from rpd.deploy.collision import Near
from rpd.deploy.safety import JointCommand, Unsafe, after_gap, filter_command, initial_command
from rpd.envs.control.arm_limits import ArmLimits

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

PERIOD = 0.05
STILL = np.zeros(2)


class Planar:
    """Two links of 0.5 m in a plane, beside a wall at y = `wall`; the tool is tilted by the sum of the joints."""

    def __init__(self, wall=2.0):
        self.wall = wall

    def tool(self, joints):
        a, b = joints[:, 0], joints.sum(axis=1)
        place = np.stack([0.5 * (np.cos(a) + np.cos(b)), 0.5 * (np.sin(a) + np.sin(b)), 0 * a], axis=1)
        return place, np.stack([np.sin(b), 0 * b, -np.cos(b)], axis=1)

    def too_near(self, joints):
        return self.collision(np.stack((joints, joints)))

    def collision(self, way):
        distance = self.wall - 0.5 * np.sin(way[1:, 0]).max()
        return Near("link 1", "the wall", float(distance)) if distance < 0 else None


BODY = Planar()


def place(joints):
    return BODY.tool(joints)[0]


def limits(**changes):
    values = {
        "lower": np.array([-2.0, -2.0]), "upper": np.array([2.0, 2.0]), "velocity": np.array([1.0, 2.0]),
        "acceleration": np.array([5.0, 5.0]), "box": (np.array([-2.0, -2.0, -2.0]), np.array([2.0, 2.0, 2.0])),
        "tcp_speed": 10.0, "tilt": math.pi, "clearance": 0.0,
    }  # fmt: skip
    return ArmLimits(**(values | changes))


def rest(*joints):
    return JointCommand(np.array(joints, dtype=float), np.zeros(2))


def test_command_within_limits_is_unchanged():
    filtered = filter_command(np.array([0.005, -0.01]), rest(0, 0), limits(), BODY, PERIOD)
    assert filtered.clamps == ()
    np.testing.assert_allclose(filtered.command.position, [0.005, -0.01])
    np.testing.assert_allclose(filtered.command.velocity, [0.1, -0.2])


def test_velocity_is_scaled_and_keeps_its_direction():
    moving = JointCommand(np.zeros(2), np.array([1.0, 1.0]))
    filtered = filter_command(np.array([0.2, 0.2]), moving, limits(), BODY, PERIOD)  # 4 rad/s each, of which the first may 1
    assert filtered.clamps == ("velocity",)
    np.testing.assert_allclose(filtered.command.velocity, [1.0, 1.0])


def test_acceleration_is_bounded():
    filtered = filter_command(np.array([0.05, 0.05]), rest(0, 0), limits(), BODY, PERIOD)  # 1 rad/s from rest
    assert filtered.clamps == ("acceleration",)
    np.testing.assert_allclose(filtered.command.velocity, [0.25, 0.25])  # 5 rad/s^2 x 0.05 s


def test_joint_stops_at_its_limit():
    command, positions = rest(1.5, 0), []
    for _ in range(60):
        command = filter_command(np.array([9.0, 0.0]), command, limits(), BODY, PERIOD).command
        positions.append(command.position[0])
    assert max(positions) <= 2.0
    assert positions[-1] == pytest.approx(2.0, abs=1e-6)


def test_tool_stops_at_the_workspace_limit():
    box = (np.array([-2.0, -2.0, -2.0]), np.array([2.0, 0.5, 2.0]))
    command, clamped = rest(0, 0), set()
    for _ in range(60):
        filtered = filter_command(command.position + 0.2, command, limits(box=box), BODY, PERIOD)
        command = filtered.command
        clamped |= set(filtered.clamps)
        assert place(command.position[None])[0, 1] <= 0.5
    assert "workspace" in clamped
    assert place(command.position[None])[0, 1] > 0.4


def test_tool_speed_is_limited():
    slow = limits(tcp_speed=0.1)
    command = rest(0, 0.5)
    for _ in range(20):
        filtered = filter_command(command.position + 0.2, command, slow, BODY, PERIOD)
        assert np.linalg.norm(place(filtered.command.position[None]) - place(command.position[None])) <= 0.1 * PERIOD
        command = filtered.command
    assert filtered.clamps[-1] == "tcp_speed"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_unsafe(bad):
    with pytest.raises(Unsafe, match="finite"):
        filter_command(np.array([0.0, bad]), rest(0, 0), limits(), BODY, PERIOD)


def test_arm_outside_of_its_limits_does_not_start():
    with pytest.raises(Unsafe, match=r"joint 2 is at 2.500 rad, outside of its limits -2 to 2"):
        initial_command(np.array([0.0, 2.5]), STILL, limits(), BODY)
    with pytest.raises(Unsafe, match="outside of the workspace"):
        initial_command(np.zeros(2), STILL, limits(box=(np.zeros(3), np.full(3, 0.5))), BODY)
    with pytest.raises(Unsafe, match=r"the tool points 0.500 rad away from straight down, and 0.4 are allowed"):
        initial_command(np.array([0.2, 0.3]), STILL, limits(tilt=0.4), BODY)
    with pytest.raises(Unsafe, match=r"the tool moves at 0.500 m/s, and 0.4 are allowed: let the arm come to rest"):
        initial_command(np.zeros(2), np.array([0.0, 1.0]), limits(tcp_speed=0.4), BODY)
    with pytest.raises(Unsafe, match=r"link 1 is 20 mm inside of the wall: move it by hand, or correct limits.clearance"):
        initial_command(np.array([0.2, 0.0]), STILL, limits(), Planar(wall=0.5 * math.sin(0.2) - 0.02))
    with pytest.raises(Unsafe, match="not numbers"):
        initial_command(np.zeros(2), np.array([0.0, math.nan]), limits(), BODY)


def test_tool_stops_at_the_largest_tilt():
    command, clamped = rest(0, 0), set()
    for _ in range(60):
        filtered = filter_command(command.position + np.array([0.0, 0.2]), command, limits(tilt=0.6), BODY, PERIOD)
        command = filtered.command
        clamped |= set(filtered.clamps)
        assert command.position.sum() <= 0.6
    assert "tilt" in clamped and command.position.sum() > 0.5


def test_link_stops_before_an_obstacle_which_is_named():
    wall, command, found = Planar(wall=0.3), rest(0, 0), None
    for _ in range(60):
        filtered = filter_command(command.position + np.array([0.2, -0.2]), command, limits(), wall, PERIOD)
        command = filtered.command
        assert ("collision" in filtered.clamps) == (filtered.near is not None)
        found = filtered.near or found
        assert 0.5 * np.sin(command.position[0]) <= 0.3
    assert (found.part, found.other) == ("link 1", "the wall")
    assert 0.5 * np.sin(command.position[0]) > 0.25


def test_braking_comes_to_rest_in_the_stated_time():
    fast = JointCommand(np.zeros(2), np.array([1.0, -2.0]))
    way = safety.braking(fast, limits(), PERIOD)
    np.testing.assert_allclose(way[0], [0.75 * PERIOD, -1.75 * PERIOD])
    np.testing.assert_allclose(way[-1], [(0.75 + 0.5 + 0.25) * PERIOD, -(1.75 + 1.5 + 1.25 + 1 + 0.75 + 0.5 + 0.25) * PERIOD])
    assert len(way) * PERIOD <= safety.stop_time(limits()) + PERIOD
    assert len(safety.braking(rest(0, 0), limits(), PERIOD)) == 0


MOVING = JointCommand(np.zeros(2), np.array([1.0, -1.0]))


@pytest.mark.parametrize(
    ("measured", "after"),
    [
        ([1.0, -1.0], [1.0, -1.0]),  # the arm has not slowed down yet
        ([0.9, -0.8], [0.9, -0.8]),
        ([0.0, 0.0], [0.5, -0.5]),  # 2 periods at 5 rad/s^2: the stream brakes no harder
        ([7.0, 3.0], [1.0, -0.5]),
    ],
)
def test_after_a_gap_the_arm_is_as_fast_as_measured_within_the_acceleration_limit(measured, after):
    now = after_gap(MOVING, np.array(measured), 2, limits(), BODY, PERIOD)
    np.testing.assert_array_equal(now.position, MOVING.position)
    np.testing.assert_allclose(now.velocity, after)


def test_stream_of_commands_never_brakes_harder_than_allowed_after_a_late_tick():
    period, velocity = 0.01, np.array([1.0, 1.0])
    for missed in (1, 2, 3):
        before = JointCommand(np.zeros(2), velocity)
        now = after_gap(before, np.zeros(2), missed, limits(), BODY, period)
        after = filter_command(np.zeros(2), now, limits(), BODY, period).command
        change = (after.position - before.position) / period - before.velocity
        assert (np.abs(change) <= limits().acceleration * (1 + missed) * period + 1e-9).all()


def test_after_a_gap_planned_braking_continues_if_there_is_no_room_for_another():
    """The second joint alone would carry the tool through the wall; together with the first one, it does not."""

    class Narrow(Planar):
        def collision(self, way):
            return None if np.allclose(way[:, 0], -way[:, 1]) else Near("the tool", "the wall", 0.0)

    now = after_gap(MOVING, np.array([1.0, -0.5]), 2, limits(), Narrow(), PERIOD)
    assert now is MOVING


def test_gripper_hysteresis_and_ramp():
    assert safety.gripper_with_hysteresis(0.1, opened=False, hysteresis=0.0)
    assert not safety.gripper_with_hysteresis(0.1, opened=False, hysteresis=0.3)
    assert safety.gripper_with_hysteresis(-0.1, opened=True, hysteresis=0.3)
    assert not safety.gripper_with_hysteresis(-0.4, opened=True, hysteresis=0.3)
    assert safety.ramp(0, 2) == 0.1 and safety.ramp(1, 2) == pytest.approx(0.55) and safety.ramp(2, 2) == safety.ramp(0, 0) == 1
    np.testing.assert_allclose(safety.smooth(np.ones(2), np.zeros(2), 0.75), 0.25)


number = st.floats(allow_nan=True, allow_infinity=True, width=64)
near = st.floats(-0.5, 0.5)


@st.composite
def cases(draw):
    """An arm's limits, where it rests, and what is asked of it: near, far, or nonsense; a rate and a ramp."""
    positive = st.floats(0.05, 20.0)
    lower = np.array([draw(st.floats(-3, -0.01)) for _ in range(2)])
    upper = np.array([draw(st.floats(0.01, 3)) for _ in range(2)])
    size = [draw(st.floats(0.01, 1.5)) for _ in range(6)]
    start = place(np.zeros((1, 2)))[0]
    box = (start - size[:3], start + size[3:])
    velocity = np.array([draw(positive) for _ in range(2)])
    acceleration = np.array([draw(positive) for _ in range(2)])
    arm = ArmLimits(lower, upper, velocity, acceleration, box, draw(st.floats(0.01, 5.0)), draw(st.floats(0.05, math.pi)), 0.0)
    relative = draw(st.booleans())
    asked = draw(st.lists(st.tuples(near if relative else number, near if relative else number), min_size=1, max_size=8))
    return arm, draw(st.sampled_from([0.002, 0.01, 0.05, 0.2])), draw(st.floats(0.05, 1.0)), relative, asked


@pytest.mark.slow
@settings(max_examples=3_000, deadline=None, derandomize=True, database=None)
@given(cases())
def test_nothing_outside_of_the_limits_passes(case):
    arm, period, speed, relative, asked = case
    command = initial_command(np.zeros(2), STILL, arm, BODY)
    for joints in asked:
        wanted = np.array(joints) + (command.position if relative else 0)
        try:
            after = filter_command(wanted, command, arm, BODY, period, speed).command
        except Unsafe:
            assert not np.isfinite(wanted).all()
            break
        check(command, after, arm, period)
        command = after
    for posture in safety.braking(command, arm, period):  # and whenever it ends, there is a way to rest
        after = JointCommand(posture, (posture - command.position) / period)
        check(command, after, arm, period)
        command = after


def check(before, after, arm, period):
    slack = 1e-9
    assert np.isfinite(after.position).all()
    assert (after.position >= arm.lower).all() and (after.position <= arm.upper).all()
    velocity = (after.position - before.position) / period
    assert (np.abs(velocity) <= arm.velocity + slack / period).all()
    assert (np.abs(velocity - before.velocity) <= arm.acceleration * period + slack / period).all()
    tcp = place(np.stack([before.position, after.position]))
    assert (tcp[1] >= arm.box[0] - slack).all() and (tcp[1] <= arm.box[1] + slack).all()
    assert np.linalg.norm(tcp[1] - tcp[0]) <= arm.tcp_speed * period + slack
    assert abs(after.position.sum()) <= arm.tilt + 1e-7
