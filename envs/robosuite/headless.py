"""Import of robosuite without OpenGL."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys


def prepare() -> None:
    """Keep robosuite from choosing a renderer when it is imported; to be called before.

    By default it chooses EGL, fails if that is missing, and sets PYOPENGL_PLATFORM for the whole process. Its macros, which it
    reads first, disable this.
    """
    root = importlib.util.find_spec("robosuite")
    assert root is not None and root.submodule_search_locations
    if "robosuite.macros" not in sys.modules:
        path = os.path.join(root.submodule_search_locations[0], "macros.py")
        spec = importlib.util.spec_from_file_location("robosuite.macros", path)
        assert spec is not None and spec.loader is not None
        macros = importlib.util.module_from_spec(spec)
        sys.modules["robosuite.macros"] = macros
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(macros)
        macros.MUJOCO_GPU_RENDERING = False  # type: ignore[attr-defined]
    os.environ["MUJOCO_GL"] = "disabled"
