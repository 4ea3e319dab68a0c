"""Observation statistics of stable-baselines3's VecNormalize, from a file written by its `save`.

The file is a pickle, which is read without unpickling: see `rpd.teachers.adapters.pickled`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rpd.envs.errors import ConfigError
from rpd.teachers.adapters import pickled

WRAPPER = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
STATISTICS = "stable_baselines3.common.running_mean_std.RunningMeanStd"
NAMES = ("vecnormalize.pkl", "vec_normalize.pkl")
"""Names of the file in a model's folder: in stable-baselines3's documentation and zoo, and on the hub."""


class ObsNormalizer(nn.Module):
    """clip((x - mean) / sqrt(var + epsilon), ±limit) in double precision, as VecNormalize computes it."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: np.ndarray, var: np.ndarray, epsilon: float, limit: float) -> None:
        """Build from `mean` and `var` [S] of the observations."""
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float64)))
        self.register_buffer("scale", torch.from_numpy(np.sqrt(var.astype(np.float64) + epsilon)))
        self.limit = limit

    def forward(self, state: Tensor) -> Tensor:
        """Normalize states [N, S]."""
        return ((state.double() - self.mean) / self.scale).clamp(-self.limit, self.limit).float()


def load(path: Path) -> ObsNormalizer | None:
    """Read the observation statistics; None: the wrapper normalized only rewards.

    Raises:
        ConfigError: a damaged or unsupported file; one line that names it.
    """
    try:
        return _normalizer(pickled.read(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not statistics written by stable-baselines3's VecNormalize.save: {error}") from None


def find(model: Path) -> list[Path]:
    """Candidate statistics files in a model's folder, or in the subfolder of its name as in the zoo.

    Files that CheckpointCallback saved at the same step take precedence, as policy and statistics change together.
    """
    if step := re.fullmatch(r"(.+)_(\d+)_steps", model.stem):
        own = model.with_name(f"{step[1]}_vecnormalize_{step[2]}_steps.pkl")
        if own.is_file():
            return [own]
    folders = (model.parent, model.with_suffix(""))
    return [path for folder in folders for name in NAMES if (path := folder / name).is_file()]


def _normalizer(saved: Any) -> ObsNormalizer | None:
    """Build from the description of a VecNormalize.

    Raises:
        ValueError: not a VecNormalize, or an unsupported normalization.
    """
    settings = _state(saved, WRAPPER, "norm_obs")
    if not settings["norm_obs"]:
        return None
    _state(saved, WRAPPER, "obs_rms", "epsilon", "clip_obs")
    if settings.get("norm_obs_keys") is not None or isinstance(settings["obs_rms"], dict):
        raise ValueError("its observations are a Dict, and only vector states are supported")
    statistics = _state(settings["obs_rms"], STATISTICS, "mean", "var")
    mean, var = pickled.array(statistics["mean"]), pickled.array(statistics["var"])
    epsilon, limit = (float(pickled.array(settings[name])) for name in ("epsilon", "clip_obs"))
    if mean.ndim != 1 or mean.shape != var.shape:
        raise ValueError(f"mean {list(mean.shape)} and variance {list(var.shape)} of observations must be vectors")
    if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all() and epsilon > 0 and limit > 0):
        raise ValueError("its values are not statistics: not finite, or negative")
    return ObsNormalizer(mean, var, epsilon, limit)


def _state(value: Any, name: str, *needed: str) -> dict[str, Any]:
    """Attributes of an object of class `name`; raises ValueError for another class or missing attributes."""
    if not isinstance(value, pickled.Made) or value.name != name or not isinstance(value.state, dict):
        raise ValueError(f"it holds {getattr(value, 'name', type(value).__name__)}, not {name}")
    if missing := [key for key in needed if key not in value.state]:
        raise ValueError(f"its {', '.join(missing)} are missing")
    return value.state
