"""robosuite 1.4's controller, adapted to newer versions of MuJoCo.

Follows robosuite's ``controllers/base_controller.py`` (MIT) line by line; only calls that MuJoCo has changed differ.
"""

from __future__ import annotations

import importlib
from typing import Any

import mujoco
import numpy as np

_WIDTHS = {0: (7, 6), 1: (4, 3), 2: (1, 1), 3: (1, 1)}
"""Number of entries in qpos and qvel by joint type: free, ball, slide, hinge."""


def read_state(c: Any, model: mujoco.MjModel, data: mujoco.MjData, site: int) -> None:
    """Copy the inputs of a controller out of a forwarded simulation.

    Args:
        c: robosuite's controller.
        model: MuJoCo model.
        data: MuJoCo data.
        site: index of the controlled site.
    """
    nv = model.nv
    c.ee_pos = np.array(data.site_xpos[site])
    c.ee_ori_mat = np.array(data.site_xmat[site].reshape([3, 3]))
    jac_pos, jac_ori = np.zeros((3, nv)), np.zeros((3, nv))
    mujoco.mj_jacSite(model, data, jac_pos, jac_ori, site)
    c.ee_pos_vel, c.ee_ori_vel = np.dot(jac_pos, data.qvel), np.dot(jac_ori, data.qvel)
    c.joint_pos, c.joint_vel = np.array(data.qpos[c.qpos_index]), np.array(data.qvel[c.qvel_index])
    c.J_pos, c.J_ori = np.array(jac_pos[:, c.qvel_index]), np.array(jac_ori[:, c.qvel_index])
    c.J_full = np.array(np.vstack([c.J_pos, c.J_ori]))
    mass = np.zeros((nv, nv))
    mujoco.mj_fullM(model, data, mass)
    c.mass_matrix = mass[c.qvel_index, :][:, c.qvel_index]


def modernize() -> None:
    """Replace robosuite methods that use the MuJoCo API before 3.4, unless the LIBERO distribution has replaced them."""
    controller = importlib.import_module("robosuite.controllers.base_controller").Controller
    if controller.update.__module__.startswith("robosuite."):
        controller.update = _update
    if np.int32(mujoco.mjtJoint.mjJNT_HINGE.value) not in (mujoco.mjtJoint.mjJNT_HINGE,):
        model = importlib.import_module("robosuite.utils.binding_utils").MjModel
        model.get_joint_qpos_addr = lambda self, name: _address(self, name, self.jnt_qposadr, 0)
        model.get_joint_qvel_addr = lambda self, name: _address(self, name, self.jnt_dofadr, 1)


def _update(self: Any, force: bool = False) -> None:
    if self.new_update or force:
        self.sim.forward()
        read_state(self, self.sim.model._model, self.sim.data._data, self.sim.model.site_name2id(self.eef_name))
        self.new_update = False


def _address(model: Any, name: str, addresses: np.ndarray, kind: int) -> Any:
    joint = model.joint_name2id(name)
    start, width = addresses[joint], _WIDTHS[int(model.jnt_type[joint])][kind]
    return start if width == 1 else (start, start + width)
