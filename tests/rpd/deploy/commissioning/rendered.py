"""Pictures of a ChArUco board at known poses, drawn by a pinhole camera without distortion."""

import cv2
import numpy as np

from rpd.config.commissioning import BoardConfig
from rpd.deploy.commissioning.charuco import Board, compose, inverse

SIZE = 480
BOARD = Board(BoardConfig())
SCALE = 4000
"""Pixels per meter of the drawing of the board."""
FINER = 4
"""Pixels of a picture before it is averaged, per pixel."""


def turned(*degrees):
    """Rotation [3, 3] of a rotation vector."""
    return cv2.Rodrigues(np.radians(np.array(degrees, dtype=float)))[0]


def picture(board, fov, size=SIZE):
    """Picture [size, size, 3] of the board at a pose in the frame of the camera.

    The truth by hand: a point (x, y) of the board, m, is at turn @ (x, y, 0) + place in the camera's frame (right, down,
    forward), and at focal (X / Z, Y / Z) + middle in the picture.
    """
    place, turn = board
    drawing = BOARD.drawing(SCALE)
    focal, middle = FINER * size / 2 / np.tan(fov / 2), FINER * size / 2 - 0.5
    lens = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    meters = np.array([[1 / SCALE, 0, 0.5 / SCALE], [0, 1 / SCALE, 0.5 / SCALE], [0, 0, 1]])
    seen = lens @ np.column_stack([turn[:, 0], turn[:, 1], place]) @ meters
    fine = cv2.warpPerspective(drawing, seen, (FINER * size, FINER * size), flags=cv2.INTER_AREA, borderValue=128)
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)[..., None].repeat(3, axis=2)


def board_on(frame, camera, place, turn):
    """Pose of the board on a frame, such that the camera sees it at a place [3] and a rotation; all poses in the base frame."""
    return compose(inverse(frame), compose(camera, (np.array(place, dtype=float), turn)))
