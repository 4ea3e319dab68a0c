"""Options of `rpd list`."""

from __future__ import annotations

import tyro
from pydantic import BaseModel, ConfigDict

PARTS = ("all", "tasks", "suites", "robots", "cameras", "teachers", "distillation", "methods", "settings")


class ListOptions(BaseModel):
    """List tasks, suites, robots, cameras, teachers, distillation terms, methods and shipped settings."""

    model_config = ConfigDict(extra="forbid")

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """Part of the list (tasks, suites, robots, cameras, teachers, distillation, methods or settings), then a text that a row
    must have (any case), e.g. pickcube; both are optional."""

    @property
    def part(self) -> str:
        """The part, or all."""
        return self.words[0] if self._has_part else "all"

    @property
    def pattern(self) -> str:
        """The text, empty if there is none."""
        return next(iter(self.words[self._has_part :]), "")

    @property
    def _has_part(self) -> bool:
        return self.words[:1] != () and self.words[0] in PARTS

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Words that are neither."""
        return self.words[self._has_part + 1 :]
