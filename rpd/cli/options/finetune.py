"""Options of `rpd teacher finetune`."""

from __future__ import annotations

from pathlib import Path

from rpd.config.vla_finetuning import CloneConfig


class FinetuneOptions(CloneConfig):
    """Train or fine-tune a vision-language-action model on demonstrations."""

    name: str | None = None
    """Name of the run's folder; default: the time."""
    runs_dir: Path = Path("runs")
    """Folder of the runs."""
    resume: Path | None = None
    """Run to resume, with its own settings."""
