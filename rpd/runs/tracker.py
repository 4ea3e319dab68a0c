"""Record a run while it trains: metrics.jsonl, TensorBoard and other writers, and the progress display."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel

from rpd.config import resume
from rpd.core.files import write_json, write_text
from rpd.envs.errors import ConfigError, RunFault
from rpd.runs.progress import Display
from rpd.runs.provenance import environment_info
from rpd.runs.writers import WRITERS, TensorBoard, Writer

LOG = logging.getLogger(__name__)
METRICS_FILE = "metrics.jsonl"


def record_settings(run_dir: Path, config: BaseModel, sources: Mapping[str, str | None] | None = None) -> None:
    """Create a run's folder with its configuration (config.yaml) and its environment (env.json).

    Args:
        run_dir: the folder.
        config: the run's configuration.
        sources: identities of the run's inputs, see `rpd.policies.identity.sources`.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    resume.write(run_dir, config)
    write_json(run_dir / "env.json", {**environment_info(), "sources": dict(sources or {})})


class Tracker:
    """Records metrics named ``group/name``. A context manager.

    Each call of `log` appends one line to metrics.jsonl, unbuffered, so kill -9 loses at most the line being written. A resume
    drops all lines after the checkpoint: the resumed run writes them again, and the file equals that of an uninterrupted run
    (except for the group ``time/``).

    Args:
        run_dir: the run's folder; created if missing.
        total_steps: environment steps of the whole run.
        resume_step: environment steps at the checkpoint to continue from; None starts a new record.
        track: further writers, see `rpd.runs.writers.WRITERS`.
        config: the run's configuration, for these.

    Raises:
        ConfigError: a writer cannot start.
    """

    def __init__(
        self,
        run_dir: Path,
        total_steps: int,
        resume_step: int | None = None,
        track: Sequence[str] = (),
        config: BaseModel | None = None,
    ) -> None:
        run_dir = Path(run_dir)
        self.path = run_dir / METRICS_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if resume_step is None else [m for m in read_metrics(run_dir) if m["step"] <= resume_step]
        if resume_step and (end := max((m["step"] for m in kept), default=0)) < resume_step:
            LOG.warning(f"{self.path} ends at {end:,.0f} steps: the curve lacks what followed, up to {resume_step:,}")
        write_text(self.path, "".join(_line(m) for m in kept))
        self.file = self.path.open("ab", buffering=0)
        options = {} if config is None else resume.flat(config.model_dump(mode="json"))
        self.writers: list[Writer] = [TensorBoard(run_dir, resume_step)]
        self.writers += [WRITERS[name](run_dir, options, resume_step) for name in track]
        self.display = Display(total_steps, resume_step or 0)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record numbers at an environment step.

        Args:
            step: environment steps so far.
            metrics: by ``group/name``. Values that are not finite (a mean over no episodes) are left out.

        Raises:
            RunFault: the line could not be written.
        """
        finite = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}
        try:
            self.file.write(_line({"step": step, **finite}).encode())
            for writer in self.writers:
                writer.log(step, finite)
        except OSError as error:
            raise RunFault(f"cannot write {self.path}: {error.strerror}") from error
        self.display.update(step, finite)

    def close(self, failed: bool = False) -> None:
        """Close the files and the display.

        Args:
            failed: the run has ended by an error.
        """
        self.display.close()
        self.file.close()
        for writer in self.writers:
            writer.close(failed)

    def __enter__(self) -> Tracker:
        self.display.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close(failed=kind is not None)


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics.jsonl, each with ``step``, without a torn last line (kill -9).

    Args:
        run_dir: the run's folder; without metrics.jsonl the result is empty.

    Raises:
        ConfigError: a line other than the last is not JSON; names it.
    """
    path = Path(run_dir) / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # text after the last newline is torn
    metrics = []
    for number, line in enumerate(lines, 1):
        try:
            values = {"step": 0, **json.loads(line)}
        except (json.JSONDecodeError, TypeError):
            raise ConfigError(f"{path}:{number}: not a line of JSON; remove it to go on") from None
        if strange := [name for name, value in values.items() if not isinstance(value, (int, float))]:
            raise ConfigError(f"{path}:{number}: {strange[0]} is no number; remove the line to go on")
        metrics.append(values)
    return metrics


def _line(metrics: dict[str, float]) -> str:
    return json.dumps(metrics) + "\n"
