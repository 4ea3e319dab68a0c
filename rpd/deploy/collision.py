"""Distances of an arm to the table, to declared boxes and to itself, by MuJoCo's geometry.

Every body that the arm's joints move is checked against everything that they move it relative to. The fingers are boxes that
contain them from closed to open, so that distances hold for every opening. A held object is not part of the arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from rpd.deploy.collision_model import TABLE, Box, build, parts
from rpd.envs.robots import Robot

Array = NDArray[np.floating]
Pairs = NDArray[np.intp]
"""Numbers of pairs."""

RESOLUTION = 0.001
"""Distance, m, by which commanded postures keep more than the clearance, so that postures between two of them keep it."""
MAX_CHECKS = 64
"""Postures computed for one way; a way that needs more counts as a collision, which bounds the time of a check."""
SAMPLES = 100  # random postures in which a pair that is always near is nearer than the clearance
FAR = 10.0  # largest distance that MuJoCo computes, m


@dataclass(frozen=True)
class Near:
    """Two parts and their distance."""

    part: str
    other: str
    distance: float
    """m; negative: they overlap."""

    def __str__(self) -> str:
        where = f"{1000 * self.distance:.0f} mm from" if self.distance > 0 else f"{-1000 * self.distance:.0f} mm inside of"
        return f"{self.part} is {where} {self.other}"


class CollisionChecker:
    """Checks ways of an arm.

    Pairs of its parts that touch by construction are left out: those nearer than the clearance in every one of `SAMPLES` random
    postures.

    Args:
        robot: the arm; its base stands on the table, the plane z = 0.
        clearance: smallest allowed distance of a pair, m.
        boxes: obstacles by name.

    Attributes:
        pairs: names of the P checked pairs of shapes.
    """

    def __init__(self, robot: Robot, clearance: float, boxes: Mapping[str, Box]) -> None:
        self._clearance, self._margin = clearance, clearance + RESOLUTION
        self._model, self._joints, self._checks = build(robot, boxes), len(robot.links), 0
        self._data = mujoco.MjData(self._model)
        self._tool = self._data.site(robot.tcp_site)
        shapes = parts(self._model, robot)
        order = [shape.joint for shape in shapes]  # shapes of one order do not move relative to each other
        self._pairs = [(a, b) for a in range(len(order)) for b in range(len(order)) if order[a] < order[b]]
        apart = self._ever_apart(np.array([link.limits for link in robot.links]))
        self._pairs = [pair for pair, is_apart in zip(self._pairs, apart, strict=True) if is_apart]
        self.pairs = [(shapes[b].name, shapes[a].name) for a, b in self._pairs]
        joints = np.arange(1, self._joints + 1)
        self._reach = np.array([shapes[b].reach * (joints > order[a]) for a, b in self._pairs])  # [P, n]
        self._flat = np.array([shapes[a].name == TABLE for a, _ in self._pairs])
        if abs(self._data.xaxis[0, 2]) > 1 - 1e-9:  # the first joint is vertical: nothing comes nearer to the table
            self._reach[self._flat, 0] = 0.0
        self._known_at = np.zeros((len(self._pairs), self._joints))
        self._known = np.full(len(self._pairs), -np.inf)

    def tool(self, joints: Array) -> tuple[Array, Array]:
        """Positions of the tool center point [K, 3], m, and unit vectors [K, 3] out of the tool, of postures [K, n], rad."""
        pose = np.empty((len(joints), 12))
        for row, posture in zip(pose, joints, strict=True):
            self._place(posture)
            row[:3], row[3:] = self._tool.xpos, self._tool.xmat
        return pose[:, :3], pose[:, 5::3]

    def nearest(self, joints: Array) -> list[Near]:
        """Nearest pair in each posture [K, n], rad."""
        found = []
        for posture in joints:
            distances = self._distances(posture, range(len(self._pairs)))
            pair = int(np.argmin(distances))
            found.append(Near(*self.pairs[pair], float(distances[pair])))
        return found

    def too_near(self, joints: Array) -> Near | None:
        """Nearest pair in posture [n], rad, if it is too near to start from."""
        nearest = self.nearest(joints[None])[0]
        return nearest if nearest.distance < self._margin else None

    def collision(self, way: Array) -> Near | None:
        """Find a pair that does not keep the clearance along a way.

        Postures way[1:] keep the clearance and `RESOLUTION`, and all postures on straight lines in joint space between them the
        clearance. This follows from two bounds on a distance between the ends of a line, where it is a and b. It changes by at
        most l = sum_j r_j |dq_j|, if joint j moves no point of the pair faster than r_j, m/rad, so that it is at least
        (a + b - l) / 2. The distance from a plane is a minimum of heights of points, and so at least min(a, b) - c / 8, where c
        is the largest second derivative of such a height. A line for which neither bound suffices is halved.

        Args:
            way: [K, n] postures, rad; way[0] is where the arm is, and is not judged.

        Returns:
            The first one found, or None.
        """
        self._checks = 0
        steps = np.abs(way[1:] - way[:-1])
        lengths = steps @ self._reach.T  # [K - 1, P]
        needed = lengths.sum(axis=0) + self._margin
        lowest = self._known - (np.abs(way[0] - self._known_at) * self._reach).sum(axis=1)
        unknown = np.flatnonzero(lowest < needed)
        if not unknown.size:
            return None
        lowest[unknown] = self._distances(way[0], unknown)
        self._known[unknown], self._known_at[unknown] = lowest[unknown], way[0]
        near = np.flatnonzero(lowest < needed)
        return self._follow(way, near, lowest[near], lengths[:, near]) if near.size else None

    def _follow(self, way: Array, pairs: Pairs, lowest: Array, lengths: Array) -> Near | None:
        """As `collision`, for some pairs, with lower bounds of their distances at way[0], and lengths [K - 1, pairs]."""
        for k, length in enumerate(lengths):
            before, lowest = lowest, lowest - length
            due = np.flatnonzero(lowest < self._margin)
            if not due.size:
                continue
            lowest[due] = self._distances(way[k + 1], pairs[due])
            for i in due:
                pair = int(pairs[i])
                if lowest[i] < self._margin:
                    return Near(*self.pairs[pair], float(lowest[i]))
                found = self._between(pair, way[k], way[k + 1], float(before[i]), float(lowest[i]), float(length[i]))
                if found is not None:
                    return found
        return None

    def _between(self, pair: int, start: Array, end: Array, a: float, b: float, length: float) -> Near | None:
        """As `collision`, for the line between two postures [n] with distances, at least, `a` and `b`."""
        if a + b - length >= 2 * self._clearance or (self._flat[pair] and self._bend(pair, start, end, min(a, b))):
            return None
        middle = (start + end) / 2
        distance = float(self._distances(middle, [pair])[0])
        if distance < self._margin or self._checks > MAX_CHECKS:
            return Near(*self.pairs[pair], distance)
        first = self._between(pair, start, middle, a, distance, length / 2)
        return first or self._between(pair, middle, end, distance, b, length / 2)

    def _bend(self, pair: int, start: Array, end: Array, height: float) -> bool:
        """Whether no point of a shape above the table, at least at `height` at both ends, comes too low between them."""
        turn = np.abs(end - start) * (self._reach[pair] > 0)
        # Second derivative by joints j >= k: at most r_j, the distance of the point from the outer joint.
        return height - self._reach[pair] @ (turn * (2 * np.cumsum(turn) - turn)) / 8 >= self._clearance

    def _distances(self, joints: Array, pairs: Iterable[int]) -> Array:
        """Distances of pairs in posture [n], m."""
        self._place(joints)
        self._checks += 1
        model, data = self._model, self._data
        return np.array([mujoco.mj_geomDistance(model, data, *self._pairs[pair], FAR, None) for pair in pairs])

    def _place(self, joints: Array) -> None:
        self._data.qpos[: self._joints] = joints
        mujoco.mj_kinematics(self._model, self._data)

    def _ever_apart(self, ranges: Array) -> NDArray[np.bool_]:
        """Mask [P] of the pairs that are apart in any of some random postures, with joints in ranges [n, 2]."""
        lower, upper = ranges.T
        postures = np.random.default_rng(0).uniform(lower, upper, (SAMPLES, self._joints))
        every = range(len(self._pairs))
        apart = np.array([self._distances(joints, every) >= self._margin for joints in postures])
        return np.asarray(apart.any(axis=0))
