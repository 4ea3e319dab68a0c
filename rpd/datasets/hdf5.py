"""Read HDF5 files of other tools without following links out of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rpd.datasets.episode import require
from rpd.envs.errors import ConfigError


def open_file(path: Path) -> Any:
    """Open a file without soft or external links: a soft link may point anywhere in the file, an external one to any file.

    Raises:
        ConfigError: the file has a link; names both.
        OSError: the file is not HDF5, or cannot be read.
    """
    h5py = require("h5py")
    file = h5py.File(path, "r")
    strange: list[str] = []

    def look(name: bytes, link: Any) -> bool | None:
        if link.type == h5py.h5l.TYPE_HARD:
            return None
        strange.append(name.decode(errors="replace"))
        return True  # stop at the first

    file.id.links.visit(look, info=True)
    if strange:
        file.close()
        raise ConfigError(f"{path}: {strange[0]} is a link: demonstrations are read where they lie, links are not followed")
    return file


def dataset(file: Any, name: str) -> Any:
    """Return a dataset that is stored in its own file.

    Raises:
        ConfigError: the data are in another file.
    """
    data = file[name]
    if getattr(data, "is_virtual", False) or getattr(data, "external", None):
        raise ConfigError(f"{file.file.filename}: {name} takes its numbers from other files, which are not read")
    return data
