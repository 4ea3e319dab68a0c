"""Output file of a report: may overwrite an older report of the same runs, and nothing else."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from rpd.envs.errors import ConfigError

REPORT = "report.html"
_TAIL = 200  # bytes that are read from the end to find the mark


def place(runs: Sequence[Path], out: Path | None) -> Path:
    """Return the file of a report, and create its folder.

    Args:
        runs: folders of the runs.
        out: requested file; None: report.html in the only run, or in the folder that holds all runs, numbered if that is a
            report of other runs.

    Raises:
        ConfigError: `out` exists and is not a report of these runs.
    """
    if out is None and len(runs) == 1:
        return runs[0] / REPORT
    if out is None:
        folder = Path(os.path.commonpath([run.resolve().parent for run in runs]))
        return next(path for path in _names(folder) if _replaceable(path, runs))
    if not _replaceable(out, runs):
        raise ConfigError(f"{out} exists already, and is no report of these runs: choose another --out, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def mark(runs: Sequence[Path], out: Path) -> Markup:
    """Return the last line of a report's HTML: a comment that identifies its runs, relative to its folder."""
    names = sorted(os.path.relpath(run.resolve(), out.parent.resolve()) for run in runs)
    return Markup("<!-- rpd report {} -->\n").format(hashlib.sha256(chr(10).join(names).encode()).hexdigest())


def is_whole(path: Path) -> bool:
    """Return whether a report is complete."""
    return path.is_file() and b"</html>" in _tail(path)


def _replaceable(path: Path, runs: Sequence[Path]) -> bool:
    own = len(runs) == 1 and path.resolve() == (runs[0] / REPORT).resolve()
    return own or not path.exists() or (path.is_file() and _tail(path).endswith(mark(runs, path).encode()))


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return file.read()


def _names(folder: Path) -> Iterator[Path]:
    yield folder / REPORT
    for number in itertools.count(2):
        yield folder / f"report-{number}.html"
