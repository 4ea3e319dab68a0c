"""`rpd convert`: a teacher's checkpoint, once and for all, into a folder that loads in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict

from rpd.arguments import parse


class ConvertOptions(BaseModel):
    """Rewrite a checkpoint as safetensors; what `rpd` reads afterwards is the same to the last bit."""

    model_config = ConfigDict(extra="forbid")

    family: tyro.conf.Positional[Literal["octo"]]
    """Kind of checkpoint."""
    source: tyro.conf.Positional[str]
    """Folder in the original layout, or a model on the hub."""
    out: tyro.conf.Positional[Path]
    """Folder to write; it may not exist yet."""
    step: int | None = None
    """Training step; default: the last."""


def main(args: list[str]) -> int:
    """Convert and say what was written; returns the exit code."""
    from teachers import folders
    from teachers.octo import weights
    from teachers.octo.checkpoint import locate, read_checkpoint

    options = parse(ConvertOptions, args, "rpd convert")
    folders.check_new(options.out)
    folder = locate(options.source, weights=True)
    model = weights.convert(read_checkpoint(folder, options.source), folder, options.out, options.step)
    print(f"{options.out}: {sum(p.numel() for p in model.parameters()):,} parameters; use it as octo:{options.out}")
    return 0
