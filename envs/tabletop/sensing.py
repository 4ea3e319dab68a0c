"""Age and noise of observations, as of a real robot's measurements, cameras and object tracker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rpd.envs.control.kinematics import Array
from rpd.envs.control.state_names import TRACKED
from rpd.envs.privileged_state import ManipulationState
from rpd.envs.seeding import uniforms
from rpd.envs.tabletop.mjcf import CONTROL_PERIOD

OWN_AGE = 0.2
"""Age of the robot's own measurements relative to that of images and tracked objects: their ways are shorter."""
NOISE: dict[str, tuple[float, float]] = {
    "q": (0.002, 0.0005),  # rad
    "dq": (0.0, 0.01),  # rad/s
    "gripper": (0.01, 0.005),  # fraction of the opening
    "tcp": (0.002, 0.0005),  # m, of a direction: rad
    "tcp_lag": (0.0, 0.0005),  # m
    "object": (0.003, 0.001),  # m
    "goal": (0.003, 0.001),  # m
}
"""Largest standard deviations by group of state entries: of the part that stays for an episode, such as an error of
calibration, and of the part that changes in every control step."""
TURNED = {"cos": 10.0, "sin": 10.0, "cos4": 40.0, "sin4": 40.0}
"""Standard deviations of the rotation of an object, relative to those of its position in m: 0.03 and 0.01 rad, times the
multiple of the angle."""


class Sensing:
    """Delays and perturbs the observations of N environments; without randomized conditions it changes nothing."""

    def __init__(self, names: frozenset[str], state_names: Sequence[str], images: dict[str, int]) -> None:
        """Prepare for conditions `names`, the entries of the state, and the sizes of `images` by key."""
        self._aged, self._noisy, self._entries, self._images = "age" in names, "noise" in names, len(state_names), images
        self._age = np.array([_relative_age(name) for name in state_names])
        self._touch = np.array([name.startswith("touch.") for name in state_names])
        spread = np.array([deviations(name) for name in state_names]).reshape(-1, 2)
        self._columns = np.flatnonzero(spread.any(axis=1))
        self._spread = spread[self._columns]

    def arrays(self, n: int) -> dict[str, np.ndarray]:
        """Present observations by name, and with ``before.`` those of the control step before; empty if none is aged."""
        if not self._aged:
            return {}
        now = {"seen.state": np.zeros((n, self._entries), dtype=np.float32)}
        now |= {f"seen.{key}": np.zeros((n, size, size, 3), dtype=np.uint8) for key, size in self._images.items()}
        return now | {f"before.{name}": values.copy() for name, values in now.items()}

    def step(self, state: dict[str, np.ndarray]) -> None:
        """Begin a control step: what was seen last is of the step before."""
        for name in [name for name in state if name.startswith("before.")]:
            state[name] = state[name.removeprefix("before.")].copy()

    def state(self, present: Array, state: dict[str, np.ndarray], ids: NDArray[np.int64]) -> Array:
        """Observed state [K, S] of the environments `ids` [K] whose state is `present` [K, S]."""
        if self._aged:
            state["seen.state"][ids] = present
            share = self._share(state, ids)[:, None] * self._age
            share[:, self._touch] = np.round(share[:, self._touch])  # a touch is 0 or 1
            present = present + share * (state["before.seen.state"][ids] - present)
        if self._noisy:
            present = present.astype(np.float64)
            noise = self._noise(state["seed"][ids], state["elapsed"][ids])
            present[:, self._columns] += state["noise"][ids, None] * noise
        return present.astype(np.float32)

    def image(
        self, key: str, present: NDArray[np.uint8], state: dict[str, np.ndarray], ids: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Observed images [K, H, W, 3]: of the step before where that one is nearer in age."""
        if not self._aged:
            return present
        state[f"seen.{key}"][ids] = present
        old = self._share(state, ids) > 0.5
        return np.where(old[:, None, None, None], state[f"before.seen.{key}"][ids], present)

    def _share(self, state: dict[str, np.ndarray], ids: NDArray[np.int64]) -> Array:
        """Weight [K] of the observation before; 0 in the first one of an episode."""
        return state["age"][ids] / CONTROL_PERIOD * (state["elapsed"][ids] > 0)

    def _noise(self, seeds: NDArray[np.int64], elapsed: NDArray[np.int64]) -> Array:
        """Noise [K, C] of the perturbed columns in the control steps `elapsed` [K] of the episodes of `seeds` [K]."""
        count = len(self._columns)
        stays, changes = normals(seeds, count, 4), normals(seeds, count, 5 + elapsed)
        return stays * self._spread[:, 0] + changes * self._spread[:, 1]


def deviations(name: str) -> tuple[float, float]:
    """Largest standard deviations of a state entry, in its own unit; see `NOISE`."""
    group, _, entry = name.partition(".")
    stays, changes = NOISE.get(group, (0.0, 0.0))
    if group not in ("object", "goal"):
        return stays, changes
    unit = TURNED.get(entry, 1 / ManipulationState.WAY)
    return stays * unit, changes * unit


def normals(seeds: NDArray[np.int64], count: int, stream: int | NDArray[np.int64]) -> Array:
    """`count` standard normal numbers per seed [K, count]; streams as in `uniforms`. Box and Muller (1958)."""
    u = uniforms(seeds, 2 * ((count + 1) // 2), stream)
    radius, angle = np.split(u, 2, axis=1)
    radius = np.sqrt(-2 * np.log(1 - radius))
    return np.concatenate([radius * np.cos(2 * np.pi * angle), radius * np.sin(2 * np.pi * angle)], axis=1)[:, :count]


def _relative_age(name: str) -> float:
    """Age of a state entry relative to that of images; commands of the policy itself are known at once."""
    if name.startswith("pending."):
        return 0.0
    return 1.0 if name.startswith(TRACKED) else OWN_AGE
