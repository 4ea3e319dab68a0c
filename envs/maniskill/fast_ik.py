"""ManiSkill's `pd_ee_delta_pose` for a single scene, in scalar arithmetic.

On the CPU, ManiSkill spends two thirds of a control step on single-row tensors to convert a delta pose to joint targets. Scalar
arithmetic makes the whole step about twice as fast. Limits, frames and the inverse kinematics remain ManiSkill's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sapien
from mani_skill.agents.controllers.pd_ee_pose import PDEEPoseController
from torch import Tensor


def speed_up(agent: Any) -> None:
    """Replace a robot's active controllers by faster ones if they use delta poses in the frame of the root."""
    for controller in getattr(agent.controller, "controllers", {}).values():
        config = controller.config
        if (
            type(controller) is PDEEPoseController
            and config.frame == "root_translation:root_aligned_body_rotation"
            and config.use_delta
            and config.normalize_action
            and not config.use_target
            and not config.interpolate
        ):
            controller.__class__ = SinglePoseController


class SinglePoseController(PDEEPoseController):
    """A `PDEEPoseController` of one robot in one CPU scene."""

    def set_action(self, action: Tensor) -> None:
        """Set joint targets that move the end effector by action [1, 6], in [-1, 1]."""
        config, solver = self.config, self.kinematics
        values = action[0].tolist()
        low, high = self.action_space_low[:3].tolist(), self.action_space_high[:3].tolist()
        move = [lo + (hi - lo) * (min(max(v, -1.0), 1.0) + 1) / 2 for v, lo, hi in zip(values[:3], low, high, strict=True)]
        # ManiSkill clips a rotation by its norm and scales it with the lower limit.
        turn = np.array(values[3:]) / max(1.0, math.hypot(*values[3:])) * config.rot_lower
        here = self.root_link._objs[0].entity_pose.inv() * self.ee_link._objs[0].entity_pose
        pose = sapien.Pose(here.p + move, (_euler_xyz(*turn) * sapien.Pose(q=here.q)).q)
        qpos = self.articulation._objs[0].qpos
        joints, success, _ = solver.pmodel.compute_inverse_kinematics(
            solver.end_link_idx,
            pose,
            initial_qpos=qpos[solver.pmodel_active_joint_indices],
            active_qmask=solver.qmask,
            max_iterations=100,
        )
        targets = joints[solver.pmodel_controlled_joint_indices] if success else qpos[self.active_joint_indices]
        for joint, target in zip(self.joints, targets, strict=True):
            joint._objs[0].drive_target = np.array([target], np.float32)


def _euler_xyz(x: float, y: float, z: float) -> sapien.Pose:
    """Rotation about x, y and z: R = Rx Ry Rz."""
    about_x = sapien.Pose(q=[math.cos(x / 2), math.sin(x / 2), 0, 0])
    about_y = sapien.Pose(q=[math.cos(y / 2), 0, math.sin(y / 2), 0])
    about_z = sapien.Pose(q=[math.cos(z / 2), 0, 0, math.sin(z / 2)])
    return about_x * about_y * about_z
