"""Shortest paths around obstacles: per arena, a visibility graph over obstacle corners, toward the goal."""

from __future__ import annotations

import numpy as np

from rpd.envs.navigation.geometry import Array, Ids, Mask, Obstacles, blocked

MARGIN = 0.05  # clearance between a path and obstacles beyond the footprint, m
BLOCKED = 1e3  # length added to a segment through an obstacle, m, so that a path always exists
_CORNERS = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=np.float32)


class Routes:
    """Shortest paths of N arenas to their goals, for a round body.

    A path is a sequence of corners of obstacles, each a box (discs: the bounding box) grown by the body's radius. A round body
    may be inside the corner of a grown box without collision; obstacles then count with a smaller box that the body cannot
    enter.
    """

    def __init__(self, num_envs: int, num_obstacles: int, radius: float) -> None:
        """Allocate for bodies of `radius`, m; `update` fills the graphs."""
        n, m = num_envs, num_obstacles
        self._radius = radius
        self._centre = np.zeros((n, m, 2), np.float32)
        self._near = np.zeros((n, m, 2), np.float32)  # half sizes of the boxes that the body cannot enter
        self._far = np.zeros((n, m, 2), np.float32)  # half sizes of the boxes that paths avoid
        self._close = np.zeros((n, m), dtype=bool)  # obstacles whose far box contains the goal
        self._nodes = np.zeros((n, 1 + 4 * m, 2), np.float32)  # the goal, then usable corners, then the others
        self._ahead = np.zeros((n, 1 + 4 * m), np.float32)  # distance from each node to the goal, m
        self._used = np.ones(n, dtype=np.int64)  # number of usable nodes

    def update(self, ids: Ids, obstacles: Obstacles, goal: Array) -> None:
        """Build the graphs of the arenas `ids` [K] with `obstacles` (of these K) and `goal` [K, 2]."""
        boxes, discs = obstacles.boxes, obstacles.discs
        centre = np.concatenate([boxes[..., :2], discs[..., :2]], axis=1)
        half = np.concatenate([boxes[..., 2:], np.repeat(discs[..., 2:], 2, axis=-1)], axis=1)
        # A corner of a box grown by r / sqrt 2 is r away from the original corner; for a disc, its inscribed square.
        inner = np.concatenate([boxes[..., 2:], np.repeat(discs[..., 2:], 2, axis=-1) / np.sqrt(2)], axis=1)
        near, far = inner + self._radius / np.sqrt(2), half + self._radius + MARGIN
        corners = (centre[:, :, None] + (far + 1e-3)[:, :, None] * _CORNERS).reshape(len(ids), -1, 2)
        edge = self._radius + MARGIN / 2
        usable = ~_inside(corners, centre, far).any(axis=2)
        usable &= ((corners > edge) & (corners < obstacles.size - edge)).all(axis=2)
        order = np.argsort(~usable, axis=1, kind="stable")
        self._centre[ids], self._near[ids], self._far[ids] = centre, near, far
        self._close[ids] = _inside(goal[:, None], centre, far)[:, 0]
        self._used[ids] = 1 + usable.sum(axis=1)
        self._nodes[ids, 0] = goal
        self._nodes[ids, 1:] = np.take_along_axis(corners, order[..., None], axis=1)
        self._ahead[ids] = BLOCKED  # remains for unusable corners
        self._ahead[ids] = self._distances(ids)

    def _distances(self, ids: Ids) -> Array:
        """Distances [K, P] from all nodes to the goal by Bellman-Ford: as many rounds as the longest path has corners."""
        count = self._used[ids].max()
        length = self._lengths(ids, self._nodes[ids, :count])
        usable = np.arange(count) < self._used[ids, None]
        length[~usable] = BLOCKED
        ahead = self._ahead[ids]
        ahead[:, :count] = length[:, :, 0]
        ahead[:, 0] = 0.0
        while True:
            shorter = np.minimum(ahead[:, :count], (length + ahead[:, None, :count]).min(axis=2))
            if (shorter == ahead[:, :count]).all():
                return ahead
            ahead[:, :count] = shorter

    def query(self, position: Array, ids: Ids) -> tuple[Array, Array]:
        """Find the shortest paths from positions [K, 2] in the arenas `ids` [K].

        Returns:
            Length of the shortest path [K], and its first corner, or the goal, [K, 2].
        """
        length = self._lengths(ids, position[:, None].astype(np.float32))[:, 0]
        total = length + self._ahead[ids, : length.shape[1]]
        first = (np.arange(len(ids)), total.argmin(axis=1))
        return np.where(total >= BLOCKED, total - BLOCKED, total)[first], self._nodes[ids, first[1]]

    def _lengths(self, ids: Ids, start: Array) -> Array:
        """Lengths [K, P, Q] of segments from `start` [K, P, 2] to the nodes, plus BLOCKED if they cross an obstacle."""
        centre, near, far = self._centre[ids], self._near[ids], self._far[ids]
        way = self._nodes[ids, None, : self._used[ids].max()] - start[:, :, None]
        inside = _inside(start, centre, far)
        cut = np.empty(way.shape[:3], dtype=bool)
        for part, relaxed in ((slice(0, 1), inside | self._close[ids][:, None]), (slice(1, None), inside)):
            half = np.where(relaxed[..., None], near[:, None], far[:, None])
            cut[:, :, part] = blocked(start, way[:, :, part], centre[:, None], half)
        return np.sqrt((way**2).sum(axis=-1)) + np.float32(BLOCKED) * cut


def _inside(points: Array, centre: Array, half: Array) -> Mask:
    """[K, P, M] whether points [K, P, 2] are inside boxes [K, M, 2]."""
    return np.asarray((np.abs(points[:, :, None] - centre[:, None]) < half[:, None]).all(axis=-1))
