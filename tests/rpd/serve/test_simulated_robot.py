"""Process of a simulated robot: times of its measurements."""

import contextlib
import socket
import threading
import time

import numpy as np

from rpd.core.link import Link, LinkLost
from rpd.envs.live.base import Measurement
from rpd.serve import simulated_robot
from rpd.serve.simulated_robot import Simulation

SLOW = 0.5  # s to start an episode, as ManiSkill takes to build a scene


class SlowScene:
    timestep, joints, tracked, instruction = 0.01, ("a",), (), ""

    def begin(self, seed):
        time.sleep(SLOW)

    def drive(self, joints, opening):
        pass

    def advance(self):
        pass

    def sense(self):
        return Measurement(np.zeros(1), np.zeros(1), 1.0, {}, np.zeros(1), False)


def test_first_measurement_of_an_episode_is_not_older_than_its_scene(monkeypatch, tmp_path):
    monkeypatch.setattr(simulated_robot, "_build", lambda order: SlowScene())
    ends = [Link(end, "other") for end in socket.socketpair()]
    simulation = Simulation(ends[0], {"silence": 1.0, "address": str(tmp_path / "cameras")})

    def run():
        with contextlib.suppress(LinkLost):
            simulation.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    began = time.monotonic()
    ends[1].send({"do": "reset", "seed": 0, "episode": 0})
    first = ends[1].take(time.monotonic() + 30)[0]
    ends[1].close()
    thread.join(30)
    assert first["time"] >= began + SLOW
