"""Options of `rpd teacher finetune`."""

from __future__ import annotations

from rpd.cli.options.run_folder import RunFolderOptions
from rpd.config.vla_finetuning import CloneConfig


class FinetuneOptions(RunFolderOptions, CloneConfig):
    """Train or fine-tune a vision-language-action model on demonstrations."""
