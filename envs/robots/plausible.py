"""Plausibility of a robot description's limits: a wrong unit is found before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rpd.envs.errors import ConfigError

RANGES: dict[str, tuple[float, float, str]] = {
    "velocity": (0.1, 20.0, "rad/s; degrees/s?"),
    "acceleration": (0.5, 100.0, "rad/s^2; degrees/s^2?"),
    "jerk": (50.0, 20_000.0, "rad/s^3; degrees/s^3?"),
    "tcp_speed": (0.05, 10.0, "m/s; mm/s?"),
    "payload": (0.1, 50.0, "kg; g?"),
    "gripper.speed": (0.005, 0.5, "m/s of each finger; mm/s?"),
    "gripper.force": (0.5, 500.0, "N"),
    "gripper.max_force": (0.5, 500.0, "N"),
}
"""Smallest and largest plausible values of table-top arms, with the unit, and the unit that another value probably has."""


def check(where: str, values: Mapping[str, Sequence[float | None]]) -> None:
    """Check values by name of `RANGES`; None: not published.

    Raises:
        ConfigError: names the first that is implausible.
    """
    for name, given in values.items():
        least, most, unit = RANGES[name]
        for value in given:
            if value is not None and not least <= value <= most:
                raise ConfigError(f"{where}: {name}: {value:g} is implausible: {least:g} to {most:g} {unit}")
