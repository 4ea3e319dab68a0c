"""Checkpoints by name: a folder here, or a model on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from envs.errors import ConfigError


def fetch(name: str, what: str, patterns: list[str]) -> Path:
    """Find a checkpoint's folder: a local one, or from the hub through its cache.

    Args:
        name: a folder, ``org/model``, ``hf://org/model`` or either with ``@revision``.
        what: it should hold, for messages, e.g. ``"an OpenVLA checkpoint"``.
        patterns: which files to download.

    Raises:
        ConfigError: there is no such folder or model, or the hub cannot be reached and the cache does not have it.
    """
    if Path(name).is_dir():
        return Path(name)
    match = re.fullmatch(r"(hf://)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    if match is None:
        there = "is a file" if Path(name).exists() else "does not exist"
        raise ConfigError(f"{name}: {there}: expected a folder with {what}, or hf://organisation/model")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError(f"{name}: the hub needs huggingface_hub, which is not installed: pip install 'rpd[vla]'") from None
    try:
        return Path(snapshot_download(match[2], revision=match[3], allow_patterns=patterns))
    except (OSError, ValueError) as error:  # all of the hub's errors are one or the other
        kind = "" if match[1] else "no such folder here, and "
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{name}: {kind}not to be had from the hub or its cache ({type(error).__name__}: {reason})") from None
