"""The simulated robot's own process: physics keeps pace with the clock, whatever is commanded, asked or not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import numpy as np
import torch

from envs.base import EnvConfig
from envs.errors import ConfigError
from envs.registry import task_info
from envs.tabletop.live import LiveTabletop
from envs.tabletop.world import TIMESTEP
from rpd.deploy import realtime
from rpd.deploy.link import Link, LinkLost, parent

MAX_LAG = 0.5  # s of physics that are caught up with at once; beyond, time is lost


class Simulation:
    """A live tabletop robot behind a link."""

    def __init__(self, link: Link, order: dict[str, Any]) -> None:
        self.link, self.silence = link, float(order["silence"])
        cameras = tuple(order["cameras"])
        observed = {"obs": "image", "cameras": cameras, "image_size": order["image_size"]} if cameras else {}
        config = EnvConfig(robot=order["robot"], reward=task_info(order["task"]).reward, **observed)
        self.world = LiveTabletop(order["task"], config)
        self.world.begin(0)
        self.episode, self.stopped = -1, "no episode has begun"
        self.heard = time.monotonic()
        self.counters: dict[str, Any] = {}
        self.viewers: list[Link] = []
        self._serve_cameras(order["address"])

    def ready(self) -> dict[str, Any]:
        """What the driver has to know."""
        return {"ready": True, "spec": self.world.spec.model_dump(mode="json"), "joints": list(self.world.robot.joints)}

    def run(self) -> None:
        """Go on until the link is closed."""
        due = time.monotonic()
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            due = max(due, now - MAX_LAG)
            for order in self.link.take():
                self._obey(order, now)
            if self.episode < 0:  # nothing moves yet, but cameras see it
                self._show()
                due = now + TIMESTEP
                continue
            if not self.stopped and now - self.heard > self.silence:
                self._stop(f"no command for {self.silence:g} s", now)
            while due <= now:
                self.world.advance()
                due += TIMESTEP
            self._report(now)
            self._show()

    def _obey(self, order: dict[str, Any], now: float) -> None:
        if order["do"] == "reset":
            self.world.begin(order["seed"])
            self.episode, self.stopped, self.heard = order["episode"], "", float("inf")
            self.counters = {"commands": 0, "ignored": 0, "last_command": 0.0, "stopped": 0.0}
        elif order["do"] == "stop":
            self._stop("told to", now)
        elif self.stopped:
            self.counters["ignored"] += 1
        else:
            self.world.drive(order["joints"], order["gripper"])
            self.heard = self.counters["last_command"] = now
            self.counters["commands"] += 1

    def _stop(self, why: str, now: float) -> None:
        """Hold the arm where it is, and what is in its fingers; the servos brake it."""
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
            "instruction": self.world.instructions[0],
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


def main(handle: int) -> None:
    """Be the robot of the first message; see `rpd.deploy.link.Child`."""
    torch.set_num_threads(1)
    link = parent(handle)
    with contextlib.suppress(LinkLost):
        order = link.take(float("inf"))[0]
        try:
            simulation = Simulation(link, order)
        except ConfigError as error:
            link.send({"error": str(error)})
            return
        link.send(simulation.ready())
        realtime.promise(realtime.ROBOT)
        simulation.run()
