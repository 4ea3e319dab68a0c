"""Options of `rpd list`."""

from __future__ import annotations

from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict


class ListOptions(BaseModel):
    """List tasks, suites, robots, cameras, teachers, distillation terms and shipped settings."""

    model_config = ConfigDict(extra="forbid")

    what: tyro.conf.Positional[
        Literal["all", "tasks", "suites", "robots", "cameras", "teachers", "distillation", "settings"]
    ] = "all"
    """Part of the list, e.g. tasks."""
    pattern: tyro.conf.Positional[str] = ""
    """Text that a row must contain (any case), e.g. pickcube."""
