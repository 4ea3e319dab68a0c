"""One recorded episode, and the names under which its parts are read, whatever file they come from."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.errors import ConfigError

Array = npt.NDArray[Any]

STEP_KEYS = {
    "action": np.dtype(np.float32),
    "label": np.dtype(np.float32),
    "reward": np.dtype(np.float32),
    "terminated": np.dtype(bool),
    "truncated": np.dtype(bool),
    "success": np.dtype(bool),
}
"""What there is per step beside observations, each [T] or [T, A]. ``action`` was executed; ``label`` is what the policy
answered to the observation, without the noise that may have been added; ``success``: the task is solved after the step."""


@dataclass(frozen=True)
class EpisodeInfo:
    """What is known of an episode without reading it."""

    task: str
    """Registry name, e.g. ``"tabletop/PickCube"``; empty where the file does not say."""
    instruction: str
    """What the robot was told to do; empty where the file does not say."""
    seed: int | None
    """Seed that the episode was drawn from; None where the file does not say."""
    success: bool | None
    """Whether the task was solved at the last step; None where the file does not say."""
    length: int
    """Control steps T."""


@dataclass(frozen=True)
class Episode:
    """T control steps as numpy arrays, time first."""

    info: EpisodeInfo
    obs: dict[str, Array]
    """By key (``state``, ``image.<camera>``...), [T + 1, ...]: row t is what action t answers to, and the last row what the
    last action led to. LeRobot keeps no last one: [T, ...] from there."""
    steps: dict[str, Array]
    """By key, [T, ...]: see `STEP_KEYS`. A file that others wrote may lack some, but never ``action`` and ``label``."""


def require(module: str) -> ModuleType:
    """Import a module that the extra ``demos`` installs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.split(".", 1)[0]
        raise ConfigError(f"demonstrations need {name}, which is not installed: pip install 'rpd[demos]'") from None
