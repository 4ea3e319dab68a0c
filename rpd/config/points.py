"""Piecewise linear functions of the environment steps, written as ``STEP:VALUE,STEP:VALUE``."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

from rpd.envs.errors import ConfigError

Points = tuple[tuple[int, float], ...]
EXAMPLE = "0:2,100000:1,250000:0"


def parse_points(text: str) -> Points:
    """Points of a piecewise linear function; empty for an empty text.

    >>> parse_points("0:2,100000:0.5")
    ((0, 2.0), (100000, 0.5))

    Raises:
        ConfigError: not such a text, steps that do not increase, or a negative value.
    """
    if not text:
        return ()
    try:
        points = tuple((int(step), float(value)) for step, value in (point.split(":") for point in text.split(",")))
    except ValueError:
        raise ConfigError(f"'{text}' is no list of points: STEP:VALUE,..., e.g. {EXAMPLE}") from None
    steps = [step for step, _ in points]
    if any(after <= before for before, after in pairwise(steps)) or steps[0] < 0:
        raise ConfigError(f"points '{text}': steps have to be 0 or more and increase, e.g. {EXAMPLE}")
    if not all(0 <= value < float("inf") for _, value in points):
        raise ConfigError(f"points '{text}': values have to be 0 or more, e.g. {EXAMPLE}")
    return points


def check_points(text: str) -> str:
    """Return a valid text; see `parse_points`."""
    parse_points(text)
    return text


def check_reward_points(text: str) -> str:
    """Return a valid text for the weight of PPO's surrogate.

    Raises:
        ConfigError: see `parse_points`, or the last value is not 1.
    """
    points = parse_points(text)
    if points and points[-1][1] != 1:
        raise ConfigError(f"points '{text}': the last value has to be 1, PPO alone, e.g. 0:0,20000:1")
    return text


def interpolate(points: Points, step: int) -> float:
    """Value at a step: linear between points, constant before the first and after the last."""
    i = bisect_right(points, step, key=lambda point: point[0])
    if i == 0:
        return points[0][1]
    if i == len(points):
        return points[-1][1]
    (left, low), (right, high) = points[i - 1], points[i]
    return low + (high - low) * (step - left) / (right - left)
