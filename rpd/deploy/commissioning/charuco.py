"""ChArUco boards: detection, the lens of a camera, and its pose on the hand or in the base frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rpd.config.commissioning import BoardConfig
from rpd.deploy.viewpoints import angle
from rpd.envs.control.arm import Array
from rpd.envs.errors import ConfigError, missing_package
from rpd.envs.specs import Viewpoint

ENOUGH_CORNERS = 8
"""Fewest corners of a board in a picture."""
ENOUGH_VIEWS = 6
"""Fewest pictures of a calibration."""


@dataclass(frozen=True)
class View:
    """A picture of the board from one posture of the arm."""

    corners: Array
    """[K, 2] corners in the picture, pixels."""
    points: Array
    """[K, 3] corners on the board, m."""
    tool: tuple[Array, Array]
    """Position [3] and rotation [3, 3] of the tool center point in the base frame."""


@dataclass(frozen=True)
class Calibration:
    """Result of a hand-eye calibration."""

    viewpoint: Viewpoint
    pixels: float
    """Root mean square distance of the corners from their projections, pixels."""
    spread: float
    """Root mean square distance of the middle of the board, computed from each view, from its mean, m."""
    turn: float
    """The same of its orientation, rad."""


class Board:
    """A printed board.

    Args:
        config: its squares and markers.

    Raises:
        ConfigError: OpenCV is missing or has no such dictionary, or markers larger than squares.
    """

    def __init__(self, config: BoardConfig) -> None:
        self._cv2 = opencv()
        aruco = self._cv2.aruco
        if not config.dictionary.startswith("DICT_") or not hasattr(aruco, config.dictionary):
            raise ConfigError(f"--board.dictionary {config.dictionary}: OpenCV has none of this name; e.g. DICT_4X4_50")
        if config.marker >= config.square:
            raise ConfigError(f"--board.marker {config.marker:g} m has to be smaller than --board.square {config.square:g} m")
        dictionary = aruco.getPredefinedDictionary(getattr(aruco, config.dictionary))
        self.size = np.array([config.columns, config.rows]) * config.square
        """[2] width and height, m."""
        self._board = aruco.CharucoBoard((config.columns, config.rows), config.square, config.marker, dictionary)
        self._detector = aruco.CharucoDetector(self._board)

    def drawing(self, pixels_per_meter: float) -> Array:
        """Picture of the board [H, W] uint8, for printing."""
        width, height = np.round(self.size * pixels_per_meter).astype(int).tolist()
        return self._board.generateImage((width, height))

    def detect(self, image: Array) -> tuple[Array, Array] | None:
        """Find the board.

        Args:
            image: [H, W, 3] uint8.

        Returns:
            Corners in the image [K, 2], pixels, and on the board [K, 3], m; None if it is not in view.
        """
        gray = self._cv2.cvtColor(np.ascontiguousarray(image), self._cv2.COLOR_RGB2GRAY)
        corners, ids, *_ = self._detector.detectBoard(gray)
        if ids is None or len(ids) < ENOUGH_CORNERS:
            return None
        points = self._board.getChessboardCorners()[ids.flatten()]
        return corners.reshape(-1, 2).astype(np.float64), points.astype(np.float64)

    def calibrate(self, views: Sequence[View], size: int, mounted: bool) -> Calibration:
        """Compute lens and pose of a camera.

        Args:
            views: pictures of the board: fixed on the hand for a fixed camera, fixed on the table for a mounted one.
            size: height and width of the pictures, pixels.
            mounted: whether the camera is on the hand.

        Raises:
            ConfigError: too few views, or views that do not determine the pose.
        """
        if len(views) < ENOUGH_VIEWS:
            raise ConfigError(f"the board is seen from {len(views)} postures, and {ENOUGH_VIEWS} are needed")
        cv2 = self._cv2
        flags = cv2.CALIB_FIX_ASPECT_RATIO | cv2.CALIB_ZERO_TANGENT_DIST | cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3
        guess = np.array([[size, 0, size / 2 - 0.5], [0, size, size / 2 - 0.5], [0, 0, 1]], dtype=np.float64)
        points = [view.points.astype(np.float32) for view in views]
        corners = [view.corners.astype(np.float32) for view in views]
        flags |= cv2.CALIB_USE_INTRINSIC_GUESS
        pixels, lens, _, turns, places = cv2.calibrateCamera(points, corners, (size, size), guess, None, flags=flags)
        board = [(place.ravel(), cv2.Rodrigues(turn)[0]) for turn, place in zip(turns, places, strict=True)]
        # eye in hand: the hand in the base frame; eye to hand: the base in the frame of the hand
        arm = [view.tool if mounted else inverse(view.tool) for view in views]
        rotation, position = cv2.calibrateHandEye(
            [turn for _, turn in arm], [place for place, _ in arm], [turn for _, turn in board], [place for place, _ in board],
            method=cv2.CALIB_HAND_EYE_PARK,
        )  # fmt: skip
        if not np.isfinite(rotation).all() or not np.isfinite(position).all():
            raise ConfigError("the postures do not determine the camera's pose: turn the hand about several axes")
        camera = position.ravel(), rotation
        fov = 2 * np.arctan(size / 2 / lens[1, 1])
        held = [compose(hand, compose(camera, seen)) for hand, seen in zip(arm, board, strict=True)]
        middle = np.append(self.size / 2, 0.0)
        middles = np.array([place + turn @ middle for place, turn in held])
        spread = float(np.sqrt(np.square(middles - middles.mean(axis=0)).sum(axis=1).mean()))
        turn = float(np.sqrt(np.mean([angle(held[0][1], rotation) ** 2 for _, rotation in held[1:]])))
        return Calibration(Viewpoint.of(*camera, fov, mounted), float(pixels), spread, turn)


Pose = tuple[Array, Array]
"""Position [3] and rotation [3, 3]."""


def compose(outer: Pose, inner: Pose) -> Pose:
    """Pose of a frame in a frame in a frame."""
    return outer[0] + outer[1] @ inner[0], outer[1] @ inner[1]


def inverse(pose: Pose) -> Pose:
    """Pose of the outer frame in the inner one."""
    return -pose[1].T @ pose[0], pose[1].T


def opencv() -> Any:
    """OpenCV.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise missing_package("a ChArUco board", "OpenCV", "cameras") from None
    return cv2
