"""Vulkan devices of this machine, queried from the Vulkan loader (without vulkan-tools or a simulator)."""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
import re
import struct
import sys
from dataclasses import dataclass

from rpd.envs.errors import ConfigError

MIN_LAVAPIPE = (24, 3)
"""Oldest Mesa with descriptor indexing; with older ones SAPIEN "fails to find a rendering device"."""

FIX = (
    "install Mesa lavapipe >= 24.3, e.g. Debian 12: echo 'deb http://deb.debian.org/debian bookworm-backports main' > "
    "/etc/apt/sources.list.d/backports.list && apt-get update && apt-get install -y -t bookworm-backports "
    "mesa-vulkan-drivers libvulkan1; Ubuntu >= 24.04: apt-get install -y mesa-vulkan-drivers libvulkan1"
)

_NVIDIA = 0x10DE
_TYPE_CPU = 4
_VULKAN_1_1 = 1 << 22 | 1 << 12
_ICD_FOLDERS = ("/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d")


@dataclass(frozen=True)
class VulkanDevice:
    """A device offered by a Vulkan driver.

    Attributes:
        name: e.g. ``"NVIDIA H200"`` or ``"llvmpipe (LLVM 19.1.7, 256 bits)"``.
        driver: version string reported by the driver, e.g. ``"Mesa 25.0.7-2 (LLVM 19.1.7)"``.
        vendor: PCI vendor id.
        software: whether it renders on the CPU.
    """

    name: str
    driver: str
    vendor: int
    software: bool

    @property
    def nvidia(self) -> bool:
        """Whether SAPIEN can address it as a CUDA device."""
        return self.vendor == _NVIDIA

    @property
    def usable(self) -> bool:
        """Whether SAPIEN can render with it, judged by its version."""
        mesa = re.search(r"Mesa (\d+)\.(\d+)", self.driver)
        return not (self.software and mesa) or (int(mesa[1]), int(mesa[2])) >= MIN_LAVAPIPE

    def __str__(self) -> str:
        return f"{self.name}, driver {self.driver}"


def devices() -> list[VulkanDevice]:
    """List the devices of all drivers that the loader finds; empty without a loader or driver."""
    loader = _loader()
    if loader is None:
        return []
    # VkApplicationInfo (sType 0) only asks for Vulkan 1.1; VkInstanceCreateInfo (sType 1) points to it. The rest is null.
    application = ctypes.create_string_buffer(struct.pack("@iPPIPII", 0, 0, 0, 0, 0, 0, _VULKAN_1_1))
    info = struct.pack("@iPiPiPiP", 1, 0, 0, ctypes.addressof(application), 0, 0, 0, 0)
    instance = ctypes.c_void_p()
    if loader.vkCreateInstance(info, None, ctypes.byref(instance)) != 0:
        return []
    try:
        count = ctypes.c_uint32()
        loader.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
        handles = (ctypes.c_void_p * count.value)()
        loader.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
        return [_properties(loader, handle) for handle in handles[: count.value]]
    finally:
        loader.vkDestroyInstance(instance, None)


def render_settings() -> tuple[str, dict[str, str]]:
    """Choose how SAPIEN renders with physics on the CPU.

    Returns:
        ManiSkill's `render_backend`, and environment variables for its processes.

    Raises:
        ConfigError: no usable Vulkan device; the message contains the fix.
    """
    found = devices()
    if any(d.nvidia for d in found):
        return "gpu", {}
    usable = [d for d in found if d.usable]
    if not usable:
        what = f"too old for it: {found[0]}" if found else "none is installed"
        raise ConfigError(f"ManiSkill needs a Vulkan driver (even from state), and {what}: {FIX}")
    chosen_by_user = "VK_ICD_FILENAMES" in os.environ or "VK_DRIVER_FILES" in os.environ
    icd = lavapipe_icd()
    if icd and not chosen_by_user and all(d.software for d in found):
        return "cpu", {"VK_ICD_FILENAMES": icd}
    return "cpu", {}


def lavapipe_icd() -> str | None:
    """Path of the ICD file of lavapipe, or None."""
    return next((path for folder in _ICD_FOLDERS for path in sorted(glob.glob(f"{folder}/lvp_icd*.json"))), None)


def _loader() -> ctypes.CDLL | None:
    names = ["libvulkan.so.1"] if sys.platform != "darwin" else ["libvulkan.1.dylib"]
    sapien = importlib.util.find_spec("sapien")
    if sapien and sapien.origin:  # SAPIEN falls back to the loader in its own wheel
        suffix = "dylib" if sys.platform == "darwin" else "so*"
        names += glob.glob(f"{os.path.dirname(sapien.origin)}/vulkan_library/libvulkan*{suffix}")
    for name in names:
        try:
            loader = ctypes.CDLL(name)
        except OSError:
            continue
        loader.vkDestroyInstance.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        loader.vkEnumeratePhysicalDevices.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        loader.vkGetPhysicalDeviceProperties2.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        return loader
    return None


def _properties(loader: ctypes.CDLL, handle: int | None) -> VulkanDevice:
    # VkPhysicalDeviceDriverProperties: sType, pNext, driverID, driverName[256], driverInfo[256], conformance (4 bytes).
    driver = ctypes.create_string_buffer(struct.pack("@iPi256s256si", 1000196000, 0, 0, b"", b"", 0))
    # VkPhysicalDeviceProperties2: sType, pNext, then 824 bytes that begin with apiVersion, driverVersion, vendorID,
    # deviceID, deviceType, deviceName[256].
    properties = ctypes.create_string_buffer(struct.pack("@iP1024s", 1000059001, ctypes.addressof(driver), b""))
    loader.vkGetPhysicalDeviceProperties2(handle, properties)
    _, _, _, _, vendor, _, kind, name = struct.unpack_from("@iP5I256s", properties)
    return VulkanDevice(_text(name), _text(struct.unpack_from("@iPi256s256si", driver)[4]), vendor, kind == _TYPE_CPU)


def _text(padded: bytes) -> str:
    return padded.split(b"\0")[0].decode(errors="replace")
