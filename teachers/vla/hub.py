"""Find checkpoints by name: a local folder, or a model (or a folder of one) on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rpd.envs.errors import ConfigError, missing_package

FILES = {".json", ".yaml", ".safetensors", ".msgpack"}
"""Suffixes of the files that are read."""
TIMEOUT = 10.0
"""Timeout for the hub's file list, seconds."""
Check = Callable[[list[str]], None]
"""Function of the checkpoint's file paths; raises ConfigError if a file changes the meaning of the checkpoint."""


class Repository(NamedTuple):
    """A name on the hub, parsed."""

    model: str
    """``org/model``."""
    folder: str
    """Folder inside the repository, ending with a slash; empty: the repository itself."""
    revision: str | None


def fetch(name: str, what: str, patterns: list[str], check: Check = lambda files: None, skip: tuple[str, ...] = ()) -> Path:
    """Find the folder of a checkpoint: local, or downloaded from the hub into its cache.

    `check` gets all files of a checkpoint: for hub models, those of the hub's list, before any download; the cached files are
    used only if the hub is unreachable.

    Args:
        name: a folder, or ``org/model``, ``hf://org/model`` or ``hf://org/model/folder``, optionally with ``@revision``.
        what: expected content, for messages, e.g. ``"an OpenVLA checkpoint"``.
        patterns: files to download.
        check: see `Check`.
        skip: patterns of files that are not downloaded.

    Raises:
        ConfigError: the folder or model does not exist, the hub is unreachable and the cache lacks it, `check` refuses it, or a
            file is a broken link or a folder.
    """
    if Path(name).is_dir():
        check(files_in(Path(name)))
        _check_files(Path(name), name)
        return Path(name)
    repository = _parse(name, what)
    listed = _listed(repository)
    if listed is not None:
        check(listed)
    folder = _download(name, repository, patterns, skip) / repository.folder
    if not folder.is_dir():
        raise ConfigError(f"{name}: {repository.model} has no folder '{repository.folder.rstrip('/')}'")
    if listed is None:
        check(files_in(folder))
    _check_files(folder, name)
    return folder


def files_in(folder: Path) -> list[str]:
    """Relative paths of all files in a folder, with slashes."""
    return sorted(
        file.relative_to(folder).as_posix() for level in ("*", "*/*") for file in folder.glob(level) if file.is_file()
    )


def _check_files(folder: Path, name: str) -> None:
    """Refuse broken links, and folders in place of files: these files are damaged, not missing."""
    for link in sorted(folder.iterdir()):
        if link.is_dir() and link.suffix in FILES:
            raise ConfigError(f"{name}: {link.name} is a folder, and a file is expected: a mount of a file that was not there?")
        if link.is_symlink() and not link.exists():
            raise ConfigError(f"{name}: {link.name} is a link to {link.readlink()}, which does not exist: moved or incomplete?")


def subfolders_hint(folder: Path, name: str, file: str) -> str:
    """Hint for messages if a folder has no `file`: subfolders that have one."""
    inside = [path.removesuffix(f"/{file}") for path in files_in(folder) if path.endswith(f"/{file}")]
    base, at, revision = name.partition("@") if not Path(name).is_dir() else (name, "", "")
    base = base if Path(name).is_dir() or base.startswith("hf://") else f"hf://{base}"
    return f"; there is one in {', '.join(f'{base}/{path}{at}{revision}' for path in inside[:4])}" if inside else ""


def _parse(name: str, what: str) -> Repository:
    match = re.fullmatch(r"(hf://)?([\w.-]+/[\w.-]+)((?:/[\w.+=,-]+)*)(?:@([\w./-]+))?", name)
    if match is None or {".", ".."} & set(name.removeprefix("hf://").split("@")[0].split("/")) or (match[3] and not match[1]):
        there = "is a file" if Path(name).exists() else "does not exist"
        raise ConfigError(f"{name}: {there}: expected a folder with {what}, or hf://organisation/model, or a folder of one")
    return Repository(match[2], match[3].strip("/") + "/" if match[3] else "", match[4])


def _listed(repository: Repository) -> list[str] | None:
    """The hub's list of a checkpoint's files; None if the hub does not answer (`_download` then uses its cache)."""
    hub = _library()
    try:
        found = hub.HfApi().repo_info(repository.model, revision=repository.revision, timeout=TIMEOUT).siblings
    except Exception:  # any error of the hub or of its HTTP library
        return None
    inside = [file.rfilename for file in found or [] if file.rfilename.startswith(repository.folder)]
    return sorted(path.removeprefix(repository.folder) for path in inside)


def _download(name: str, repository: Repository, patterns: list[str], skip: tuple[str, ...]) -> Path:
    wanted, unwanted = ([repository.folder + pattern for pattern in some] for some in (patterns, skip))
    try:
        return Path(
            _library().snapshot_download(
                repository.model, revision=repository.revision, allow_patterns=wanted, ignore_patterns=unwanted
            )
        )
    except (OSError, ValueError) as error:  # base classes of all errors of the hub
        kind = "" if name.startswith("hf://") else "no such folder here, and "
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{name}: {kind}neither on the hub nor in its cache ({type(error).__name__}: {reason})") from None


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise missing_package("the hub", "huggingface_hub", "vla") from None
    return huggingface_hub
