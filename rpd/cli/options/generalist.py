"""Options of `rpd generalist`."""

from __future__ import annotations

from rpd.cli.options.run_folder import RunFolderOptions
from rpd.config.generalist import DistillRun


class GeneralistOptions(RunFolderOptions, DistillRun):
    """Distill the specialists of several robots into one policy, the generalist."""

    def config(self) -> DistillRun:
        """The options without those of the command line alone."""
        return DistillRun.model_validate(self.model_dump(include=set(DistillRun.model_fields)))
