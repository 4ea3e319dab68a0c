"""A simulated arm behind a fake controller: the tabletop simulation in real time."""

import threading
import time

import torch

from rpd.envs.live.base import Setup
from rpd.envs.tabletop.mjcf import TIMESTEP
from rpd.envs.tabletop.simulated_arm import LiveTabletop

MAX_LAG = 0.5  # s of physics that is caught up


class SimulatedArm(threading.Thread):
    """Moves by itself once started; every method may be called from any thread.

    Attributes:
        sensed: newest `Measurement`.
    """

    def __init__(self, task, robot):
        super().__init__(daemon=True, name="arm")
        torch.set_num_threads(1)
        self.world = LiveTabletop(Setup(task, robot))
        self._lock, self._goal = threading.Lock(), (None, None)
        self.begin(0)

    def begin(self, seed):
        """Start the episode of a seed: arm at home, objects in place."""
        with self._lock:
            self.world.begin(seed)
            self.sensed = self.world.sense()
            self._goal = self.sensed.joints, None

    def drive(self, joints=None, opening=None):
        """Move the servos' goals: joints [n], rad; gripper opening in [0, 1]. None: unchanged. Does not wait."""
        before = self._goal
        self._goal = before[0] if joints is None else joints, before[1] if opening is None else opening

    def hold(self):
        """Brake, and hold the current posture."""
        self.drive(self.sensed.joints)

    def run(self):
        due = time.monotonic()
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            due = max(due, now - MAX_LAG)
            with self._lock:
                self.world.drive(*self._goal)
                while due <= now:
                    self.world.advance()
                    due += TIMESTEP
                self.sensed = self.world.sense()
