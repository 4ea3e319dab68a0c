"""`rpd teacher`: show what a teacher sees and what its actions mean in an environment; fine-tune one; convert a checkpoint."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import tyro
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from rpd.config.parser import parse
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, unknown_name
from rpd.reporting import tables
from rpd.teachers import registry as teachers
from rpd.teachers.refs import trained_path

if TYPE_CHECKING:
    from rpd.teachers.base import Input

USAGE = (
    "usage: rpd teacher show NAME --task TASK, rpd teacher finetune DEMOS ..., or rpd teacher convert FAMILY SOURCE OUT   "
    "(--help after each for its options)"
)


class ShowOptions(BaseModel):
    """Show a teacher in an environment; without training or loading large weights."""

    model_config = ConfigDict(extra="forbid")

    name: tyro.conf.Positional[str]
    """Teacher, e.g. openvla:runs/vla; see `rpd list`."""
    task: str
    """Task, e.g. tabletop/PickCube."""
    robot: str | None = None
    """Robot; default: the task's."""


def main(args: list[str]) -> int:
    """Run one of the subcommands; returns the exit code."""
    if not args:
        raise ConfigError(f"what about a teacher? {USAGE}")
    what, *rest = args
    if what in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    if what == "finetune":
        from rpd.cli.options.finetune import FinetuneOptions
        from rpd.cli.options.run_folder import run_options

        training = run_options(FinetuneOptions, rest, "rpd teacher finetune")
        from rpd.cli import finetune

        return finetune.main(training)
    if what == "convert":
        from rpd.cli import convert

        return convert.main(rest)
    if what != "show":
        raise unknown_name("verb of rpd teacher", what, ["show", "finetune", "convert"])
    return show(parse(ShowOptions, rest, "rpd teacher show"))


def show(options: ShowOptions) -> int:
    """Print the description of a teacher."""
    import torch

    torch.set_num_threads(1)
    with contextlib.closing(envs.make(options.task, _environment(options), "cpu", 1)) as env:
        spec = env.spec
    described = teachers.describe(options.name, spec, envs.task_info(options.task).instruction)
    console = Console()
    console.print(f"{options.name} in {spec.task} · {spec.embodiment.name}", highlight=False, markup=False, soft_wrap=True)
    sent = {given.sent for given in described.inputs}
    tables.show(_table(None, [{"": name, " ": text} for name, text in described.facts.items() if text not in sent]))
    tables.show(_table("What its model is given", [_input_row(given) for given in described.inputs]))
    tables.show(_table("Actions", described.actions))
    if described.refusal is not None:
        raise ConfigError(described.refusal)
    return 0


def _environment(options: ShowOptions) -> EnvConfig:
    """One environment, with the observations of the teacher's training if it is a policy."""
    from rpd.envs.rebuild import config_for
    from rpd.policies.made_for import made_for

    path = trained_path(options.name, "teacher")
    if path is None:
        return EnvConfig(num_envs=1, robot=options.robot)
    made = made_for(path, options.task, options.robot)
    return config_for(made, options.task, options.robot).model_copy(update={"num_envs": 1})


def _input_row(given: Input) -> dict[str, str]:
    return {"its name": given.name, "from": given.source, "as": given.sent}


def _table(title: str | None, rows: list[dict[str, str]]) -> Table:
    """Rows with the same columns, the first of which holds names."""
    table = Table(title=title, title_justify="left", header_style="bold", show_header=title is not None)
    for i, column in enumerate(rows[0] if rows else ()):
        table.add_column(column, no_wrap=i == 0)
    for row in rows:
        table.add_row(*row.values())
    return table
