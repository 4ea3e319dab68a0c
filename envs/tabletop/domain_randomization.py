"""Domain randomization of tabletop episodes, sampled from the episode seed."""

from __future__ import annotations

import numpy as np

from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.seeding import uniforms
from rpd.envs.simulator_options import IDEAL
from rpd.envs.tabletop.mjcf import CONTROL_PERIOD, SUBSTEPS

REAL = ("delay", "age", "noise", "gains", "limits", "camera", "exposure")
"""Conditions in which a real arm and its cameras differ from the simulation, see docs/domain-randomization.md."""
CHOICES = ("friction", "mass", "colors", *REAL)
GROUPS = {"real": REAL, "all": CHOICES}
"""Names for several conditions."""
MAX_DELAY = 2  # maximum delay of a command, control steps
MAX_MASS = 2.0  # largest factor of the mass of an object
MAX_AGE = CONTROL_PERIOD  # s: an observation is between the present one and the one before


def chosen(names: tuple[str, ...], limits: str) -> frozenset[str]:
    """Conditions of `EnvConfig.domain_randomization`, with groups replaced by their conditions.

    Args:
        names: conditions and groups.
        limits: limits of the arm, see `rpd.envs.simulator_options.TabletopOptions.limits`.

    Raises:
        ConfigError: an unknown name, or limits of an arm that has none.
    """
    for name in names:
        if name not in (*CHOICES, *GROUPS):
            raise unknown_name("randomization", name, (*CHOICES, *GROUPS))
    conditions = frozenset(condition for name in names for condition in GROUPS.get(name, (name,)))
    if "limits" in conditions and limits == IDEAL:
        named = " ".join(names)
        raise ConfigError(
            f"env.domain_randomization {named} scales the limits of the arm, and env.limits is {IDEAL}: leave that out, or "
            "name the other conditions"
        )
    return conditions


def draw(seed: np.ndarray, names: frozenset[str]) -> dict[str, np.ndarray]:
    """Sample the randomized quantities of the episodes with `seed` [K].

    Returns:
        The selected ones of:

        - ``friction`` [K], ``mass`` [K]: factors.
        - ``delay`` [K]: delay of commands, substeps of the simulation.
        - ``age`` [K]: age of observations, s.
        - ``noise`` [K]: size of the noise of observations, relative to the largest one.
        - ``gains`` [K, 3]: factors of the stiffness of the joints' servos, of their damping, and of the fingers' speed.
        - ``limits`` [K]: factor of the limits of velocity and acceleration.
        - ``camera`` [K, 6]: displacement (m) and rotation vector (rad).
        - ``exposure`` [K, 3]: factors of red, green and blue.
    """
    u = uniforms(seed, 20, stream=1)
    stiffness, ratio, fingers = _scaled(u[:, 12], 0.5, 2.0), _scaled(u[:, 13], 0.7, 2.0), _scaled(u[:, 14], 0.5, 2.0)
    every = {
        "friction": 0.6 + 0.8 * u[:, 0],
        "mass": 0.5 + (MAX_MASS - 0.5) * u[:, 1],
        "delay": (u[:, 2] * (MAX_DELAY * SUBSTEPS + 1)).astype(np.int64),
        "camera": (u[:, 3:9] - 0.5) * 2 * np.array([0.03, 0.03, 0.03, 0.05, 0.05, 0.05]),
        "age": MAX_AGE * u[:, 9],
        "noise": u[:, 10],
        "limits": 0.5 + 0.5 * u[:, 11],
        "gains": np.stack([stiffness, ratio * np.sqrt(stiffness), fingers], axis=1),
        "exposure": _scaled(u[:, 15:16], 0.5**0.5, 2**0.5) * (0.95 + 0.1 * u[:, 16:19]),
    }
    return {name: values for name, values in every.items() if name in names}


def _scaled(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """Factors from `low` to `high`, uniform in their logarithm, of uniform numbers `u`."""
    return low * (high / low) ** u


def shift_colors(colors: np.ndarray, named: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Perturb colors [K, G, 3]; geoms `named` in instructions are perturbed less and remain recognizable."""
    shift = uniforms(seed, colors[0].size, stream=3).reshape(colors.shape) - 0.5
    width = np.full(colors.shape[1], 0.4)  # table and robot
    width[named] = 0.1
    return np.clip(colors + shift * width[:, None], 0, 1).astype(np.float32)
