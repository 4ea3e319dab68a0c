"""Check that all ranks of a run execute the same code with the same configuration."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from rpd.core.distributed import World
from rpd.core.version import __version__
from rpd.runs import lifecycle


def check_same_program(world: World, config: BaseModel) -> None:
    """Compare code, package versions and configuration of all ranks.

    Raises:
        ConfigError: a difference; names the rank, the option or package, and both values.
    """
    if world.size == 1:
        return
    facts = {"rpd": __version__, "torch": str(torch.__version__), "code of rpd": code_digest()}
    facts |= {f"option {name}": str(value) for name, value in _options(config.model_dump(mode="json"))}
    found = world.gather(facts)
    for rank, other in enumerate(found):
        for name in {**found[0], **other}:
            here, there = found[0].get(name), other.get(name)
            if here != there:
                raise world.fault(f"rank {rank} of {world.size} differs from rank 0: {name} is {there}, not {here}")


@contextlib.contextmanager
def same_run(world: World, config: BaseModel, opened: Callable[[], AbstractContextManager[Path]]) -> Iterator[Path]:
    """Open a run's folder for all ranks, see `lifecycle.on_all_ranks`, if they execute the same program.

    Raises:
        ConfigError: see `check_same_program` and `lifecycle.on_all_ranks`.
    """
    check_same_program(world, config)
    with lifecycle.on_all_ranks(world, opened) as run_dir:
        yield run_dir


def code_digest() -> str:
    """Return a digest of the source files of this package."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(_sources(root)):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _sources(folder: Path) -> Iterator[Path]:
    """Yield source files, those behind symbolic links of a clone included."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _sources(path)
        elif path.suffix == ".py":
            yield path


def _options(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _options(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
