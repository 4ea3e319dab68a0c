"""A camera's own process: takes pictures, cuts them to a square, scales them, and sends them on."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from envs.errors import ConfigError
from rpd.deploy.link import Link, LinkLost, parent

Grab = Callable[[], tuple[float, np.ndarray]]
"""Waits for a picture; returns when it was taken (`time.monotonic`), and it: RGB, uint8 [H, W, 3]."""
TIMEOUT = 2.0  # s in which a camera has to give a picture


def square(image: np.ndarray, size: int) -> np.ndarray:
    """The middle of a picture [H, W, 3], scaled to [size, size, 3] by averaging over areas."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(middle)
    cv2 = _cv2()
    return cv2.resize(middle, (size, size), interpolation=cv2.INTER_AREA)


def sim(order: dict[str, Any]) -> Grab:
    """A camera of the simulated robot."""
    end = socket.socket(socket.AF_UNIX)
    end.connect(order["address"])
    link = Link(end, "robot sim")

    def grab() -> tuple[float, np.ndarray]:
        link.send({"camera": order["camera"]})
        while not (answers := link.take(time.monotonic() + TIMEOUT)):
            pass
        return answers[-1]["time"], answers[-1]["image"]

    return grab


def opencv(order: dict[str, Any]) -> Grab:
    """Whatever OpenCV opens: a number, a device, a file."""
    cv2 = _cv2()
    device = order["device"] if order["device"] is not None else 0
    capture = cv2.VideoCapture(device)
    for key, value in (("FRAME_WIDTH", order["width"]), ("FRAME_HEIGHT", order["height"]), ("FPS", order["rate"])):
        capture.set(getattr(cv2, f"CAP_PROP_{key}"), value)
    if not capture.isOpened():
        raise ConfigError(f"OpenCV cannot open device {device!r}: see `ls /dev/video*`")

    def grab() -> tuple[float, np.ndarray]:
        good, image = capture.read()
        if not good:
            raise OSError("no more pictures")
        return time.monotonic(), image[:, :, ::-1]  # OpenCV gives BGR

    return grab


def realsense(order: dict[str, Any]) -> Grab:
    """The colour stream of an Intel RealSense."""
    try:
        import pyrealsense2 as rs
    except ImportError:
        raise ConfigError("a RealSense camera needs pyrealsense2: pip install 'rpd[realsense]'") from None
    pipeline, settings = rs.pipeline(), rs.config()
    if order["device"] is not None:
        settings.enable_device(str(order["device"]))
    settings.enable_stream(rs.stream.color, order["width"], order["height"], rs.format.rgb8, round(order["rate"]))
    try:
        pipeline.start(settings)
    except RuntimeError as error:
        raise ConfigError(f"RealSense {order['device'] or ''}: {error}") from None

    def grab() -> tuple[float, np.ndarray]:
        frames = pipeline.wait_for_frames(int(1000 * TIMEOUT))
        return time.monotonic(), np.asarray(frames.get_color_frame().get_data())

    return grab


def main(handle: int) -> None:
    """Be the camera of the first message; see `rpd.deploy.link.Child`."""
    link = parent(handle)
    with contextlib.suppress(LinkLost):
        order = link.take(float("inf"))[0]
        try:
            grab = {"sim": sim, "opencv": opencv, "realsense": realsense}[order["driver"]](order)
        except ConfigError as error:
            link.send({"error": str(error)})
            return
        taken, image = grab()
        link.send({"ready": True, "time": taken, "image": square(image, order["size"])})
        due = time.monotonic()
        while link.lost is None:
            due = max(due + 1 / order["rate"], time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            taken, image = grab()
            link.send({"time": taken, "image": square(image, order["size"])})


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise ConfigError("cameras need OpenCV: pip install 'rpd[cameras]'") from None
    return cv2
