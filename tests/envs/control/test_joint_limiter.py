"""Limiter of joint commands, against hand-computed numbers and its invariants."""

import numpy as np
import pytest

from rpd.envs.control.joint_limiter import JointLimits, limit, moved, slower, stoppable, velocity_bounds

PERIOD = 0.05
LIMITS = JointLimits(np.array([-2.0, -1.0]), np.array([2.0, 1.0]), np.array([1.0, 2.0]), np.array([5.0, 10.0]))


def test_each_arm_is_limited_for_itself():
    wanted = np.array([[0.005, -0.01], [0.05, 0.05], [0.2, 0.0], [9.0, 0.0]])
    velocity = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    limited = limit(wanted, np.zeros((4, 2)), velocity, LIMITS, PERIOD)
    np.testing.assert_allclose(limited.velocity, [[0.1, -0.2], [0.25, 0.25], [1.0, 0.0], [1.0, 0.0]], atol=1e-12)
    assert limited.joint.tolist() == [False, False, False, True]
    assert limited.speed.tolist() == [False, False, True, True]
    assert limited.acceleration.tolist() == [False, True, False, False]


def test_speed_that_can_still_be_braked():
    """Steps of a T = 0.25 rad/s: 0.75 rad/s takes 0.05 (0.75 + 0.5 + 0.25) = 0.075 rad to rest, 1.0 takes 0.125."""
    distance = np.array([[0.0, 0.005, 0.0125, 0.075, 0.1, 0.125]])
    speeds = stoppable(distance, np.full(6, 5.0), PERIOD)
    np.testing.assert_allclose(speeds, [[0.0, 0.1, 0.25, 0.75, 0.875, 1.0]], atol=1e-12)
    low, high = velocity_bounds(np.array([[1.9, 0.0]]), np.array([[0.9, 0.0]]), LIMITS, PERIOD)
    np.testing.assert_allclose([low[0, 0], high[0, 0]], [0.65, 0.875])  # 0.9 - 5 x 0.05; 0.1 rad before its end


def test_comes_to_rest_at_the_wanted_positions_on_a_straight_line():
    position, velocity, goal, way = np.zeros((1, 2)), np.zeros((1, 2)), np.array([[0.4, -0.2]]), []
    for _ in range(40):
        velocity = limit(goal, position, velocity, LIMITS, PERIOD).velocity
        position = moved(position, velocity, LIMITS, PERIOD)
        way.append(position[0])
    way = np.array(way)
    assert (way[:, 0] <= 0.4 + 1e-9).all() and (np.diff(way[:, 0]) >= -1e-9).all()
    np.testing.assert_allclose(way[:, 1], -way[:, 0] / 2, atol=1e-9)
    np.testing.assert_allclose(way[-1], goal[0], atol=1e-6)
    assert np.abs(velocity).max() < 1e-6
    assert (np.abs(way[:, 0] - 0.4) < 1e-3).argmax() <= 14  # 2 sqrt(0.4 / 5) = 0.57 s, and steps of 0.05 s


def test_random_commands_keep_every_limit():
    rng = np.random.default_rng(0)
    position, velocity = np.zeros((500, 2)), np.zeros((500, 2))
    for _ in range(300):
        wanted = position + rng.normal(size=(500, 2)) * rng.choice([0.01, 0.1, 3.0], size=(500, 1))
        after = limit(wanted, position, velocity, LIMITS, PERIOD).velocity
        assert (np.abs(after) <= LIMITS.velocity + 1e-9).all()
        assert (np.abs(after - velocity) <= LIMITS.acceleration * PERIOD + 1e-9).all()
        unclipped = position + after * PERIOD
        assert (unclipped <= LIMITS.upper + 1e-9).all() and (unclipped >= LIMITS.lower - 1e-9).all()
        position, velocity = moved(position, after, LIMITS, PERIOD), after


def test_braking_ends_at_rest():
    velocity = np.array([[1.0, -2.0]])
    for _ in range(4):
        velocity = slower(velocity, LIMITS, PERIOD)
    assert not velocity.any()


def test_braking_begins_after_the_ticks_until_the_next_goal():
    """0.5 rad/s for 3 periods, then 0.25 rad/s for one: 0.075 + 0.0125 rad."""
    assert stoppable(np.array([0.0875]), np.array([5.0]), PERIOD, ticks=3)[0] == pytest.approx(0.5)
    distance = np.linspace(0.001, 1.0, 50)
    for ticks in (1, 2, 5):
        speed = stoppable(distance, np.full(50, 5.0), PERIOD, ticks)
        moved_by, now = speed * PERIOD * (ticks - 1), speed
        while (now > 1e-12).any():
            moved_by, now = moved_by + now * PERIOD, np.maximum(now - 0.25, 0)
        np.testing.assert_allclose(moved_by, distance, atol=1e-9)


@pytest.mark.parametrize("rate", [20, 100])
def test_goals_that_keep_ahead_are_followed_as_fast_at_any_rate_of_commands(rate):
    """A goal 0.1 rad ahead of every fifth command of 10 ms; one joint; 5 rad/s^2: v 0.05 + v (v - 0.25) / 10 = 0.1 at most."""
    limits, period, ticks = JointLimits(*(np.array([x]) for x in (-9.0, 9.0, 9.0, 5.0))), 1 / rate, rate // 20
    position, velocity = np.zeros((1, 1)), np.zeros((1, 1))
    for _ in range(40):
        start, goal = position, position + 0.1
        for tick in range(ticks):
            velocity = limit(goal, position, velocity, limits, period, ticks=ticks - tick).velocity
            position = moved(position, velocity, limits, period)
    assert (position - start)[0, 0] / 0.05 == pytest.approx(0.83, abs=0.05)
