"""LIBERO's cameras: rendering as in the original (stock), or cheaper.

Published models were trained and evaluated on images of a MuJoCo before 3.3.3. Later versions convert textures from files
marked as sRGB, and the floor of libero_object renders a quarter darker; here textures are used unconverted.

Shadows of 4096² texels, multisampling and reflections dominate the rendering time on a CPU. A vision-language-action model was
trained on images with them; a student trained on cheap images does not need them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal

import mujoco
import numpy as np

from rpd.envs.specs import Viewpoint

Rendering = Literal["stock", "cheap"]

_MAX_GEOMS = 1000  # as in robosuite
_contexts: list[Any] = []  # one OpenGL context per process: drawing goes to the current one


MOUNTED = "robot0_eye_in_hand"
"""Camera on the hand."""
_TO_IMAGE = np.diag([-1.0, -1.0, -1.0])
"""MuJoCo's camera axes (right, up, back) as the directions right, down and into the image, which `Camera.render` mirrors."""


def viewpoints(model: mujoco.MjModel, names: Sequence[str]) -> dict[str, Viewpoint]:
    """Cameras by name: poses relative to the robot's base, or to the tool for the mounted one."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    return {name: _viewpoint(model, data, name) for name in names}


def _viewpoint(model: mujoco.MjModel, data: mujoco.MjData, name: str) -> Viewpoint:
    camera, mounted = model.camera(name).id, name == MOUNTED
    frame = data.site("gripper0_grip_site") if mounted else data.body("robot0_base")
    turn = frame.xmat.reshape(3, 3).T
    rotation = turn @ data.cam_xmat[camera].reshape(3, 3) @ _TO_IMAGE
    return Viewpoint.of(turn @ (data.cam_xpos[camera] - frame.xpos), rotation, np.radians(model.cam_fovy[camera]), mounted)


class Camera:
    """Renders one model. Must be created in the process that uses it, after forking.

    Args:
        model: the model.
        platform: see `rpd.envs.rendering.opengl.platform`.
        rendering: stock or cheap.
        size: largest height and width of a rendered image.
    """

    def __init__(self, model: mujoco.MjModel, platform: str, rendering: Rendering, size: int) -> None:
        self._model, self._cheap = model, rendering == "cheap"
        buffer = model.vis.global_
        buffer.offwidth, buffer.offheight = max(buffer.offwidth, size), max(buffer.offheight, size)
        model.tex_colorspace[:] = int(mujoco.mjtColorSpace.mjCOLORSPACE_LINEAR)
        if not _contexts:
            _contexts.append(importlib.import_module(f"mujoco.{platform}").GLContext(buffer.offwidth, buffer.offheight))
        _contexts[0].make_current()
        if self._cheap:
            model.vis.quality.offsamples = 0
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._options, self._no_force = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._options.geomgroup[0] = 0  # collision meshes
        self._drawer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)

    def render(self, data: mujoco.MjData, name: str, size: int) -> np.ndarray:
        """Render from a camera of the model.

        Returns:
            uint8 [size, size, 3], rotated by 180 degrees relative to MuJoCo's image, as in the evaluation of OpenVLA and its
            successors: upright, with left and right as in the demonstrations.
        """
        self._view.fixedcamid = self._model.camera(name).id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._options, self._no_force, self._view, everything, self._scene)
        if self._cheap:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        viewport = mujoco.MjrRect(0, 0, size, size)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._drawer)  # the context is shared between models
        mujoco.mjr_render(viewport, self._scene, self._drawer)
        image = np.empty((size, size, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, viewport, self._drawer)
        return image[::-1, ::-1]
