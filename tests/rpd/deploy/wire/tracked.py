"""Drivers of real robots with an object tracker, which a real cell has next to the arm: the fake's own knowledge of its scene.

``rpd --import tests/rpd/deploy/wire/tracked.py`` registers them; argument ``tracker`` is the address of `Orders`.
"""

from dataclasses import replace

from rpd.deploy.config import DRIVERS
from rpd.deploy.robots.lerobot import LeRobotDriver
from rpd.deploy.robots.ur import URDriver
from rpd.deploy.robots.xarm import XArmDriver
from tests.rpd.deploy.wire.process import Orders


class Tracked:
    """Adds objects and success to the measurements of a driver."""

    def __init__(self, config, host, tracker, **rest):
        super().__init__(config, host, **rest)
        self._tracker = Orders(tracker)
        self.spec = replace(self.spec, tracked=tuple(self._tracker.ask("state")["tracked"]))

    def read(self):
        state, scene = super().read(), self._tracker.ask("state")
        return replace(state, tracked=scene["tracked"], success=scene["success"])


class TrackedUR(Tracked, URDriver):
    pass


class TrackedXArm(Tracked, XArmDriver):
    pass


class TrackedLeRobot(Tracked, LeRobotDriver):
    pass


for driver, name in (("ur", "TrackedUR"), ("xarm", "TrackedXArm"), ("lerobot", "TrackedLeRobot")):
    DRIVERS[f"tracked-{driver}"] = f"{__name__}:{name}"
