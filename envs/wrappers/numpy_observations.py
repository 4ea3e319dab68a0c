"""Observations of a `VectorEnv` as numpy arrays in one of Gymnasium's spaces, for adapters to other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from tensordict import TensorDict

from rpd.envs.specs import EnvSpec, ObsSpec


class NumpyObservations:
    """Converts observations.

    State-only environments have a Box; others a Dict with dots replaced (``image.front`` -> ``image_front``), because libraries
    use its keys as names of modules.

    Attributes:
        space: space of one environment's observation.
        flat: whether it is the Box of the state.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self._keys = {key: key.replace(".", "_") for key in sorted(spec.observations)}
        boxes: dict[str, spaces.Space[Any]] = {name: _box(spec.observations[key]) for key, name in self._keys.items()}
        self.flat = set(boxes) == {"state"}
        self.space: spaces.Space[Any] = boxes["state"] if self.flat else spaces.Dict(boxes)

    def __call__(self, obs: TensorDict) -> Any:
        """Arrays [K, ...] of an observation [K]: one array, or one per name."""
        if self.flat:
            return obs["state"].cpu().numpy()
        return {name: obs[key].cpu().numpy() for key, name in self._keys.items()}

    def row(self, arrays: Any, index: int) -> Any:
        """The observation of one environment."""
        return arrays[index] if self.flat else {name: value[index] for name, value in arrays.items()}


def _box(spec: ObsSpec) -> spaces.Box:
    if spec.dtype == "uint8":
        return spaces.Box(0, 255, spec.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, spec.shape, np.float32)
