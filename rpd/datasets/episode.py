"""One recorded episode, and the keys of its fields, independent of the file format."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from rpd.envs.errors import missing_package

Array = npt.NDArray[Any]

STEP_KEYS = {
    "action": np.dtype(np.float32),
    "label": np.dtype(np.float32),
    "reward": np.dtype(np.float32),
    "terminated": np.dtype(bool),
    "truncated": np.dtype(bool),
    "success": np.dtype(bool),
    "intervention": np.dtype(bool),
}
"""Fields per step in addition to observations, each [T] or [T, A]. ``action`` was executed; ``label`` is the policy's action
without added noise; ``success``: the task is solved after the step; ``intervention``: an operator corrected the policy, and the
label is a demonstration. Only episodes of a policy under supervision have it; in others every step is a demonstration."""


@dataclass(frozen=True)
class EpisodeMetadata:
    """Metadata of an episode, available without reading its data."""

    task: str
    """Registry name, e.g. ``"tabletop/PickCube"``; empty if unknown."""
    instruction: str
    """Instruction of the task; empty if unknown."""
    seed: int | None
    """Seed of the episode; None if unknown."""
    success: bool | None
    """Whether the task was solved at the last step; None if unknown."""
    length: int
    """Control steps T."""


@dataclass(frozen=True)
class Episode:
    """T control steps as numpy arrays, time first."""

    info: EpisodeMetadata
    obs: dict[str, Array]
    """By key (``state``, ``image.<camera>``...), [T + 1, ...]: row t is the observation before action t, the last row the one
    after the last action. LeRobot datasets lack the last row: [T, ...]."""
    steps: dict[str, Array]
    """By key, [T, ...], see `STEP_KEYS`. Files of other tools may lack some keys, but always have ``action`` and ``label``."""


def require(module: str) -> ModuleType:
    """Import a module of the extra ``demos``.

    Raises:
        ConfigError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.split(".", 1)[0]
        raise missing_package("a demonstration file", name, "demos") from None
