"""Parts and constants that the episodes of a deployment share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rpd.datasets.deploy_log.format import Recorder, RecordLost
from rpd.deploy.cameras import ImageSource
from rpd.deploy.clock import Clock
from rpd.deploy.config import RobotConfig
from rpd.deploy.controller import Controller
from rpd.deploy.observe import Observer
from rpd.deploy.operators.base import Operator
from rpd.deploy.policy import PolicyProcess
from rpd.deploy.robots.base import RobotDriver
from rpd.deploy.safety import Body
from rpd.envs.control.arm_limits import ArmLimits


@dataclass
class EpisodeContext:
    """Parts and constants that the episodes of a deployment share."""

    robot: RobotDriver
    policy: PolicyProcess
    cameras: Mapping[str, ImageSource]
    """By observation key, e.g. ``image.front``."""
    config: RobotConfig
    recorder: Recorder
    emergency: Callable[[], str | None]
    """Returns a reason to stop, or None; called at every tick."""
    dry_run: bool
    """Compute and record commands without sending them."""
    limits: ArmLimits
    period: float
    """Time between ticks, s."""
    ticks_per_action: int
    """Ticks per control step of the policy."""
    body: Body
    """Geometry of the arm and its obstacles."""
    observer: Observer
    controller: Controller
    clock: Clock
    """Time of ticks, measurements and images."""
    operator: Operator | None = None
    """Takes over from the policy, if any."""

    def record(self, frame: dict[str, Any]) -> None:
        """Record a frame, if recording is still possible."""
        try:
            self.recorder.add(frame)
        except RecordLost:
            return
