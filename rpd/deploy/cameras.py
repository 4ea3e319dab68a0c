"""Cameras, each in a process of its own: it may die or freeze, and the control loop notices."""

from __future__ import annotations

from envs.errors import RunFault
from rpd.deploy.config import CameraConfig
from rpd.deploy.kinematics import Array
from rpd.deploy.link import Child, LinkLost


class CameraLost(RunFault):
    """A camera's process is gone; the message names it."""


class Camera:
    """The newest picture of one camera."""

    def __init__(self, name: str, config: CameraConfig, size: int, address: str | None = None) -> None:
        """Start it, and wait for its first picture.

        Args:
            name: e.g. ``"front"``.
            config: which, and how.
            size: height and width of the pictures, pixels.
            address: of the simulated cameras, for the driver ``sim``.

        Raises:
            ConfigError: no such camera, or its library is missing.
        """
        order = {"camera": name, "size": size, "address": address, **config.model_dump(mode="json")}
        self._child = Child("rpd.deploy.camera_process", f"camera {name}", order)
        self._newest = self._child.ready

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._child.pid

    def read(self) -> tuple[float, Array]:
        """Return when the newest picture was taken (`time.monotonic`), and it: uint8 [size, size, 3].

        Raises:
            CameraLost: there will be no more.
        """
        try:
            for picture in self._child.link.take()[-1:]:
                self._newest = picture
        except LinkLost as error:
            raise CameraLost(str(error)) from None
        return self._newest["time"], self._newest["image"]

    def close(self) -> None:
        """End its process."""
        self._child.close()
