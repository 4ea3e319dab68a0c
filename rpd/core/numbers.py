"""Check numbers in JSON files that other programs may have written."""

from __future__ import annotations

from typing import Any

from rpd.envs.errors import ConfigError

NUMBERS = frozenset({
    "n", "successes", "rate", "interval", "mean_return", "mean_length", "mean_rate", "travel_time", "weighted_travel_time",
    "seed", "ret", "length", "success_once", "success_at_end", "solved_after", "steps", "wall_s", "teacher_queries", "diff",
    "lo", "hi", "curve", "bytes", "frames", "solved", "violations", "limited", "episodes", "bytes_per_frame",
})  # fmt: skip
"""Keys whose values are numbers or lists of numbers, at any depth of a result."""


def check_numbers(value: Any, where: str) -> Any:
    """Return a JSON value after checking that the values of `NUMBERS` are numbers.

    Args:
        value: the parsed JSON.
        where: the file, for messages.

    Raises:
        ConfigError: a value is not a number; names the file, the key and the value.
    """
    if isinstance(value, list):
        for inner in value:
            check_numbers(inner, where)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in NUMBERS and not _is_number(inner):
                raise ConfigError(f"{where}: damaged: {key} is {str(inner)[:80]!r}, and has to be a number")
            check_numbers(inner, where)
    return value


def _is_number(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_number, value))
    return value is None or isinstance(value, (int, float))
