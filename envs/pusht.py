"""Geometry of the Push-T object, seven cubes (four across, three down): outline, displacement and overlap with a target.

2D, in the frame of the T: origin at the center of mass, x axis along the stem. Unit of length: half the edge of a cube. As in
Diffusion Policy's Push-T (Chi et al., 2023) and ManiSkill3's PushT-v1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BAR, STEM = ((-12 / 7, 0.0), (1.0, 4.0)), ((16 / 7, 0.0), (3.0, 1.0))
"""Center (x, y) and half sizes of the two boxes."""
AREA = 28.0
REACH = float(np.hypot(37 / 7, 1.0))
"""Distance from the origin to the furthest corners, at the end of the stem."""
GYRATION = float(np.sqrt(sum(4 * hx * hy * (x * x + (hx * hx + hy * hy) / 3) for (x, _), (hx, hy) in (BAR, STEM)) / AREA))
"""Root mean square distance of the T's points from the origin."""


def displacement(way: Array, turn: Array, half: float) -> Array:
    """Root mean square displacement [N] of the T's points to their targets, in the unit of `half` and `way`.

    A point p moves by R(turn) p - p + way. The mean of p is zero, hence |way|² + (2 sin(turn / 2))² GYRATION².

    Args:
        way: [N, 2] displacement of the center of mass.
        turn: [N] rotation, rad.
        half: half the edge of a cube.
    """
    swing = 2.0 * np.sin(turn / 2) * GYRATION * half
    return np.sqrt((way**2).sum(axis=1) + swing**2)


def overlap(way: Array, turn: Array) -> Array:
    """Fraction [N] of a T that is covered by another T of the same size.

    Args:
        way: [N, 2] to the other's center of mass, in half edges, in the frame of the first.
        turn: [N] rotation of the other relative to the first, rad.
    """
    c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
    area = np.zeros(len(way))
    for place, size in (BAR, STEM):
        corners = np.array(place) + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * size
        turned = np.stack([c * corners[:, 0] - s * corners[:, 1], s * corners[:, 0] + c * corners[:, 1]], axis=2)
        polygon = turned + way[:, None]  # [N, 4, 2]
        for box, half in (BAR, STEM):
            area += _area(_clip(_clip(polygon - box, 0, half[0]), 1, half[1]))
    return area / AREA


def _clip(polygon: Array, axis: int, half: float) -> Array:
    """Clip polygons [N, V, 2] to -half <= coordinate <= half: [N, 3 V, 2].

    Edges are split where they cross a limit; points beyond are projected onto the limit, where they form degenerate edges
    without area.
    """
    ahead = np.roll(polygon, -1, axis=1) - polygon
    here, rise = polygon[..., axis], ahead[..., axis]
    safe = np.where(rise == 0, 1.0, rise)
    cuts = np.stack([(-half - here) / safe, (half - here) / safe], axis=2)
    cuts = np.sort(np.where(rise[..., None] == 0, 0.0, cuts).clip(0.0, 1.0), axis=2)
    along = np.concatenate([np.zeros_like(cuts[..., :1]), cuts], axis=2)  # [N, V, 3] of each edge, in order
    points = polygon[:, :, None] + along[..., None] * ahead[:, :, None]
    points = points.reshape(len(polygon), 3 * polygon.shape[1], 2)
    points[..., axis] = points[..., axis].clip(-half, half)
    return points


def _area(polygon: Array) -> Array:
    """Areas [N] of polygons [N, V, 2], counterclockwise."""
    x, y = polygon[..., 0], polygon[..., 1]
    return 0.5 * (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)
