"""Camera process: captures images, crops and scales them, and sends them to the control loop."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rpd.core.link import Link, LinkLost, parent
from rpd.envs import user_files
from rpd.envs.errors import ConfigError, missing_package

Grab = Callable[[], tuple[float, np.ndarray]]
"""Waits for an image; returns its capture time (`time.monotonic`), and the image: RGB, uint8 [H, W, 3]."""
TIMEOUT = 2.0  # maximum wait for an image, s
BUFFERED = ("opencv", "realsense")
"""Drivers of cameras that deliver images by themselves, into a queue."""


def square(image: np.ndarray, size: int) -> np.ndarray:
    """Center crop of an image [H, W, 3], scaled to [size, size, 3] by area averaging."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(middle)
    cv2 = _cv2()
    return cv2.resize(middle, (size, size), interpolation=cv2.INTER_AREA)


def sim(order: dict[str, Any]) -> Grab:
    """Open a camera of the simulated robot."""
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
    """Open any OpenCV source: a number, a device, a file."""
    cv2 = _cv2()
    device = order["device"] if order["device"] is not None else 0
    capture = cv2.VideoCapture(device)
    size = (("FRAME_WIDTH", order["width"]), ("FRAME_HEIGHT", order["height"]))
    for key, value in (*size, ("FPS", order["rate"]), ("BUFFERSIZE", 1)):
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
    """Open the color stream of an Intel RealSense."""
    try:
        import pyrealsense2 as rs
    except ImportError:
        raise missing_package("a RealSense camera", "pyrealsense2", "realsense") from None
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


class Newest:
    """Takes images as fast as a camera gives them, and returns the newest: its driver keeps a queue of older ones.

    A camera that is faster than its file's rate fills the queue, and each image read would be several periods old.
    """

    def __init__(self, grab: Grab) -> None:
        self._grab, self._ready = grab, threading.Condition()
        self._newest: tuple[float, np.ndarray] | None = None
        self._failure: BaseException | None = None
        threading.Thread(target=self._run, daemon=True, name="camera").start()

    def __call__(self) -> tuple[float, np.ndarray]:
        """Wait for an image that was not returned before.

        Raises:
            Exception: that of the camera.
        """
        with self._ready:
            self._ready.wait_for(lambda: self._newest is not None or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            assert self._newest is not None
            image, self._newest = self._newest, None
            return image

    def _run(self) -> None:
        while True:
            try:
                image = self._grab()
            except BaseException as error:
                with self._ready:
                    self._failure = error
                    self._ready.notify()
                return
            with self._ready:
                self._newest = image
                self._ready.notify()


def main(handle: int) -> None:
    """Run the camera of the first message; see `rpd.core.link.Child`."""
    link = parent(handle)
    with contextlib.suppress(LinkLost):
        order = link.take(float("inf"))[0]
        try:
            user_files.inherit()
            grab = {"sim": sim, "opencv": opencv, "realsense": realsense}[order["driver"]](order)
        except ConfigError as error:
            link.send({"error": str(error)})
            return
        source = Newest(grab) if order["driver"] in BUFFERED else grab
        taken, image = source()
        link.send({"ready": True, "time": taken, "image": square(image, order["size"])})
        due = time.monotonic()
        while link.lost is None:
            due = max(due + 1 / order["rate"], time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            taken, image = source()
            link.send({"time": taken, "image": square(image, order["size"])})


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise missing_package("a camera", "OpenCV", "cameras") from None
    return cv2
