"""Driver ``replay``: replays the measurements of a recorded episode in real time; commands have no effect."""

from __future__ import annotations

import time
from bisect import bisect_right
from pathlib import Path
from typing import ClassVar

from rpd.datasets.deploy_log.reader import Record
from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import Array, RobotLost, RobotSpec, RobotState
from rpd.envs.control.state_names import TRACKED
from rpd.envs.errors import ConfigError
from rpd.envs.robots import ROBOTS


class ReplayDriver:
    """Replays the measurements in a deployment log.

    Args:
        config: config of the robot.
        host: path of the log.
        episode: number of the episode, from 0.
    """

    resets: ClassVar[bool] = False

    def __init__(self, config: RobotConfig, host: str, episode: int = 0) -> None:
        recorded = Record(Path(host))
        if not 0 <= episode < len(recorded.played):
            raise ConfigError(f"{host} has {len(recorded.played)} episodes, from 0, and not {episode}")
        self._ticks = [tick for tick in recorded.played[episode].ticks if "joints" in tick]
        if not self._ticks:
            raise ConfigError(f"{host}: episode {episode} has no measurements")
        played, names = recorded.played[episode], recorded.spec.state_names
        self._times = [tick["time"] for tick in self._ticks]
        self._asked = list(played.places)
        self._seen = [recorded.observation(played, tick) for tick in self._asked]
        self._entries = [(i, name) for i, name in enumerate(names) if name.startswith(TRACKED)]
        self.spec = RobotSpec(
            "replay", ROBOTS[config.kinematics].joints, (1.0, 1000.0), effort=None, real=False,
            tracked=tuple(name for _, name in self._entries), scene=any("privileged" in seen for seen in self._seen),
        )  # fmt: skip
        self._began: float | None = None
        self._stopped: str | None = None

    def connect(self) -> None:
        """See `RobotDriver`."""

    def read(self) -> RobotState:
        """See `RobotDriver`; the first call starts the episode.

        Raises:
            RobotLost: the recorded episode has ended.
        """
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        elapsed = now - self._began + self._times[0]
        if elapsed > self._times[-1] + 1.0:
            raise RobotLost("robot replay: the record is over")
        tick = self._ticks[bisect_right(self._times, elapsed) - 1]
        asked = bisect_right(self._asked, tick["tick"])
        seen = self._seen[asked - 1] if asked else {}
        return RobotState(
            time=now,
            joints=tick["joints"],
            velocities=tick["velocities"],
            gripper=tick["gripper"],
            stopped=self._stopped,
            tracked={name: float(seen["state"][i]) for i, name in self._entries},
            privileged=seen.get("privileged"),
            success=tick["success"],
        )

    def command(self, joints: Array, gripper: float | None) -> None:
        """See `RobotDriver`."""

    def stop(self) -> None:
        """See `RobotDriver`."""
        self._stopped = "by a stop command"

    def close(self) -> None:
        """See `RobotDriver`."""
