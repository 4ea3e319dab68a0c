"""Cameras, each in its own process, so that the control loop detects a crash or freeze."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from rpd.core.link import Child, LinkLost
from rpd.deploy.clock import Clock
from rpd.deploy.config import CameraConfig, RobotConfig
from rpd.deploy.robots.sim import SimDriver
from rpd.envs.control.arm import Array
from rpd.envs.errors import ConfigError, RunFault

SLOW = 0.8
"""Smallest share of its nominal rate that a camera has to deliver."""
WATCHED = 1.0
"""Time for which rates are measured, s."""
POLL = 0.002
"""Time between looks for a new image, s."""


class CameraLost(RunFault):
    """A camera process is gone; the message names the camera."""


class ImageSource(Protocol):
    """A camera of a control loop."""

    def read(self) -> tuple[float, Array]:
        """Return the capture time of the latest image, on the loop's clock, and the image: uint8 [size, size, 3].

        Raises:
            RunFault: there is none.
        """


class SteppedCamera:
    """A camera of a simulated robot in simulated time: every image is taken when it is read.

    Args:
        name: e.g. ``"front"``.
        robot: connected and stepped.
        clock: time of the loop.
    """

    def __init__(self, name: str, robot: SimDriver, clock: Clock) -> None:
        self._name, self._robot, self._clock = name, robot, clock

    def read(self) -> tuple[float, Array]:
        """See `ImageSource`."""
        return self._clock.now(), self._robot.picture(self._name)


class Camera:
    """The latest image of one camera."""

    def __init__(self, name: str, config: CameraConfig, size: int, address: str | None = None) -> None:
        """Start the camera process and wait for its first image.

        Args:
            name: e.g. ``"front"``.
            config: driver and settings.
            size: height and width of the images, pixels.
            address: address of the simulated cameras, for the driver ``sim``.

        Raises:
            ConfigError: the camera does not exist, or its library is missing.
        """
        order = {"camera": name, "size": size, "address": address, **config.model_dump(mode="json")}
        self._child = Child("rpd.deploy.camera_process", f"camera {name}", order)
        self._newest = self._child.ready

    @property
    def pid(self) -> int:
        """Process id of the camera process."""
        return self._child.pid

    def read(self) -> tuple[float, Array]:
        """Return the capture time of the latest image (`time.monotonic`), and the image: uint8 [size, size, 3].

        Raises:
            CameraLost: the camera process is gone.
        """
        try:
            for picture in self._child.link.take()[-1:]:
                self._newest = picture
        except LinkLost as error:
            raise CameraLost(str(error)) from None
        return self._newest["time"], self._newest["image"]

    def close(self) -> None:
        """Stop the camera process."""
        self._child.close()


def measured_rates(cameras: Mapping[str, Camera], seconds: float) -> dict[str, float]:
    """Images per second that each camera delivers, by name; takes `seconds`.

    Raises:
        CameraLost: a camera process is gone.
    """
    times: dict[str, set[float]] = {name: set() for name in cameras}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name, camera in cameras.items():
            times[name].add(camera.read()[0])
        time.sleep(POLL)
    return {name: (len(taken) - 1) / seconds for name, taken in times.items()}


def check_rates(cameras: Mapping[str, Camera], config: RobotConfig) -> None:
    """Raise if a real camera delivers fewer images than its robot file states; takes a second.

    Args:
        cameras: by observation key, e.g. ``image.front``.
        config: config of the robot.

    Raises:
        ConfigError: names the camera and both rates.
        CameraLost: a camera process is gone.
    """
    nominal = {key: config.cameras[key.removeprefix("image.")] for key in cameras}
    real = {key: camera for key, camera in cameras.items() if nominal[key].driver != "sim"}
    for key, rate in measured_rates(real, WATCHED if real else 0.0).items():
        if rate < SLOW * nominal[key].rate:
            name = key.removeprefix("image.")
            raise ConfigError(
                f"camera {name} delivers {rate:.1f} images per second, and cameras.{name}.rate is {nominal[key].rate:g}: "
                "its exposure, its cable, or a rate that it does not have"
            )
