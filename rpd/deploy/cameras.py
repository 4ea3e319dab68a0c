"""Cameras, each in its own process, so that the control loop detects a crash or freeze."""

from __future__ import annotations

from rpd.core.link import Child, LinkLost
from rpd.deploy.config import CameraConfig
from rpd.envs.control.arm import Array
from rpd.envs.errors import RunFault


class CameraLost(RunFault):
    """A camera process is gone; the message names the camera."""


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
