"""Copies of finished results in object storage, or wherever else fsspec writes: s3://, gs://, sftp://, file://, ..."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from rpd.envs.errors import ConfigError, RunFault
from rpd.students.io.locks import LOCK
from rpd.students.io.policy_path import checkpoint_steps

MANIFEST = "manifest.json"
"""Lists the files of a copy and their SHA-256; ``complete`` is true once all of them are there."""
LEFT_OUT = ("checkpoints", "logs")
"""Folders that are not copied: of the checkpoints, the newest policy is copied as ``policy/``."""
CHUNK = 1 << 20


class ResultStore:
    """A folder in which `put` stores copies of result folders.

    Args:
        url: address that fsspec knows, e.g. ``s3://bucket/results``; credentials come from the environment or the files of
            the protocol.

    Raises:
        ConfigError: unknown protocol, a missing package, or the folder cannot be written.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        url = url.rstrip("/")
        self.shown = re.sub(r"://[^/@]*@", "://", url)  # without a password
        if not re.match(r"\w+(\+\w+)?://", url):
            raise ConfigError(f"--results {self.shown}: expected an address such as s3://bucket/results or file:///mnt/results")
        options = {"auto_mkdir": True} if url.startswith("file:") else {}
        try:
            self._files, self._root = fsspec.core.url_to_fs(url, **options)
            self._check_writable()
        except ImportError as error:
            raise ConfigError(f"--results {self.shown}: {_line(error)} (a Python package, with pip)") from None
        except Exception as error:  # every protocol has errors of its own
            raise ConfigError(f"--results {self.shown}: cannot be written: {_line(error)}") from None

    def copied(self, folder: Path, name: str) -> str:
        """Copy a result folder, see `put`; returns a line about it."""
        count = self.put(folder, name)
        return f"results: {self.shown}/{name}" + ("" if count else ", which is complete")

    def put(self, folder: Path, name: str) -> int:
        """Copy a result folder to ``name``, without what is there already; an interrupted copy is continued.

        The manifest lists only files that have arrived, so that a file of an interrupted upload counts as missing.

        Returns:
            Number of files copied.

        Raises:
            RunFault: the store failed; the same call continues.
        """
        try:
            return self._put(folder, name)
        except Exception as error:
            raise RunFault(
                f"{folder} is not copied to {self.shown}/{name}: {_line(error)}: the same command continues"
            ) from None

    def _put(self, folder: Path, name: str) -> int:
        before = self._manifest(name)
        wanted = {str(target): path for target, path in result_files(folder)}
        digests = {target: _digest(path) for target, path in wanted.items()}
        if before == (manifest := {"complete": True, "files": digests}):
            return 0
        arrived = {target: digest for target, digest in before["files"].items() if digests.get(target) == digest}
        self._write_manifest(name, {"complete": False, "files": arrived})
        missing = [target for target in wanted if target not in arrived]
        for target in missing:
            self._files.put_file(str(wanted[target]), f"{self._root}/{name}/{target}")
            arrived[target] = digests[target]
            self._write_manifest(name, {"complete": False, "files": arrived})
        self._write_manifest(name, manifest)
        return len(missing)

    def _manifest(self, name: str) -> dict[str, Any]:
        """Manifest of an earlier copy; an empty one if there is none, or a damaged one."""
        try:
            found = json.loads(self._files.cat_file(f"{self._root}/{name}/{MANIFEST}"))
            return {"complete": bool(found["complete"]), "files": dict(found["files"])}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {"complete": False, "files": {}}

    def _write_manifest(self, name: str, manifest: dict[str, Any]) -> None:
        self._write(f"{name}/{MANIFEST}", json.dumps(manifest, indent=2, sort_keys=True) + "\n")

    def _check_writable(self) -> None:
        probe = f".rpd-{secrets.token_hex(8)}"
        self._write(probe, "")
        self._files.rm_file(f"{self._root}/{probe}")

    def _write(self, name: str, text: str) -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            self._files.put_file(file.name, f"{self._root}/{name}")


def open_store(url: str | None) -> ResultStore | None:
    """Return the store of an option ``--results``, if it is given.

    Raises:
        ConfigError: see `ResultStore`.
    """
    return None if url is None else ResultStore(url)


def result_files(folder: Path) -> Iterator[tuple[PurePath, Path]]:
    """Yield the files of a result folder that are copied, each with its path in the copy.

    Hidden files, locks and `LEFT_OUT` stay; the policy of the newest checkpoint is copied.
    """
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts) or path.name.endswith(LOCK)
        if path.is_file() and not hidden and inside.parts[0] not in LEFT_OUT:
            yield inside, path
    for newest in checkpoint_steps(folder / "checkpoints")[-1:]:
        for path in sorted((newest / "policy").rglob("*")):
            if path.is_file():
                yield path.relative_to(newest), path


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
