"""Randomness as pure functions of an episode's seed, and what domain randomisation draws from it."""

from __future__ import annotations

import numpy as np

from envs.errors import unknown_name

CHOICES = ("friction", "mass", "camera", "colors", "delay")
MAX_DELAY = 2  # control steps that a command may be late
_GOLDEN, _MASK = np.uint64(0x9E3779B97F4A7C15), np.uint64((1 << 62) - 1)


def chosen(names: tuple[str, ...]) -> frozenset[str]:
    """Validate `EnvConfig.randomize`; ``all`` stands for everything.

    Raises:
        ConfigError: an unknown name.
    """
    for name in names:
        if name not in (*CHOICES, "all"):
            raise unknown_name("randomization", name, (*CHOICES, "all"))
    return frozenset(CHOICES) if "all" in names else frozenset(names)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al., 2014): a bijection of 64-bit integers that looks random."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def next_seed(seed: np.ndarray) -> np.ndarray:
    """Seed of the episode that follows [K] int64, never negative."""
    with np.errstate(over="ignore"):
        return (_mix(seed.astype(np.uint64) + _GOLDEN) & _MASK).astype(np.int64)


def uniforms(seed: np.ndarray, count: int, stream: int) -> np.ndarray:
    """`count` numbers in [0, 1) per seed [K, count]; different streams are independent."""
    with np.errstate(over="ignore"):
        base = _mix(seed.astype(np.uint64) * np.uint64(2654435761) + np.uint64(stream) * _GOLDEN)
        bits = _mix(base[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(seed: np.ndarray, names: frozenset[str]) -> dict[str, np.ndarray]:
    """Draw what is randomised in the episodes of `seed` [K].

    Returns:
        Of the chosen: ``friction`` [K] and ``mass`` [K] factors, ``delay`` [K] control steps, ``camera`` [K, 6]
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
    """Change colours [K, G, 3] a little; those of the geoms `named` in instructions have to stay recognisable."""
    shift = uniforms(seed, colors[0].size, stream=3).reshape(colors.shape) - 0.5
    width = np.full(colors.shape[1], 0.4)  # table and robot may be anything near what they are
    width[named] = 0.1
    return np.clip(colors + shift * width[:, None], 0, 1).astype(np.float32)
