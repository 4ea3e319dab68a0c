"""Driver ``sim``: a tabletop robot that moves in real time in another process."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import ClassVar

from envs.errors import ConfigError
from envs.specs import EnvSpec
from envs.tabletop.live import TRACKED
from rpd.deploy.link import Child, LinkLost
from rpd.deploy.robots.base import Array, RobotLost, RobotSpec, RobotState
from teachers.wire.codec import Message

READY = 5.0  # s to wait for the first state of an episode


class SimRobot:
    """Sends joint positions to `rpd.deploy.robots.sim_process`, and reads what it measures.

    Attributes:
        env: the simulated environment's spec.
        camera_address: where its cameras are.
        counters: what the process counts: commands taken, commands ignored after a stop, when which came.
    """

    resets: ClassVar[bool] = True

    def __init__(self, task: str, robot: str, cameras: tuple[str, ...], image_size: int | None, silence: float) -> None:
        """Describe the simulation; `connect` starts it.

        Args:
            task: e.g. ``"tabletop/PickCube"``.
            robot: of the tabletop.
            cameras: that can be looked through.
            image_size: of theirs, pixels; None: the simulator's.
            silence: seconds without a command after which the robot stops by itself.
        """
        if not task.startswith("tabletop/"):
            raise ConfigError(f"robot sim has the tabletop tasks, and not {task}: see `rpd list`")
        self._order: Message = {
            "task": task, "robot": robot, "cameras": list(cameras), "image_size": image_size, "silence": silence,
        }  # fmt: skip
        self._folder = Path(tempfile.mkdtemp(prefix="rpd-sim-"))
        self.camera_address = str(self._folder / "cameras")
        self._child: Child | None = None
        self._episode, self._newest = -1, Message()
        self.counters: Message = {}

    def connect(self) -> None:
        """See `Robot`."""
        self._child = Child("rpd.deploy.robots.sim_process", "robot sim", {**self._order, "address": self.camera_address})
        ready = self._child.ready
        self.env = EnvSpec.model_validate(ready["spec"])
        tracked = tuple(name for name in self.env.state_names if name.startswith(TRACKED))
        joints = tuple(ready["joints"])
        self.spec = RobotSpec("sim", joints, (1.0, 100.0), effort=None, real=False, tracked=tracked, scene=True)

    @property
    def pid(self) -> int:
        """Of the process that is the robot."""
        assert self._child is not None
        return self._child.pid

    @property
    def instruction(self) -> str:
        """Of the episode."""
        return str(self._newest["instruction"])

    def reset(self, seed: int) -> None:
        """Begin the episode of a seed, at rest."""
        self._episode += 1
        self._send({"do": "reset", "seed": seed, "episode": self._episode})
        until = time.monotonic() + READY
        while self._newest.get("episode") != self._episode:
            if time.monotonic() > until:
                raise RobotLost(f"robot sim: no new episode in {READY:g} s")
            self._take(until)

    def read(self) -> RobotState:
        """See `Robot`."""
        self._take(None)
        state = self._newest
        return RobotState(
            time=state["time"],
            joints=state["joints"],
            velocities=state["velocities"],
            gripper=state["gripper"],
            stopped=state["stopped"],
            tracked=dict(zip(self.spec.tracked, state["tracked"].tolist(), strict=True)),
            privileged=state["privileged"],
            success=state["success"],
        )

    def command(self, joints: Array, gripper: float) -> None:
        """See `Robot`."""
        self._send({"do": "command", "joints": joints, "gripper": gripper})

    def stop(self) -> None:
        """See `Robot`."""
        self._send({"do": "stop"})

    def close(self) -> None:
        """See `Robot`."""
        if self._child is not None:
            self._child.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, message: Message) -> None:
        assert self._child is not None
        try:
            self._child.link.send(message)
        except LinkLost as error:
            raise RobotLost(str(error)) from None

    def _take(self, until: float | None) -> None:
        assert self._child is not None
        try:
            for state in self._child.link.take(until):
                self._newest, self.counters = state, state["counters"]
        except LinkLost as error:
            raise RobotLost(str(error)) from None
