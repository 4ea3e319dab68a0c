"""`rpd teacher convert`: convert a teacher's checkpoint into a folder that loads in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict

from rpd.config.parser import parse


class ConvertOptions(BaseModel):
    """Convert a checkpoint to safetensors; the weights stay bit-identical."""

    model_config = ConfigDict(extra="forbid")

    family: tyro.conf.Positional[Literal["octo"]]
    """Kind of checkpoint."""
    source: tyro.conf.Positional[str]
    """Folder in the original layout, or a model on the hub."""
    out: tyro.conf.Positional[Path]
    """Folder to write; must not exist."""
    step: int | None = None
    """Training step of the checkpoint; default: the last."""


def main(args: list[str]) -> int:
    """Convert and print a summary; returns the exit code."""
    options = parse(ConvertOptions, args, "rpd teacher convert")
    from rpd.teachers.octo import weights
    from rpd.teachers.octo.checkpoint import checkpoint_folder, read_checkpoint
    from rpd.teachers.vla import checkpoint_dir

    checkpoint_dir.check_new(options.out)
    folder = checkpoint_folder(options.source, weights=True)
    model = weights.convert(read_checkpoint(folder, options.source), folder, options.out, options.step)
    print(f"{options.out}: {sum(p.numel() for p in model.parameters()):,} parameters; use it as octo:{options.out}")
    return 0
