"""Control of N simulated arms: from actions to servo goals, within the limits of the arm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from mjbatch import Batch

from rpd.envs.control import joint_limiter, kinematics, smoothness
from rpd.envs.control.arm_limits import ArmLimits, tool_points
from rpd.envs.control.ee_delta import aim, servo_goals
from rpd.envs.control.kinematics import Array
from rpd.envs.robots import Robot
from rpd.envs.simulator_options import IDEAL, TabletopOptions
from rpd.envs.tabletop.domain_randomization import chosen
from rpd.envs.tabletop.mjcf import CONTROL_PERIOD, World
from rpd.envs.tabletop.observations import Readings


class ArmControl:
    """The controller of `TabletopEnv`: a Cartesian delta controller like ManiSkill's ``pd_ee_delta_pose``.

    An action moves a target pose in the base frame (previous target + delta, so that gravity and contact cause no drift),
    differential inverse kinematics converts the error to joint positions, and the joint limiter of deployments bounds their
    velocity and acceleration. Workspace, speed and tilt of the tool are limits of the target pose.
    """

    def __init__(
        self, robot: Robot, world: World, batch: Batch, now: Readings, limits: ArmLimits, options: TabletopOptions
    ) -> None:
        """Bind to the simulations of `batch`; of `options`, the limits, their randomization and the costs are read."""
        self._costs = options
        self._scaled = "limits" in chosen(options.domain_randomization, options.limits)
        finger_speed = np.inf if options.limits == IDEAL else robot.gripper.speed
        self.goals = batch.bind("ctrl")
        """[N, n + 2] servo goals: joints, rad, and fingers, m."""
        self.finger_step = finger_speed * CONTROL_PERIOD
        """Largest motion of a finger in a control step, m."""
        self._robot, self._batch, self._now, self._limits, self._tool = robot, batch, now, limits, tool_points(robot)
        self._arm, self._dofs, n = world.arm, world.arm_dofs, len(now.qpos)
        self._jacp, self._jacr = (np.empty((n, 3, world.model.nv)) for _ in range(2))
        self._tcp_body = np.full(n, world.tcp_body, dtype=np.int32)

    def arrays(self) -> dict[str, np.ndarray]:
        """State of the controller by name, of arms that have not moved; the methods read and write it."""
        n, joints = len(self._now.qpos), len(self._arm)
        return {
            "target_pos": np.zeros((n, 3)),
            "target_quat": np.zeros((n, 4)),
            "command_velocity": np.zeros((n, joints)),  # of the servo goals
            "command_change": np.zeros((n, joints)),  # of that velocity in the last control step
            "command": np.zeros((n, 7)),  # the last one
            "limited": np.zeros(n, dtype=np.int64),  # commands of this episode that a limit of the arm changed
        }

    def begin(self, state: dict[str, np.ndarray], ids: np.ndarray, joints: Array) -> None:
        """Start the episodes of the environments `ids` [K], whose arms rest at `joints` [K, n], with open grippers."""
        open_fingers = np.full((len(ids), 2), self._robot.opening / 2)
        self.goals[ids] = np.concatenate([joints, open_fingers], axis=1)
        state["target_pos"][ids] = self._now.tcp[ids]
        state["target_quat"][ids] = kinematics.mat_to_quat(self._now.hand(ids))
        for name in ("command_velocity", "command_change", "command", "limited"):
            state[name][ids] = 0

    def move(self, state: dict[str, np.ndarray], command: Array) -> Array:
        """Move the target poses and set the servo goals by commands [N, 7]; returns the cost [N] of the motion.

        `state` has the arrays of `arrays` and the conditions ``limits`` and ``gains`` of `domain_randomization.draw`.
        """
        s, robot, n = state, self._robot, len(self._arm)
        pose = self._now.tcp, kinematics.mat_to_quat(self._now.hand())
        way, turn = command[:, :3] * robot.max_delta_pos, command[:, 3:6] * robot.max_delta_rot
        target, limits = (s["target_pos"], s["target_quat"]), self._limits
        if self._scaled:
            factor = s["limits"][:, None]
            limits = replace(limits, velocity=limits.velocity * factor, acceleration=limits.acceleration * factor)
        s["target_pos"], s["target_quat"], error = aim(robot, limits, self._tool, target, way, turn, pose, CONTROL_PERIOD)
        self._batch.jac(self._jacp, self._jacr, np.ascontiguousarray(pose[0]), self._tcp_body)
        jacobian = self._jacp[:, :, self._dofs], self._jacr[:, :, self._dofs]
        joints, way = self._now.qpos[:, self._arm], s["target_pos"] - pose[0]
        wanted = servo_goals(robot, joints, (limits.lower, limits.upper), jacobian, way, error)
        before = self.goals[:, :n]
        limited = joint_limiter.limit(wanted, before, s["command_velocity"], limits, CONTROL_PERIOD)
        change = limited.velocity - s["command_velocity"]
        moved = joint_limiter.moved(before, limited.velocity, limits, CONTROL_PERIOD)
        cost = self._cost(s, command, change, limits, (wanted, moved, before))
        s["command_velocity"], s["command_change"], s["command"] = limited.velocity, change, command
        self.goals[:, :n] = moved
        changed = limited.joint | limited.speed | limited.acceleration
        s["limited"] += changed
        late = np.flatnonzero(changed | limited.braking)
        if late.size:  # the target waits: ahead of the arm, it would carry it past the place where the policy stops it
            step = (moved[late] - joints[late])[..., None]
            s["target_pos"][late] = pose[0][late] + (jacobian[0][late] @ step)[..., 0]
            turned = kinematics.rotvec_to_quat((jacobian[1][late] @ step)[..., 0])
            s["target_quat"][late] = kinematics.quat_mul(turned, pose[1][late])
        opening = np.where(command[:, 6:7] > 0, robot.opening / 2, 0.0)
        fingers = self.goals[:, n:]
        step = self.finger_step * s["gains"][:, 2:]
        self.goals[:, n:] = fingers + np.clip(opening - fingers, -step, step)
        return cost

    def _cost(
        self,
        state: dict[str, np.ndarray],
        command: Array,
        change: Array,
        limits: ArmLimits,
        motion: tuple[Array, Array, Array],
    ) -> Array:
        """Cost [N] of commands [N, 7], changes [N, n] of the joints' velocities, rad/s, and `motion`: see `withheld`."""
        cost, costs = np.zeros(len(command)), self._costs
        if costs.action_rate_cost:
            cost += costs.action_rate_cost * smoothness.action_rate(command, state["command"])
        if costs.jerk_cost:
            cost += costs.jerk_cost * smoothness.jerk(change, state["command_change"], limits, CONTROL_PERIOD)
        if costs.limit_cost:
            cost += costs.limit_cost * smoothness.withheld(*motion)
        return cost
