"""Process of the simulated robot: physics runs in real time, with or without commands, or is stepped by the control loop."""

from __future__ import annotations

import contextlib
import importlib
import socket
import threading
import time
from typing import Any

import numpy as np
import torch

from rpd.core import realtime
from rpd.core.link import Link, LinkLost, parent
from rpd.envs import user_files
from rpd.envs.errors import ConfigError
from rpd.envs.live.base import SIMULATORS, LiveRobot, Setup
from rpd.envs.specs import Viewpoint

MAX_LAG = 0.5  # largest backlog of physics that is caught up, s; more is dropped


class Simulation:
    """A simulated robot, controlled over a link."""

    def __init__(self, link: Link, order: dict[str, Any]) -> None:
        self.link, self.silence = link, float(order["silence"])
        self.world = _build(order)
        self.world.begin(0)
        self.episode, self.stopped = -1, "no episode has begun"
        self.last_command = time.monotonic()
        self.counters: dict[str, Any] = {}
        self.viewers: list[Link] = []
        self._serve_cameras(order["address"])

    def ready(self) -> dict[str, Any]:
        """Description for the driver."""
        return {"ready": True, "joints": list(self.world.joints), "tracked": list(self.world.tracked)}

    def run(self) -> None:
        """Run in real time until the link is closed."""
        due = time.monotonic()
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            due = max(due, now - MAX_LAG)
            for order in self.link.take():
                self._obey(order, now)
                if order["do"] == "reset":  # may take long: an episode begins when its scene is there
                    now = due = time.monotonic()
            if self.episode < 0:  # no physics before the first episode, but cameras work
                self._show()
                due = now + self.world.timestep
                continue
            self._watch(now)
            while due <= now:
                self.world.advance()
                due += self.world.timestep
            self._report(now)
            self._show()

    def run_stepped(self) -> None:
        """Run until the link is closed; time passes by orders to advance, and every one of them is answered."""
        now = 0.0
        while True:
            for order in self.link.take(float("inf")):
                if order["do"] == "picture":
                    self.link.send({"image": self.world.picture(order["camera"])})
                    continue
                if order["do"] == "advance":
                    for _ in range(round((order["until"] - now) / self.world.timestep)):
                        now += self.world.timestep
                        self._watch(now)
                        self.world.advance()
                    now = order["until"]
                else:
                    self._obey(order, now)
                if order["do"] in ("advance", "reset"):
                    self._report(now)

    def _watch(self, now: float) -> None:
        """Stop without commands."""
        if not self.stopped and now - self.last_command > self.silence:
            self._stop(f"no command for {self.silence:g} s", now)

    def _obey(self, order: dict[str, Any], now: float) -> None:
        if order["do"] == "reset":
            self.world.begin(order["seed"])
            self.episode, self.stopped, self.last_command = order["episode"], "", float("inf")
            self.counters = {"commands": 0, "ignored": 0, "last_command": 0.0, "stopped": 0.0}
        elif order["do"] == "stop":
            self._stop("by a stop command", now)
        elif self.stopped:
            self.counters["ignored"] += 1
        else:
            self.world.drive(order["joints"], order["gripper"])
            self.last_command = self.counters["last_command"] = now
            self.counters["commands"] += 1

    def _stop(self, why: str, now: float) -> None:
        """Hold the arm and the gripper at their current positions; the servos brake the arm."""
        if not self.stopped:
            self.world.drive(self.world.sense().joints, None)
            self.stopped, self.counters["stopped"] = why, now

    def _report(self, now: float) -> None:
        sensed = self.world.sense()
        state = {
            "time": now,
            "episode": self.episode,
            "joints": sensed.joints,
            "velocities": sensed.velocities,
            "gripper": sensed.opening,
            "stopped": self.stopped or None,
            "tracked": np.array(list(sensed.tracked.values())),
            "privileged": sensed.privileged,
            "success": sensed.success,
            "instruction": self.world.instruction,
            "counters": self.counters,
        }
        self.link.send(state)

    def _serve_cameras(self, address: str) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.bind(address)
        server.listen()

        def accept() -> None:
            while True:
                self.viewers.append(Link(server.accept()[0], "camera"))

        threading.Thread(target=accept, daemon=True).start()

    def _show(self) -> None:
        for viewer in list(self.viewers):
            try:
                for wish in viewer.take()[-1:]:
                    viewer.send({"image": self.world.picture(wish["camera"]), "time": time.monotonic()})
            except LinkLost:
                self.viewers.remove(viewer)


def _build(order: dict[str, Any]) -> LiveRobot:
    """Build the simulation of an order.

    Raises:
        ConfigError: the simulator is not installed, or does not have the arm or the task.
    """
    views = {name: None if view is None else Viewpoint.model_validate_json(view) for name, view in order["cameras"].items()}
    setup = Setup(order["task"], order["robot"], order["limits"], order["image_size"], views, order["options"])
    module, _, name = SIMULATORS[order["simulator"]].partition(":")
    made: LiveRobot = getattr(importlib.import_module(module), name)(setup)
    return made


def main(handle: int) -> None:
    """Run the robot of the first message; see `rpd.core.link.Child`."""
    torch.set_num_threads(1)
    link = parent(handle)
    with contextlib.suppress(LinkLost):
        order = link.take(float("inf"))[0]
        try:
            user_files.inherit()
            simulation = Simulation(link, order)
        except ConfigError as error:
            link.send({"error": str(error)})
            return
        link.send(simulation.ready())
        if order["stepped"]:
            simulation.run_stepped()
        realtime.enable_realtime(realtime.ROBOT)
        simulation.run()
