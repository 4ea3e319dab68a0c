"""Sets of tasks that are evaluated together, by their published names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.libero import settled
from rpd.envs.libero import suites as libero


@dataclass(frozen=True)
class Suite:
    """A set of tasks.

    Attributes:
        name: value of `rpd eval --suite`.
        tasks: registry names of the tasks.
        env: fields of `rpd.envs.config.EnvConfig` that the suite's protocol fixes.
        about: description for `rpd list suites`.
    """

    name: str
    tasks: tuple[str, ...]
    env: dict[str, Any] = field(default_factory=dict)
    about: str = ""


def _libero(suite: str) -> Suite:
    protocol = {"rendering": "stock"} | ({"settled_with": settled.VERSION} if settled.exists(suite) else {})
    tasks = tuple(f"libero/{suite}-{i}" for i in range(libero.size(suite)))
    return Suite(f"libero_{suite}", tasks, protocol, libero.describe(suite))


RPD_MANISKILL = (
    "PickCube-v1", "PushCube-v1", "PullCube-v1", "StackCube-v1", "LiftPegUpright-v1", "RollBall-v1", "PokeCube-v1",
    "PullCubeTool-v1", "PegInsertionSide-v1", "PlugCharger-v1", "PushT-v1",
)  # fmt: skip
"""RPD's tasks (arXiv 2503.05833)."""

SUITES = {
    suite.name: suite
    for suite in (
        *map(_libero, libero.SUITES),
        Suite(
            "rpd-maniskill",
            tuple(f"maniskill/{t}" for t in RPD_MANISKILL),
            # Success at any step of whole episodes, each in a new scene; sparse is the only reward that all of them have.
            {"reward": "sparse", "ignore_terminations": True, "reconfigure": True},
            "RPD's tasks of ManiSkill, whole episodes, each in a scene of its own",
        ),
        Suite(
            "tabletop",
            tuple(f"tabletop/{t}" for t in ("PushCube", "PullCube", "PickCube", "StackCube", "PlaceInBin")),
            about="cubes of the built-in simulator",
        ),
    )
}


def find(name: str) -> Suite:
    """Return a suite by its name.

    Raises:
        ConfigError: unknown suite; names the nearest.
    """
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return SUITES[name]


@dataclass(frozen=True)
class Shard:
    """Part of an evaluation that one process runs: number `index`, from 1, of `count`."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read e.g. ``"2/4"``.

        Raises:
            ConfigError: the text has another form.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"--shard {text}: give its number and how many there are, e.g. 1/4")
        return cls(int(match[1]), int(match[2]))

    def share(self, suite: Suite, seeds: range) -> dict[str, range]:
        """Seeds of this shard by task: consecutive ones, so that few tasks are built in two shards."""
        total = len(suite.tasks) * len(seeds)
        first, last = (total * i // self.count for i in (self.index - 1, self.index))
        shares = {}
        for number, task in enumerate(suite.tasks):
            begin, end = (min(max(x - number * len(seeds), 0), len(seeds)) for x in (first, last))
            if begin < end:
                shares[task] = seeds[begin:end]
        return shares
