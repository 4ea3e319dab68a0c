"""Rays, distances, lines of sight and shortest paths, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rpd.envs.navigation.arenas import APART, CANDIDATES, FREE, LEVELS, endpoints
from rpd.envs.navigation.geometry import Obstacles, blocked, cast, nearest
from rpd.envs.navigation.shortest_paths import MARGIN, Routes
from rpd.envs.seeding import uniforms

ONE = np.arange(1)


def course(boxes=(), discs=(), size=10.0) -> Obstacles:
    return Obstacles(
        size, np.array([boxes], np.float32).reshape(1, -1, 4), np.array([discs], np.float32).reshape(1, -1, 3)
    )  # fmt: skip


def rays(origin, angles, obstacles, reach=100.0) -> np.ndarray:
    return cast(np.array([origin]), np.radians([angles]), obstacles, reach)[0]


def test_rays_meet_walls():
    np.testing.assert_allclose(rays((2, 3), [0, 90, 180, 270, 45], course()), [8, 7, 2, 3, 7 * 2**0.5], rtol=1e-5)
    np.testing.assert_allclose(rays((2, 3), [0, 180], course(), reach=5.0), [5, 2], rtol=1e-5)


def test_rays_meet_boxes():
    box = course(boxes=[(5, 3, 1, 0.5)])  # x in 4..6, y in 2.5..3.5
    np.testing.assert_allclose(rays((2, 3), [0, 90, 180], box), [2, 7, 2], rtol=1e-5)
    np.testing.assert_allclose(rays((5, 1), [90], box), [1.5], rtol=1e-5)
    # From (2, 0.5) its lower edge is met at y = 2.5; it ends at atan(2 / 4) = 26.6 degrees, and its left side at 56.3.
    low, below, above = rays((2, 0.5), [40, 26, 57], box)
    assert low == pytest.approx(2 / np.sin(np.radians(40)), rel=1e-5) and below > 5 and above > 5


def test_rays_meet_discs():
    disc = course(discs=[(5, 3, 1)])
    tangent = np.degrees(np.arcsin(1 / 3))  # seen from 3 m away
    hit, ahead, grazing, past = rays((2, 3), [0, 180, tangent - 0.1, tangent + 0.1], disc)
    assert (hit, ahead) == (pytest.approx(2), pytest.approx(2))
    assert grazing == pytest.approx(8**0.5, abs=0.15) and past > 5


def test_arenas_are_independent():
    two = Obstacles(10.0, np.array([[[5, 3, 1, 0.5]], [[3, 3, 0.5, 0.5]]], np.float32), np.zeros((2, 0, 3), np.float32))
    hits = cast(np.array([[2.0, 3.0], [2.0, 3.0]]), np.zeros((2, 1)), two, 100.0)
    np.testing.assert_allclose(hits[:, 0], [2, 0.5])


def test_nearest_surface():
    both = course(boxes=[(5, 5, 1, 1)], discs=[(8, 2, 0.5)])
    points = [[2.5, 5], [7, 7], [8, 4], [9.8, 9], [5, 5]]  # beside the box, off its corner, above the disc, by a wall, inside
    distance, way = nearest(np.array([points], float), both)
    np.testing.assert_allclose(distance[0], [1.5, 2**0.5, 1.5, 0.2, 0], atol=1e-6)
    np.testing.assert_allclose(way[0], [[1.5, 0], [-1, -1], [0, -1.5], [0.2, 0], [0, 0]], atol=1e-6)


def test_lines_of_sight():
    start, ends = np.array([2.0, 3.0]), np.array([[8, 3], [3, 3], [8, 8], [2, 9]], float)
    hit = blocked(start, ends - start, np.array([[5.0, 3.0]]), np.array([[1.0, 0.5]]))
    assert hit.tolist() == [True, False, False, False]


def test_path_around_a_box_is_the_shortest():
    radius, box = 0.25, (5.0, 5.0, 1.0, 1.0)
    routes = Routes(1, 1, radius)
    routes.update(ONE, course(boxes=[box]), np.array([[8.0, 5.5]]))
    length, way = routes.query(np.array([[2.0, 5.5]]), ONE)
    grown = 1 + radius + MARGIN  # over the upper corners of the grown box
    expected = 2 * np.hypot(3 - grown, grown - 0.5) + 2 * grown
    assert length[0] == pytest.approx(expected, abs=0.01)
    np.testing.assert_allclose(way[0], [5 - grown, 5 + grown], atol=0.01)
    length, way = routes.query(np.array([[8.0, 2.0]]), ONE)  # in sight
    assert length[0] == pytest.approx(3.5) and tuple(way[0]) == (8.0, 5.5)


def test_robot_next_to_an_obstacle_has_a_route():
    routes = Routes(1, 1, 0.25)
    routes.update(ONE, course(boxes=[(5, 5, 1, 1)]), np.array([[8.0, 5.0]]))
    for point in ((3.74, 5.0), (3.8, 6.2), (6.2, 3.8)):  # touching a side; off a corner by just more than the radius
        length, _ = routes.query(np.array([point]), ONE)
        assert 1.5 < length[0] < 6.5


@pytest.mark.parametrize("name", LEVELS)
def test_levels(name):
    """Starts and goals are free and apart, and every base can get from one to the other."""
    level, seeds = LEVELS[name], np.arange(400)
    obstacles = level.draw(uniforms(seeds, level.numbers, 0))
    start, goal = endpoints(uniforms(seeds, 4 * CANDIDATES + 2, 1), obstacles)
    for pose in (start, goal):
        assert nearest(pose[:, None, :2], obstacles)[0].min() > FREE
        assert np.abs(pose[:, 2]).max() > 3
    direct = np.linalg.norm(goal[:, :2] - start[:, :2], axis=1)
    assert direct.min() > APART
    routes = Routes(400, obstacles.boxes.shape[1] + obstacles.discs.shape[1], 0.40)
    routes.update(seeds, obstacles, goal[:, :2])
    length, _ = routes.query(start[:, :2], seeds)
    assert (length > direct - 1e-3).all() and length.max() < 20
    assert (length > direct + 0.01).mean() > (0.5 if name == "Rooms" else 0.2)
