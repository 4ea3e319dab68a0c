"""Domain randomization of tabletop episodes, sampled from the episode seed."""

from __future__ import annotations

import numpy as np

from rpd.envs.errors import unknown_name
from rpd.envs.seeding import uniforms

CHOICES = ("friction", "mass", "camera", "colors", "delay")
MAX_DELAY = 2  # maximum delay of a command, control steps


def chosen(names: tuple[str, ...]) -> frozenset[str]:
    """Validate `EnvConfig.domain_randomization`; ``all`` selects every condition.

    Raises:
        ConfigError: an unknown name.
    """
    for name in names:
        if name not in (*CHOICES, "all"):
            raise unknown_name("randomization", name, (*CHOICES, "all"))
    return frozenset(CHOICES) if "all" in names else frozenset(names)


def draw(seed: np.ndarray, names: frozenset[str]) -> dict[str, np.ndarray]:
    """Sample the randomized quantities of the episodes with `seed` [K].

    Returns:
        The selected ones of: ``friction`` [K] and ``mass`` [K] factors, ``delay`` [K] control steps, ``camera`` [K, 6]
        displacement (m) and rotation vector (rad).
    """
    u = uniforms(seed, 12, stream=1)
    every = {
        "friction": 0.6 + 0.8 * u[:, 0],
        "mass": 0.5 + 1.5 * u[:, 1],
        "delay": (u[:, 2] * (MAX_DELAY + 1)).astype(np.int64),
        "camera": (u[:, 3:9] - 0.5) * 2 * np.array([0.03, 0.03, 0.03, 0.05, 0.05, 0.05]),
    }
    return {name: values for name, values in every.items() if name in names}


def shift_colors(colors: np.ndarray, named: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Perturb colors [K, G, 3]; geoms `named` in instructions are perturbed less and remain recognizable."""
    shift = uniforms(seed, colors[0].size, stream=3).reshape(colors.shape) - 0.5
    width = np.full(colors.shape[1], 0.4)  # table and robot
    width[named] = 0.1
    return np.clip(colors + shift * width[:, None], 0, 1).astype(np.float32)
