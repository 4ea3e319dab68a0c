"""Cameras by batched ray casts: flat Lambert shading, no OpenGL, the same pixels on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mjbatch import Batch

LIGHT = np.array([0.35, -0.45, 0.82], dtype=np.float32) / np.linalg.norm([0.35, -0.45, 0.82])
AMBIENT = 0.45
SKY = np.array([0.80, 0.86, 0.92], dtype=np.float32)
SHADOW = 0.6  # brightness left in a shadow, for pictures that people look at


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. Poses are [3] position and [3, 3] rotation whose columns are right, down, forward.

    Attributes:
        name: name in the registry.
        fov: vertical field of view, rad.
        mounted: whether the pose is relative to the tcp (a wrist camera) instead of the base.
    """

    name: str
    position: np.ndarray
    rotation: np.ndarray
    fov: float
    mounted: bool = False


def look_at(name: str, position: tuple[float, float, float], target: tuple[float, float, float], fov: float) -> Camera:
    """Build a fixed camera at `position` that looks at `target`, upright."""
    eye = np.array(position)
    forward = np.array(target) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return Camera(name, eye, np.stack([right, np.cross(forward, right), forward], axis=1), fov)


def rays(camera: Camera, size: int) -> np.ndarray:
    """Unit ray directions in the camera frame [size * size, 3], row by row from the top left."""
    half = np.tan(camera.fov / 2)
    grid = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(grid * half, grid * half)
    direction = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    return (direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32)


class Renderer:
    """Casts the rays of one camera for the environments of a batch; buffers are kept between frames."""

    def __init__(self, batch: Batch, camera: Camera, size: int, shadows: bool = False) -> None:
        """Allocate for every environment of `batch` at size x size pixels."""
        n, m = batch.num_sims, size * size
        self.camera, self.size, self.shadows = camera, size, shadows
        self._batch, self._rays = batch, rays(camera, size)
        self._origin = np.empty((n, m, 3), dtype=np.float32)
        self._direction = np.empty((n, m, 3), dtype=np.float32)
        self._distance = np.empty((n, m), dtype=np.float32)
        self._normal = np.empty((n, m, 3), dtype=np.float32)
        self._geom = np.empty((n, m), dtype=np.int32)

    def render(self, position: np.ndarray, rotation: np.ndarray, colors: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """Render some environments.

        Args:
            position: [N, 3] camera positions in the base frame.
            rotation: [N, 3, 3] camera rotations (columns right, down, forward).
            colors: [N, G, 3] float32 colour of every geom in [0, 1].
            ids: sorted environment indices (None: all N). Only these rows of the other arguments are read.

        Returns:
            uint8 [len(ids), size, size, 3].
        """
        rows = np.arange(len(position)) if ids is None else ids
        self._origin[rows] = position[rows, None, :].astype(np.float32)
        self._direction[rows] = self._rays @ rotation[rows].astype(np.float32).transpose(0, 2, 1)
        self._batch.rays(self._origin, self._direction, self._distance, self._geom, self._normal, ids=ids)
        sel = slice(None) if ids is None else rows
        normal, geom, distance = self._normal[sel], self._geom[sel], self._distance[sel]
        # Lambert: ambient + diffuse * max(0, n . l)
        light = AMBIENT + (1 - AMBIENT) * np.maximum(normal @ LIGHT, 0.0)
        if self.shadows:
            light *= self._shadow(rows, ids, distance, normal)
        palette = np.concatenate([np.broadcast_to(SKY, (len(rows), 1, 3)), colors[sel]], axis=1)  # geom -1 is the sky
        light[geom < 0] = 1.0
        index = geom + 1 + (np.arange(len(rows), dtype=np.int32) * palette.shape[1])[:, None]
        shaded = palette.reshape(-1, 3)[index] * (light * 255.0)[..., None]
        return shaded.astype(np.uint8).reshape(len(rows), self.size, self.size, 3)

    def _shadow(self, rows: np.ndarray, ids: np.ndarray | None, distance: np.ndarray, normal: np.ndarray) -> np.ndarray:
        sel = slice(None) if ids is None else rows
        self._origin[sel] += self._direction[sel] * distance[..., None] + 1e-3 * normal
        self._direction[sel] = LIGHT
        self._batch.rays(self._origin, self._direction, self._distance, ids=ids)
        return np.where(self._distance[sel] >= 0, SHADOW, 1.0).astype(np.float32)
