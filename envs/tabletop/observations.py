"""Quantities read from the simulation: state vector, privileged state, and inputs of the rewards."""

from __future__ import annotations

import numpy as np
import torch
from mjbatch import Batch
from torch import Tensor

from rpd.envs.control import kinematics
from rpd.envs.finite import LIMIT
from rpd.envs.privileged_state import ManipulationState
from rpd.envs.robots import Robot
from rpd.envs.tabletop.mjcf import World
from rpd.envs.tabletop.tasks import Frame

PRESS = 1.0  # N: threshold between pressing and touching
ALIGNED = 0.85  # minimum share of the force along the closing direction; in a true grasp it exceeds 0.92


class Readings:
    """Live views of N simulations and derived quantities. `ids` [K] select environments.

    Attributes:
        qpos: [N, nq] generalized positions; writing changes the simulation.
        qvel: [N, nv] generalized velocities.
        mocap: [N, M, 3] positions of the M <= 1 mocap bodies.
        tcp: [N, 3] tool center point.
    """

    def __init__(self, batch: Batch, world: World, robot: Robot) -> None:
        """Bind to `batch`, built from `world`."""
        self.qpos, self.qvel, self.mocap = batch.bind("qpos"), batch.bind("qvel"), batch.bind("mocap_pos")
        self._world, self._robot = world, robot
        self.tcp = batch.bind("site_xpos")[:, world.tcp]
        self._hand = batch.bind("site_xmat")[:, world.tcp]
        contact = batch.bind("sensordata")
        # Of each sensor of a distance: found, distance in m; then the force of each finger on the object.
        self._near, self._contact = contact[:, : 2 * world.near], contact[:, 2 * world.near :]

    def finite(self) -> np.ndarray:
        """[N] whether every position and velocity is finite and plausible."""
        return (np.abs(self.qpos) <= LIMIT).all(axis=1) & (np.abs(self.qvel) <= LIMIT).all(axis=1)

    def hand(self, ids: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Rotation [K, 3, 3] of the tool: z points out of the gripper, y along its opening."""
        return self._hand[ids].reshape(-1, 3, 3)

    def nearest(self) -> np.ndarray:
        """[N, 2 + B] distance, m, of the arm from the table, of its parts from each other, and from each obstacle.

        It is inf beyond `rpd.envs.robots.base.DETECTION`.

        Neighbors in the chain are left out, and the fingers are parts of the arm.
        """
        found, distance = self._near[:, ::2] > 0, self._near[:, 1::2]
        return np.where(found, distance, np.inf)

    def frame(self, tcp_speed: np.ndarray) -> Frame:
        """Inputs of rewards, for all N."""
        ids, a = np.arange(len(self.qpos)), self._world.object_qvel
        (obj, obj_quat), (target, target_quat) = self._object(ids), self._target(ids)
        velocity = np.zeros((len(ids), 3)) if a is None else self.qvel[:, a : a + 3]
        return Frame(
            tcp=self.tcp,
            tcp_speed=tcp_speed,
            opening=self._opening(ids),
            grasped=grasped(self._pressing(ids)),
            object=obj,
            object_speed=np.linalg.norm(velocity, axis=1),
            target=target,
            turn=kinematics.yaw(obj_quat) - kinematics.yaw(target_quat),
            half=self._world.half,
        )

    def observe(
        self, ids: np.ndarray, commanded: np.ndarray, pending: np.ndarray, scene: bool, goal: bool
    ) -> dict[str, Tensor]:
        """The observation without images.

        Args:
            ids: [K].
            commanded: [K, 3] target of the controller for the TCP.
            pending: [K, robot.delay, 7] commands not yet applied, newest first.
            scene: whether ``state`` includes simulator-only entries; see `state_names`.
            goal: whether ``state`` includes at least the displacement from the TCP to the goal.

        Returns:
            ``state`` [K, S] and ``privileged`` [K, ManipulationState.dim].
        """
        tcp, hand = self.tcp[ids], self.hand(ids)
        (obj, obj_quat), (target, target_quat) = self._object(ids), self._target(ids)
        opening, pressing = self._opening(ids)[:, None], self._pressing(ids)
        privileged = privileged_state(
            tcp_pos=tcp,
            tcp_quat=kinematics.mat_to_quat(hand),
            gripper=opening,
            object_pos=obj,
            object_quat=obj_quat,
            object_half_size=np.full((len(ids), 1), self._world.half),
            target_pos=target,
            target_quat=target_quat,
            grasped=grasped(pressing)[:, None],
        )
        entries = [
            self.qpos[ids[:, None], self._world.arm],
            self.qvel[ids[:, None], self._world.arm_dofs],
            opening,
            tcp,
            hand[:, :, 0],
            hand[:, :, 1],
            commanded - tcp,
            pending.reshape(len(ids), -1),
            tracked_entries(privileged, pressing, target - tcp, scene, goal, self._world.oriented),
        ]
        return {"state": torch.from_numpy(np.concatenate(entries, axis=1).astype(np.float32)), "privileged": privileged}

    def _object(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position [K, 3] and quaternion [K, 4] of the object; without an object, of the target."""
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
        """[K] distance between the fingers, as a fraction of fully open."""
        return self.qpos[ids[:, None], self._world.fingers].sum(axis=1) / self._robot.opening

    def _pressing(self, ids: np.ndarray) -> np.ndarray:
        """[K, 2] see `fingers_pressing`."""
        if self._world.object_qpos is None:
            return np.zeros((len(ids), 2), dtype=bool)
        return fingers_pressing(self._contact[ids].reshape(len(ids), 2, 3), self.hand(ids))


def fingers_pressing(force: np.ndarray, hand: np.ndarray) -> np.ndarray:
    """[K, 2] whether each finger presses on the object along its closing direction.

    Two closed fingers that push or lean on a cube also touch it; a reward that ignored the direction was exploited immediately.

    Args:
        force: [K, 2, 3] of the left and the right finger on the object, N.
        hand: [K, 3, 3] rotation of the tool, see `Readings.hand`.
    """
    # The left finger closes toward -y of the hand, the right one toward +y.
    squeeze = np.einsum("kfi,ki->kf", force, hand[:, :, 1]) * [-1.0, 1.0]
    return (squeeze > PRESS) & (squeeze > ALIGNED * np.linalg.norm(force, axis=-1))


def grasped(pressing: np.ndarray) -> np.ndarray:
    """[K] whether both fingers press, given [K, 2] from `fingers_pressing`."""
    return pressing[:, 0] & pressing[:, 1]


def privileged_state(**fields: np.ndarray) -> Tensor:
    """Privileged state [K, ManipulationState.dim] of fields by name, [K, size] each."""
    privileged = ManipulationState.empty(len(next(iter(fields.values()))))
    for name, value in fields.items():
        ManipulationState.get(privileged, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))
    return privileged


def tracked_entries(
    privileged: Tensor, pressing: np.ndarray, way: np.ndarray, scene: bool, goal: bool, oriented: bool
) -> np.ndarray:
    """The last entries [K, T] of ``state``, which a robot does not measure itself; T is 0 without `scene` and `goal`.

    Args:
        privileged: [K, ManipulationState.dim].
        pressing: [K, 2] from `fingers_pressing`.
        way: [K, 3] from the tool center point to the target, m.
        scene: see `rpd.envs.control.state_names.state_names`, as the other two.
        goal: whether there is at least the displacement from the tool center point to the goal.
        oriented: see `EnvSpec.oriented`.
    """
    entries: list[np.ndarray] = []
    if scene:
        relative = ManipulationState.relative(privileged, oriented).numpy()
        entries += [pressing, relative[:, :3], relative[:, 6:8], relative[:, 3:6]]
    if scene or goal:
        entries.append(way / ManipulationState.WAY)
    return np.concatenate(entries, axis=1) if entries else np.zeros((len(privileged), 0), dtype=np.float32)
