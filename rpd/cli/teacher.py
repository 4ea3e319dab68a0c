"""`rpd teacher`: `show` what a teacher is, sees, and means by its actions in one environment; `train` one."""

from __future__ import annotations

import contextlib

import torch
import tyro
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from envs import registry as envs
from envs.base import EnvConfig
from envs.errors import ConfigError, unknown_name
from rpd.arguments import parse
from teachers import registry as teachers

USAGE = "usage: rpd teacher show NAME --task TASK, or rpd teacher train DEMOS ...   (--help after either for its options)"


class ShowOptions(BaseModel):
    """Show a teacher in an environment; nothing is trained, and no large weights are read."""

    model_config = ConfigDict(extra="forbid")

    name: tyro.conf.Positional[str]
    """Teacher, e.g. openvla:runs/vla; see `rpd list`."""
    task: str
    """Task that it would teach, e.g. tabletop/PickCube."""
    robot: str | None = None
    """Robot; default: the task's."""


def main(args: list[str]) -> int:
    """Run one of the verb's own verbs; returns the exit code."""
    if not args:
        raise ConfigError(f"what about a teacher? {USAGE}")
    what, *rest = args
    if what in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    if what == "train":
        from rpd.cloning import command
        from rpd.cloning.config import CloneOptions

        return command.main(parse(CloneOptions, rest, "rpd teacher train"))
    if what != "show":
        raise unknown_name("verb of rpd teacher", what, ["show", "train"])
    return show(parse(ShowOptions, rest, "rpd teacher show"))


def show(options: ShowOptions) -> int:
    """Print what there is to know."""
    torch.set_num_threads(1)
    config = EnvConfig(num_envs=1, robot=options.robot)
    with contextlib.closing(envs.make(options.task, config, "cpu", 1)) as env:
        spec = env.spec
    described = teachers.describe(options.name, spec, envs.task_info(options.task).instruction)
    console = Console()
    console.print(f"{options.name} in {spec.task} · {spec.embodiment.name}", highlight=False, soft_wrap=True)
    facts = Table(show_header=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in described.facts.items():
        facts.add_row(name, value)
    console.print(facts)
    if described.actions:
        actions = Table(title="Actions", title_justify="left", header_style="bold")
        for column in described.actions[0]:
            actions.add_column(column)
        for row in described.actions:
            actions.add_row(*row.values())
        console.print(actions)
    return 0
