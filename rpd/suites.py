"""Sets of tasks that are evaluated together, by the names that papers use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from envs.errors import unknown_name


@dataclass(frozen=True)
class Suite:
    """A set of tasks.

    Attributes:
        name: what `rpd eval --suite` calls it.
        tasks: their names in the registry.
        env: fields of `envs.base.EnvConfig` that the suite's protocol fixes.
    """

    name: str
    tasks: tuple[str, ...]
    env: dict[str, Any] = field(default_factory=dict)


def _libero(suite: str, count: int) -> Suite:
    return Suite(f"libero_{suite}", tuple(f"libero/{suite}-{i}" for i in range(count)), {"rendering": "stock"})


SUITES = {
    suite.name: suite
    for suite in (
        *(_libero(name, 10) for name in ("spatial", "object", "goal", "10")),
        _libero("90", 90),
        Suite("tabletop", tuple(f"tabletop/{t}" for t in ("PushCube", "PullCube", "PickCube", "StackCube", "PlaceInBin"))),
    )
}


def find(name: str) -> Suite:
    """Return a suite by its name.

    Raises:
        ConfigError: naming the nearest.
    """
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return SUITES[name]
