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


RPD_MANISKILL = (
    "PickCube-v1", "PushCube-v1", "PullCube-v1", "StackCube-v1", "LiftPegUpright-v1", "RollBall-v1", "PokeCube-v1",
    "PullCubeTool-v1", "PegInsertionSide-v1", "PlugCharger-v1", "PushT-v1",
)  # fmt: skip
"""RPD's tasks (arXiv 2503.05833)."""

SUITES = {
    suite.name: suite
    for suite in (
        *(_libero(name, 10) for name in ("spatial", "object", "goal", "10")),
        _libero("90", 90),
        Suite(
            "rpd-maniskill",
            tuple(f"maniskill/{t}" for t in RPD_MANISKILL),
            # Success at any step of whole episodes, each in a scene of its own; the only reward that all of them have.
            {"reward": "sparse", "ignore_terminations": True, "reconfigure": True},
        ),
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
