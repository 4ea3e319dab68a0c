"""Driver ``replay``: a recorded episode, measured again in its own time; what is commanded moves nothing."""

from __future__ import annotations

import time
from bisect import bisect_right
from pathlib import Path
from typing import ClassVar

from envs.errors import ConfigError
from envs.tabletop.live import TRACKED
from envs.tabletop.robots import ROBOTS
from rpd.deploy.config import RobotConfig
from rpd.deploy.recorded import Record
from rpd.deploy.robots.base import Array, RobotLost, RobotSpec, RobotState


class Driver:
    """Shows what the robot of a record measured.

    Args:
        config: of the robot.
        host: the record.
        episode: which of its episodes, from 0.
    """

    resets: ClassVar[bool] = False

    def __init__(self, config: RobotConfig, host: str, episode: int = 0) -> None:
        recorded = Record(Path(host))
        if not 0 <= episode < len(recorded.played):
            raise ConfigError(f"{host} has {len(recorded.played)} episodes, from 0, and not {episode}")
        self._ticks = [tick for tick in recorded.played[episode].ticks if "joints" in tick]
        if not self._ticks:
            raise ConfigError(f"{host}: episode {episode} has nothing that was measured")
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
        """See `Robot`."""

    def read(self) -> RobotState:
        """See `Robot`; the first call begins the episode.

        Raises:
            RobotLost: the record is over.
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

    def command(self, joints: Array, gripper: float) -> None:
        """See `Robot`."""

    def stop(self) -> None:
        """See `Robot`."""
        self._stopped = "told to"

    def close(self) -> None:
        """See `Robot`."""
