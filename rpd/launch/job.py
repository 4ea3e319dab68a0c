"""The unit of every launcher: a process with a folder and a log."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

INTERRUPTED = 130
"""Exit code of a run that stopped on request, with a checkpoint."""
NOT_STARTED = 2
"""Exit code of bad input, and of an attempt that did not begin."""


class Ended(NamedTuple):
    """End of a job.

    Attributes:
        code: exit code of ``rpd``.
        problem: one line; empty if the log has everything.
    """

    code: int
    problem: str = ""


@dataclass(frozen=True)
class Job:
    """One ``rpd`` command that a launcher runs.

    Attributes:
        name: short name for messages; unique among the jobs of a launcher.
        words: arguments of ``rpd``.
        log: file of the output; a launcher appends to it.
        again: arguments that continue the job; None: the same as `words`.
        begun: `again` applies if one of these files exists when an attempt begins.
        lock: lock file that the command holds; an attempt waits while an earlier one holds it.
        cpus: CPU cores.
        gpus: GPUs, possibly a fraction of one; None: one on this machine if it has any, none on a cluster.
    """

    name: str
    words: tuple[str, ...]
    log: Path
    again: tuple[str, ...] | None = None
    begun: tuple[Path, ...] = ()
    lock: Path | None = None
    cpus: int = 1
    gpus: float | None = None

    def command(self) -> list[str]:
        """Return the arguments of ``rpd`` for an attempt that begins now."""
        return list(self.again if self.again is not None and any(path.exists() for path in self.begun) else self.words)

    def environment(self) -> dict[str, str]:
        """Environment variables of the process."""
        return {"OMP_NUM_THREADS": str(self.cpus)}

    def to_json(self) -> str:
        """Text for another machine; see `from_json`."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Build the job from the text of `to_json`."""
        values: dict[str, Any] = json.loads(text)
        return cls(
            name=values["name"],
            words=tuple(values["words"]),
            log=Path(values["log"]),
            again=None if values["again"] is None else tuple(values["again"]),
            begun=tuple(map(Path, values["begun"])),
            lock=None if values["lock"] is None else Path(values["lock"]),
            cpus=values["cpus"],
            gpus=values["gpus"],
        )
