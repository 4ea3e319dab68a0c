"""What is read from the simulation: the student's state vector, the teacher's scene, and what rewards are computed from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mjbatch import Batch
from torch import Tensor

from envs.privileged import Scene
from envs.tabletop import ik
from envs.tabletop.control import DIMENSIONS
from envs.tabletop.robots import Robot
from envs.tabletop.tasks import Frame
from envs.tabletop.world import World

PRESS = 1.0  # N: a finger presses on the object, it does not merely touch it
SCALED = ("pending.", "touch.", "object.", "goal.")
"""Beginnings of the names of state entries that `EnvSpec.state_scaled` marks."""
ALIGNED = 0.85  # of the force at least is along the direction of closing; in a true grasp it is above 0.92


def own_names(joints: Sequence[str]) -> list[str]:
    """Names of the state entries that a robot with these joints measures of itself, the first of ``state``."""
    names = [f"q.{j}" for j in joints] + [f"dq.{j}" for j in joints] + ["gripper"]
    names += [f"tcp.{c}" for c in ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32")]
    return names + [f"tcp_lag.{c}" for c in "xyz"]


def state_names(robot: Robot, scene: bool, goal: bool, oriented: bool = False) -> tuple[str, ...]:
    """One name per entry of ``state``; `scene` adds what only a simulator knows, `goal` only where the goal is.

    What the robot measures of itself is in SI units; what begins with one of `SCALED` is scaled, see `Scene.relative`, also
    for `oriented`.
    """
    names = own_names(robot.joints)
    # Where commands are late, the newest ones are part of the state: without them, equal observations have other futures.
    names += [f"pending.{d}{k}" for k in range(1, robot.delay + 1) for d in DIMENSIONS]
    if scene:
        names += ["touch.left", "touch.right"]
        names += [f"object.{c}" for c in ("dx", "dy", "dz", *(("cos", "sin") if oriented else ("cos4", "sin4")))]
        names += [f"goal.{c}" for c in ("dx", "dy", "dz")]
    if scene or goal:
        names += [f"goal.{c}" for c in ("tcp_dx", "tcp_dy", "tcp_dz")]
    return tuple(names)


class Readings:
    """Live views of N simulations and the quantities that follow from them. `ids` [K] choose environments.

    Attributes:
        qpos: [N, nq] generalised positions; writing moves things.
        qvel: [N, nv] generalised velocities.
        mocap: [N, M, 3] positions of the M <= 1 bodies that are placed rather than simulated.
        tcp: [N, 3] tool centre point.
    """

    def __init__(self, batch: Batch, world: World, robot: Robot) -> None:
        """Bind to `batch`, made from `world`."""
        self.qpos, self.qvel, self.mocap = batch.bind("qpos"), batch.bind("qvel"), batch.bind("mocap_pos")
        self._world, self._robot = world, robot
        self.tcp = batch.bind("site_xpos")[:, world.tcp]
        self._hand = batch.bind("site_xmat")[:, world.tcp]
        self._contact = batch.bind("sensordata")  # net force of each finger on the object, where there is one

    def finite(self) -> np.ndarray:
        """[N] whether every position and velocity is a number."""
        return np.isfinite(self.qpos).all(axis=1) & np.isfinite(self.qvel).all(axis=1)

    def hand(self, ids: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Rotation [K, 3, 3] of the tool: z points out of the gripper, y along its opening."""
        return self._hand[ids].reshape(-1, 3, 3)

    def frame(self, tcp_speed: np.ndarray) -> Frame:
        """What rewards are computed from, for all N."""
        ids, a = np.arange(len(self.qpos)), self._world.object_qvel
        (obj, obj_quat), (target, target_quat) = self._object(ids), self._target(ids)
        velocity = np.zeros((len(ids), 3)) if a is None else self.qvel[:, a : a + 3]
        return Frame(
            tcp=self.tcp,
            tcp_speed=tcp_speed,
            opening=self._opening(ids),
            grasped=self._grasped(self._pressing(ids)),
            object=obj,
            object_speed=np.linalg.norm(velocity, axis=1),
            target=target,
            turn=ik.yaw(obj_quat) - ik.yaw(target_quat),
            half=self._world.half,
        )

    def observe(
        self, ids: np.ndarray, commanded: np.ndarray, pending: np.ndarray, scene: bool, goal: bool
    ) -> dict[str, Tensor]:
        """The observation without its images.

        Args:
            ids: [K].
            commanded: [K, 3] where the controller wants the tcp.
            pending: [K, robot.delay, 7] commands that are still on their way, the newest first.
            scene: whether ``state`` holds what only a simulator knows; see `state_names`.
            goal: whether it holds at least the way from the tcp to the goal.

        Returns:
            ``state`` [K, S] and ``privileged`` [K, Scene.dim].
        """
        tcp, hand = self.tcp[ids], self.hand(ids)
        (obj, obj_quat), (target, target_quat) = self._object(ids), self._target(ids)
        opening, pressing = self._opening(ids)[:, None], self._pressing(ids)
        privileged = Scene.empty(len(ids))
        for name, value in {
            "tcp_pos": tcp,
            "tcp_quat": ik.mat_to_quat(hand),
            "gripper": opening,
            "object_pos": obj,
            "object_quat": obj_quat,
            "object_half_size": np.full((len(ids), 1), self._world.half),
            "target_pos": target,
            "target_quat": target_quat,
            "grasped": self._grasped(pressing)[:, None],
        }.items():
            Scene.get(privileged, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))
        entries = [
            self.qpos[ids[:, None], self._world.arm],
            self.qvel[ids[:, None], self._world.arm_dofs],
            opening,
            tcp,
            hand[:, :, 0],
            hand[:, :, 1],
            commanded - tcp,
            pending.reshape(len(ids), -1),
        ]
        if scene:
            relative = Scene.relative(privileged, self._world.oriented).numpy()
            entries += [pressing, relative[:, :3], relative[:, 6:8], relative[:, 3:6]]
        if scene or goal:
            entries.append((target - tcp) / Scene.WAY)
        return {"state": torch.from_numpy(np.concatenate(entries, axis=1).astype(np.float32)), "privileged": privileged}

    def _object(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position [K, 3] and quaternion [K, 4] of the object; where there is none, the target's."""
        a = self._world.object_qpos
        if a is None:
            return self._target(ids)
        return self.qpos[ids, a : a + 3], self.qpos[ids, a + 3 : a + 7]

    def _target(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a = self._world.target_qpos
        if a is None:
            return self.mocap[ids, 0], np.tile([1.0, 0.0, 0.0, 0.0], (len(ids), 1))
        return self.qpos[ids, a : a + 3], self.qpos[ids, a + 3 : a + 7]

    def _opening(self, ids: np.ndarray) -> np.ndarray:
        """[K] distance between the fingers as a fraction of fully open."""
        return self.qpos[ids[:, None], self._world.fingers].sum(axis=1) / self._robot.opening

    def _pressing(self, ids: np.ndarray) -> np.ndarray:
        """[K, 2] whether each finger presses on the object in the direction in which it closes.

        The direction matters: two closed fingers that push or lean on a cube touch it as well, and a reward that took
        that for a grasp was hacked at once.
        """
        if self._world.object_qpos is None:
            return np.zeros((len(ids), 2), dtype=bool)
        force = self._contact[ids].reshape(len(ids), 2, 3)
        # The left finger closes towards -y of the hand, the right one towards +y.
        squeeze = np.einsum("kfi,ki->kf", force, self.hand(ids)[:, :, 1]) * [-1.0, 1.0]
        return (squeeze > PRESS) & (squeeze > ALIGNED * np.linalg.norm(force, axis=-1))

    @staticmethod
    def _grasped(pressing: np.ndarray) -> np.ndarray:
        """[K] both fingers press, given [K, 2] from `_pressing`."""
        return pressing[:, 0] & pressing[:, 1]
