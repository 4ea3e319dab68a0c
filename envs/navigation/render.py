"""Top view of an arena: walls, obstacles, the goal with its heading, the base, its trail and its rays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rpd.envs.navigation.geometry import Array

FLOOR, GRID, WALL, BOX, DISC = (244, 242, 237), (231, 228, 221), (74, 80, 92), (142, 152, 168), (168, 150, 130)
GOAL, BASE, NOSE, TRAIL, RAY = (46, 160, 92), (52, 104, 196), (255, 255, 255), (52, 104, 196, 150), (230, 120, 40, 90)
SMOOTH = 3  # supersampling factor
MARGIN = 0.25  # width of the wall around the arena, m
THIN = 0.1  # boxes thinner than this are walls, m
TOLERANCE = 0.5  # radius of the goal, m


@dataclass(frozen=True)
class Picture:
    """Content of a drawing of one arena. Meters and radians."""

    size: float
    boxes: Array
    """[M, 4] see `Obstacles`."""
    discs: Array
    """[K, 3]."""
    pose: Array
    """[3] pose of the base."""
    goal: Array
    """[3] pose of the goal."""
    radius: float
    """Radius of the base."""
    trail: Array
    """[T, 2] past positions; NaN where unknown."""
    ranges: Array
    """[R] range measurements, counterclockwise from forward."""


def draw(picture: Picture, size: int) -> NDArray[np.uint8]:
    """Draw an arena: uint8 [size, size, 3]."""
    p = picture
    scale = size * SMOOTH / (p.size + 2 * MARGIN)
    image = Image.new("RGB", (size * SMOOTH,) * 2, WALL)
    pen = ImageDraw.Draw(image, "RGBA")

    def at(points: Array) -> list[tuple[float, float]]:
        """Meters [..., 2] to pixels; y points up."""
        points = points.reshape(-1, 2)
        return [((x + MARGIN) * scale, (p.size + MARGIN - y) * scale) for x, y in points]

    def box(low: Array, high: Array) -> tuple[float, float, float, float]:
        (x0, y1), (x1, y0) = at(np.array([low, high]))
        return x0, y0, x1, y1

    def disc(centre: Array, radius: float) -> tuple[float, float, float, float]:
        return box(centre - radius, centre + radius)

    pen.rectangle(box(np.zeros(2), np.full(2, p.size)), fill=FLOOR)
    line = max(1, round(0.02 * scale))
    for k in range(1, int(p.size)):
        pen.line(at(np.array([[k, 0], [k, p.size]])), fill=GRID, width=line)
        pen.line(at(np.array([[0, k], [p.size, k]])), fill=GRID, width=line)
    for x, y, hx, hy in p.boxes:
        centre, half = np.array([x, y]), np.array([hx, hy])
        pen.rectangle(box(centre - half, centre + half), fill=WALL if min(hx, hy) < THIN else BOX)
    for x, y, radius in p.discs:
        pen.ellipse(disc(np.array([x, y]), radius), fill=DISC)

    goal, toward = p.goal[:2], _unit(p.goal[2])
    side = np.array([-toward[1], toward[0]])
    pen.ellipse(disc(goal, TOLERANCE), fill=(*GOAL, 60), outline=GOAL, width=2 * line)
    arrow = [goal - 0.32 * toward, goal + 0.1 * toward]
    pen.line(at(np.array(arrow)), fill=GOAL, width=round(0.12 * scale))
    head = [goal + 0.4 * toward, goal + 0.05 * toward + 0.2 * side, goal + 0.05 * toward - 0.2 * side]
    pen.polygon(at(np.array(head)), fill=GOAL)

    body = p.pose[:2]
    angles = p.pose[2] + np.arange(len(p.ranges)) * (2 * np.pi / len(p.ranges))
    for end in body + p.ranges[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1):
        pen.line(at(np.array([body, end])), fill=RAY, width=line)
    trail = p.trail[np.isfinite(p.trail).all(axis=1)]
    if len(trail) > 1:
        pen.line(at(trail), fill=TRAIL, width=round(0.07 * scale), joint="curve")
    pen.ellipse(disc(body, p.radius), fill=BASE)
    ahead = _unit(p.pose[2]) * p.radius
    left = np.array([-ahead[1], ahead[0]])
    pen.polygon(
        at(np.array([body + 0.8 * ahead, body - 0.35 * ahead + 0.5 * left, body - 0.35 * ahead - 0.5 * left])), fill=NOSE
    )
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))


def _unit(angle: float) -> Array:
    return np.array([np.cos(angle), np.sin(angle)])
