"""Simulated robots: the tabletop's own or another simulator, in another process, in real time or stepped."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from rpd.core.link import Child, LinkLost
from rpd.deploy.robots.base import Array, RobotLost, RobotSpec, RobotState
from rpd.envs.errors import ConfigError
from rpd.envs.simulator_options import IDEAL
from rpd.envs.specs import Viewpoint
from rpd.teachers.transport.codec import Message

READY = 30.0  # timeout for the first state of an episode, s: ManiSkill rebuilds its scene
ANSWER = 60.0  # timeout of a stepped simulation, s


class SimDriver:
    """Sends joint positions to `rpd.serve.simulated_robot` and receives its measurements.

    Attributes:
        camera_address: address of its cameras.
        counters: counters of the process: accepted commands, commands ignored after a stop, and their times.
        stepped: whether time passes by `advance` alone.
    """

    resets: ClassVar[bool] = True

    def __init__(
        self,
        task: str,
        robot: str,
        cameras: Mapping[str, Viewpoint | None],
        image_size: int | None,
        silence: float,
        limits: str = IDEAL,
        simulator: str = "sim",
        stepped: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe the simulation; `connect` starts it.

        Args:
            task: e.g. ``"tabletop/PickCube"``.
            robot: robot of the tabletop simulation.
            cameras: rendered cameras and their places; None: the tabletop's own.
            image_size: size of their images, pixels; None: the simulator's default.
            silence: time without a command after which the robot stops by itself, s.
            limits: limits of the arm in the simulation, see `rpd.envs.simulator_options.TabletopOptions`.
            simulator: one of `rpd.envs.live.base.SIMULATORS`.
            stepped: simulated time instead of real time.
            options: options of the simulator.
        """
        self._name = f"robot {simulator}"
        if not task.startswith("tabletop/"):
            raise ConfigError(f"{self._name} has only the tabletop tasks, not {task}: see `rpd list`")
        views = {name: None if view is None else view.model_dump_json() for name, view in cameras.items()}
        self._order: Message = {
            "simulator": simulator, "task": task, "robot": robot, "cameras": views, "image_size": image_size,
            "silence": silence, "limits": limits, "stepped": stepped, "options": dict(options or {}),
        }  # fmt: skip
        self._folder = Path(tempfile.mkdtemp(prefix="rpd-sim-"))
        self.camera_address = str(self._folder / "cameras")
        self._child: Child | None = None
        self._episode, self._newest = -1, Message()
        self.counters: Message = {}
        self.stepped, self._simulator = stepped, simulator

    def connect(self) -> None:
        """See `RobotDriver`."""
        self._child = Child("rpd.serve.simulated_robot", self._name, {**self._order, "address": self.camera_address})
        ready = self._child.ready
        self.spec = RobotSpec(
            self._simulator, tuple(ready["joints"]), (1.0, 100.0), effort=None, real=False, tracked=tuple(ready["tracked"]),
            scene=True,
        )  # fmt: skip

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
        self._await(lambda: self._newest.get("episode") == self._episode, "new episode", READY)

    def advance(self, until: float) -> None:
        """Simulate until a time, s; only stepped.

        Raises:
            RobotLost: no answer in time.
        """
        self._send({"do": "advance", "until": until})
        self._await(lambda: self._newest["time"] >= until, "answer", ANSWER)

    def _await(self, arrived: Callable[[], bool], what: str, seconds: float) -> None:
        """Take messages until one has arrived.

        Raises:
            RobotLost: not within `seconds`; names `what`.
        """
        limit = time.monotonic() + seconds
        while not arrived():
            if time.monotonic() > limit:
                raise RobotLost(f"{self._name}: no {what} in {seconds:g} s")
            self._take(limit)

    def picture(self, camera: str) -> Array:
        """Image of a camera, uint8 [size, size, 3]; only stepped.

        Raises:
            RobotLost: no answer in time.
        """
        assert self._child is not None
        self._send({"do": "picture", "camera": camera})
        try:
            answers = self._child.link.take(time.monotonic() + ANSWER)
        except LinkLost as error:
            raise RobotLost(str(error)) from None
        if not answers:
            raise RobotLost(f"{self._name}: no picture in {ANSWER:g} s")
        image: Array = answers[-1]["image"]
        return image

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
