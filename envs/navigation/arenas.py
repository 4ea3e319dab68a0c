"""Levels: random arenas with start and goal poses, as pure functions of uniform random numbers.

Arenas, starts and goals are the same for every base: free space and doors fit the widest one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rpd.envs.navigation.geometry import Array, Obstacles, nearest

INSTRUCTION = "drive to the goal and stop there, turned as the arrow points"
SIZE = 8.0  # m, edge of the arena
FREE = 0.65  # free space around starts and goals, m
APART = 2.0  # minimum distance from start to goal, m (COMPASS)
CANDIDATES = 32  # candidate positions for the start, and as many for the goal
_CELLS = 3  # cells per edge of the grid of obstacles
_WALL = 0.06  # half the thickness of a wall, m


@dataclass(frozen=True)
class Level:
    """A navigation task.

    Attributes:
        name: base name of the task.
        numbers: number of uniform numbers that `draw` consumes.
        draw: `u [K, numbers] -> Obstacles` of K arenas.
    """

    name: str
    numbers: int
    draw: Callable[[Array], Obstacles]


def _place(u: Array, centre: Array, jitter: float) -> tuple[Array, Array]:
    """Make half of n objects boxes [K, m, 4] and the others discs [K, n - m, 3], each near its center.

    Args:
        u: [K, n, 4].
        centre: [K, n, 2].
        jitter: maximum offset from the center along each axis, m.
    """
    m = u.shape[1] // 2
    middle = centre + (u[..., :2] - 0.5) * 2 * jitter
    boxes = np.concatenate([middle[:, :m], 0.15 + 0.3 * u[:, :m, 2:]], axis=-1)
    discs = np.concatenate([middle[:, m:], 0.15 + 0.3 * u[:, m:, 2:3]], axis=-1)
    return boxes, discs


def _open(u: Array) -> Obstacles:
    """Five obstacles in cells of a grid, with a free path between any two of them."""
    n, cells = 5, _CELLS**2
    chosen = u[:, :cells].argsort(axis=1)[:, :n]
    centre = (np.stack([chosen % _CELLS, chosen // _CELLS], axis=-1) + 0.5) * SIZE / _CELLS
    boxes, discs = _place(u[:, cells:].reshape(len(u), n, 4), centre, 0.25)
    return Obstacles(SIZE, boxes.astype(np.float32), discs.astype(np.float32))


def _rooms(u: Array) -> Obstacles:
    """Four rooms separated by a cross of walls, with a door in each wall and an obstacle in each room."""
    k = len(u)
    cross = SIZE / 2 + (u[:, :2] - 0.5)  # [K, 2]
    boxes = []
    for arm in range(4):
        along, side = divmod(arm, 2)  # the wall runs along x or y, on one side of the crossing
        begin, end = (0 * cross[:, along], cross[:, along]) if side == 0 else (cross[:, along], 0 * cross[:, along] + SIZE)
        width = 1.2 + 0.4 * u[:, 2 + arm]
        door = begin + 0.6 + width / 2 + (end - begin - 1.2 - width) * u[:, 6 + arm]
        for low, high in ((begin, door - width / 2), (door + width / 2, end)):
            box = np.zeros((k, 4))
            box[:, along], box[:, 2 + along] = (low + high) / 2, (high - low) / 2
            box[:, 1 - along], box[:, 3 - along] = cross[:, 1 - along], _WALL
            boxes.append(box)
    west, south = cross[:, 0], cross[:, 1]
    middles = [np.stack([x, y], axis=-1) for x in (west / 2, (west + SIZE) / 2) for y in (south / 2, (south + SIZE) / 2)]
    order = u[:, 10:14].argsort(axis=1)  # selects the rooms with boxes
    centre = np.take_along_axis(np.stack(middles, axis=1), order[..., None], axis=1)
    things, discs = _place(u[:, 14:].reshape(k, 4, 4), centre, 0.2)
    walls = np.stack(boxes, axis=1)
    return Obstacles(SIZE, np.concatenate([walls, things], axis=1).astype(np.float32), discs.astype(np.float32))


def endpoints(u: Array, obstacles: Obstacles) -> tuple[Array, Array]:
    """Choose start and goal poses (x, y, heading), both [K, 3]: the first candidates that are free and far enough apart.

    Args:
        u: [K, 4 * CANDIDATES + 2].
        obstacles: obstacles of the K arenas.
    """
    points = u[:, :-2].reshape(len(u), -1, 2) * obstacles.size
    free = nearest(points, obstacles)[0] - FREE
    start = _first(points[:, :CANDIDATES], free[:, :CANDIDATES])
    goals = points[:, CANDIDATES:]
    apart = np.sqrt(((goals - start[:, None]) ** 2).sum(axis=-1)) - APART
    goal = _first(goals, np.minimum(free[:, CANDIDATES:], apart))
    heading = (u[:, -2:] - 0.5) * 2 * np.pi
    return np.concatenate([start, heading[:, :1]], axis=1), np.concatenate([goal, heading[:, 1:]], axis=1)


def _first(points: Array, room: Array) -> Array:
    """First of the points [K, C, 2] with positive clearance `room` [K, C]; if there is none, the one with the largest."""
    chosen = np.where((room > 0).any(axis=1), (room > 0).argmax(axis=1), room.argmax(axis=1))
    return points[np.arange(len(points)), chosen]


LEVELS = {level.name: level for level in (Level("Open", _CELLS**2 + 5 * 4, _open), Level("Rooms", 14 + 4 * 4, _rooms))}
