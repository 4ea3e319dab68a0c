"""Driver ``sim``: a tabletop robot simulated in real time in another process."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import ClassVar

from rpd.core.link import Child, LinkLost
from rpd.deploy.robots.base import Array, RobotLost, RobotSpec, RobotState
from rpd.envs.control.state_names import TRACKED
from rpd.envs.errors import ConfigError
from rpd.envs.simulator_options import IDEAL
from rpd.envs.specs import EnvSpec
from rpd.teachers.transport.codec import Message

READY = 5.0  # timeout for the first state of an episode, s


class SimDriver:
    """Sends joint positions to `rpd.serve.simulated_robot` and receives its measurements.

    Attributes:
        env: spec of the simulated environment.
        camera_address: address of its cameras.
        counters: counters of the process: accepted commands, commands ignored after a stop, and their times.
    """

    resets: ClassVar[bool] = True

    def __init__(
        self,
        task: str,
        robot: str,
        cameras: tuple[str, ...],
        image_size: int | None,
        silence: float,
        limits: str = IDEAL,
    ) -> None:
        """Describe the simulation; `connect` starts it.

        Args:
            task: e.g. ``"tabletop/PickCube"``.
            robot: robot of the tabletop simulation.
            cameras: rendered cameras.
            image_size: size of their images, pixels; None: the simulator's default.
            limits: limits of the arm in the simulation, see `rpd.envs.simulator_options.TabletopOptions`.
            silence: time without a command after which the robot stops by itself, s.
        """
        if not task.startswith("tabletop/"):
            raise ConfigError(f"robot sim has only the tabletop tasks, not {task}: see `rpd list`")
        self._order: Message = {
            "task": task, "robot": robot, "cameras": list(cameras), "image_size": image_size, "silence": silence,
            "limits": limits,
        }  # fmt: skip
        self._folder = Path(tempfile.mkdtemp(prefix="rpd-sim-"))
        self.camera_address = str(self._folder / "cameras")
        self._child: Child | None = None
        self._episode, self._newest = -1, Message()
        self.counters: Message = {}

    def connect(self) -> None:
        """See `RobotDriver`."""
        self._child = Child("rpd.serve.simulated_robot", "robot sim", {**self._order, "address": self.camera_address})
        ready = self._child.ready
        self.env = EnvSpec.model_validate(ready["spec"])
        tracked = tuple(name for name in self.env.state_names if name.startswith(TRACKED))
        joints = tuple(ready["joints"])
        self.spec = RobotSpec("sim", joints, (1.0, 100.0), effort=None, real=False, tracked=tracked, scene=True)

    @property
    def pid(self) -> int:
        """Process id of the simulated robot."""
        assert self._child is not None
        return self._child.pid

    @property
    def instruction(self) -> str:
        """Language instruction of the episode."""
        return str(self._newest["instruction"])

    def reset(self, seed: int) -> None:
        """Start the episode of a seed, at rest."""
        self._episode += 1
        self._send({"do": "reset", "seed": seed, "episode": self._episode})
        until = time.monotonic() + READY
        while self._newest.get("episode") != self._episode:
            if time.monotonic() > until:
                raise RobotLost(f"robot sim: no new episode in {READY:g} s")
            self._take(until)

    def read(self) -> RobotState:
        """See `RobotDriver`."""
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

    def command(self, joints: Array, gripper: float | None) -> None:
        """See `RobotDriver`."""
        self._send({"do": "command", "joints": joints, "gripper": gripper})

    def stop(self) -> None:
        """See `RobotDriver`."""
        self._send({"do": "stop"})

    def close(self) -> None:
        """See `RobotDriver`."""
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
