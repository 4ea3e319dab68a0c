"""Batched planar geometry: rays, distances and lines of sight among boxes and discs in a square arena."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
Ids = NDArray[np.integer]

_TINY = 1e-9  # replaces a zero component of a direction


@dataclass
class Obstacles:
    """Obstacles of N arenas, the squares [0, size] x [0, size]. Meters, float32 (twice as fast as float64)."""

    size: float
    boxes: Array
    """[N, M, 4] center x, y and half sizes x, y, axis-aligned."""
    discs: Array
    """[N, K, 3] center x, y and radius."""

    def of(self, ids: Ids) -> Obstacles:
        """Obstacles of the arenas `ids` [K]."""
        return Obstacles(self.size, self.boxes[ids], self.discs[ids])


def cast(origin: Array, angle: Array, obstacles: Obstacles, reach: float) -> Array:
    """Lengths of rays up to the first hit.

    Args:
        origin: [N, 2] origin of an arena's rays, in free space.
        angle: [N, R] directions, rad.
        obstacles: obstacles; the arena's walls are hit from inside.
        reach: maximum length.

    Returns:
        [N, R] distances in [0, reach].
    """
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)  # [N, R]
    dx, dy = _inverse(cos), _inverse(sin)
    ox, oy = origin.astype(np.float32).T[..., None]  # [N, 1]
    size = np.float32(obstacles.size)
    hit = np.minimum((np.where(dx > 0, size, 0) - ox) * dx, (np.where(dy > 0, size, 0) - oy) * dy)
    x, y, hx, hy = obstacles.boxes.transpose(2, 0, 1)[:, :, None]  # [N, 1, M]
    enter, leave = _slab(x - ox[..., None], y - oy[..., None], hx, hy, dx[..., None], dy[..., None])
    hit = np.minimum(hit, np.where((enter <= leave) & (leave > 0), enter, reach).min(axis=2, initial=reach))
    x, y, r = obstacles.discs.transpose(2, 0, 1)[:, :, None]  # [N, 1, K]
    x, y = x - ox[..., None], y - oy[..., None]
    along = x * cos[..., None] + y * sin[..., None]
    square = along**2 - (x**2 + y**2 - r**2)  # squared half chord
    hit = np.minimum(
        hit, np.where((square > 0) & (along > 0), along - np.sqrt(square.clip(0)), reach).min(axis=2, initial=reach)
    )
    return np.clip(hit, 0.0, reach)


def nearest(points: Array, obstacles: Obstacles) -> tuple[Array, Array]:
    """Find the nearest surface of an obstacle or a wall.

    Args:
        points: [N, P, 2].
        obstacles: obstacles of the N arenas.

    Returns:
        Distance [N, P], 0 inside an obstacle or outside the arena, and the displacement to the surface [N, P, 2].
    """
    points = points.astype(np.float32)
    p = points[:, :, None]  # [N, P, 1, 2]
    centre, half = obstacles.boxes[:, None, :, :2], obstacles.boxes[:, None, :, 2:]
    to_box = np.clip(p, centre - half, centre + half) - p
    to_disc = obstacles.discs[:, None, :, :2] - p
    length = np.sqrt((to_disc**2).sum(axis=-1, keepdims=True)).clip(_TINY)
    to_disc = to_disc * (1 - obstacles.discs[:, None, :, 2:] / length).clip(0)
    zero = np.zeros(points.shape[:2], np.float32)
    x, y = points[..., 0].clip(0, obstacles.size), points[..., 1].clip(0, obstacles.size)
    to_wall = np.stack([np.stack([-x, zero], -1), np.stack([obstacles.size - x, zero], -1),
                        np.stack([zero, -y], -1), np.stack([zero, obstacles.size - y], -1)], axis=2)  # fmt: skip
    ways = np.concatenate([to_box, to_disc, to_wall], axis=2)
    distance = np.sqrt((ways**2).sum(axis=-1))
    first = distance.argmin(axis=2)[..., None]
    return np.take_along_axis(distance, first, 2)[..., 0], np.take_along_axis(ways, first[..., None], 2)[:, :, 0]


def blocked(start: Array, way: Array, centre: Array, half: Array) -> Mask:
    """Test whether straight segments cross a box.

    Args:
        start: [..., 2] start of the segments.
        way: [..., Q, 2] vectors from start to end.
        centre: [..., M, 2] centers of the boxes.
        half: [..., M, 2] half sizes along the axes.

    Returns:
        [..., Q] bool.
    """
    x, y = (centre - start[..., None, :])[..., None, :, :].transpose(-1, *range(start.ndim + 1))
    hx, hy = half[..., None, :, :].transpose(-1, *range(start.ndim + 1))
    dx, dy = _inverse(way[..., 0, None]), _inverse(way[..., 1, None])
    enter, leave = _slab(x, y, hx, hy, dx, dy)
    return np.asarray((np.maximum(enter, 0) < np.minimum(leave, 1)).any(axis=-1))


def _slab(x: Array, y: Array, hx: Array, hy: Array, dx: Array, dy: Array) -> tuple[Array, Array]:
    """Entry and exit of lines through boxes, in multiples of their direction (dx and dy are its inverse).

    Boxes are at (x, y) from the start of a line, with half sizes (hx, hy). A line misses a box if its entry is after its exit.
    """
    middle_x, middle_y, wide_x, wide_y = x * dx, y * dy, hx * np.abs(dx), hy * np.abs(dy)
    return np.maximum(middle_x - wide_x, middle_y - wide_y), np.minimum(middle_x + wide_x, middle_y + wide_y)


def _inverse(x: Array) -> Array:
    """1 / x, very large where x is zero."""
    return 1 / np.where(np.abs(x) < _TINY, np.float32(_TINY), x)
