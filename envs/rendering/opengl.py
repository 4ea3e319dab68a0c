"""Choice of the OpenGL platform for headless rendering: EGL or OSMesa."""

from __future__ import annotations

import ctypes.util
import glob
import os

from rpd.envs.errors import ConfigError

FIX = "Debian, Ubuntu: apt-get install -y libosmesa6, or where there is none libegl-mesa0; Fedora: dnf install mesa-libOSMesa"
_GPUS = ("/dev/nvidiactl", "/dev/dri/renderD*")
_PLATFORM_DEVICE_EXT = 0x313F


def platform() -> str:
    """Choose ``"egl"`` or ``"osmesa"``: the value of MUJOCO_GL, else EGL with a GPU, else OSMesa, else EGL.

    Raises:
        ConfigError: neither works on this machine; the message contains the fix.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen in ("egl", "osmesa"):
        return chosen
    if ctypes.util.find_library("EGL") and any(glob.glob(pattern) for pattern in _GPUS):
        return "egl"
    if ctypes.util.find_library("OSMesa"):
        return "osmesa"
    if _egl_has_a_device():
        return "egl"
    raise ConfigError(f"images and videos of LIBERO need OpenGL: OSMesa is not installed, nor EGL with a driver. {FIX}")


def _egl_has_a_device() -> bool:
    """Whether any device, including software, can be rendered on: the EGL library is often installed without a driver."""
    library = ctypes.util.find_library("EGL")
    if library is None:
        return False
    egl = ctypes.CDLL(library)
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglInitialize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    query, display = (egl.eglGetProcAddress(name) for name in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    if not query or not display:
        return False
    devices, count = (ctypes.c_void_p * 16)(), ctypes.c_int(0)
    ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(query)(16, devices, ctypes.byref(count))
    connect = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)(display)
    return any(egl.eglInitialize(connect(_PLATFORM_DEVICE_EXT, device, None), None, None) for device in devices[: count.value])
