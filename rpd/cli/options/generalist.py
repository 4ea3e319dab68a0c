"""Options of `rpd generalist`."""

from __future__ import annotations

from pathlib import Path

from rpd.config.generalist import DistillRun


class GeneralistOptions(DistillRun):
    """Distill the specialists of several robots into one policy, the generalist."""

    name: str | None = None
    """Name of the run's folder; default: the time."""
    runs_dir: Path = Path("runs")
    """Folder of the runs."""
    resume: Path | None = None
    """Run folder to resume, with its own settings."""

    def config(self) -> DistillRun:
        """The options without those of the command line alone."""
        return DistillRun.model_validate(self.model_dump(include=set(DistillRun.model_fields)))
