"""What a run records while it trains: metrics.jsonl, TensorBoard, and the progress display."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType

import yaml
from pydantic import BaseModel

from envs.errors import ConfigError, RunFault
from rpd.atomic import write_json, write_text
from rpd.machine import environment_info
from rpd.progress import Display

METRICS_FILE = "metrics.jsonl"


def record_settings(run_dir: Path, config: BaseModel) -> None:
    """Make a run's folder, and write down what was asked for (config.yaml) and where it runs (env.json)."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    write_json(run_dir / "env.json", environment_info())


class Tracker:
    """Records metrics named ``group/name``. A context manager.

    One line of metrics.jsonl per call of `log`, handed to the operating system at once, so that kill -9 loses at
    most the line that was being written. On resume everything after the checkpoint is dropped: the resumed run
    writes it again, and the file equals that of a run that was never stopped (but for the group ``time/``).

    Args:
        run_dir: the run's folder; made where it is missing.
        total_steps: environment steps of the whole run.
        resume_step: environment steps at the checkpoint the run continues from; None starts a new record.
    """

    def __init__(self, run_dir: Path, total_steps: int, resume_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self.path = Path(run_dir) / METRICS_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if resume_step is None else [m for m in read_metrics(run_dir) if m["step"] <= resume_step]
        write_text(self.path, "".join(_line(m) for m in kept))
        self.file = self.path.open("ab", buffering=0)
        self.board = SummaryWriter(
            str(self.path.parent / "tensorboard"), purge_step=None if resume_step is None else resume_step + 1
        )
        self.display = Display(total_steps, resume_step or 0)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record numbers at an environment step.

        Args:
            step: environment steps so far.
            metrics: by ``group/name``. What is not finite (a mean over no episodes) is left out.

        Raises:
            RunFault: the disk refuses the line.
        """
        finite = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}
        try:
            self.file.write(_line({"step": step, **finite}).encode())
            for name, value in finite.items():
                self.board.add_scalar(name, value, step)
        except OSError as error:
            raise RunFault(f"cannot write {self.path}: {error.strerror}") from error
        self.display.update(step, finite)

    def close(self) -> None:
        """Finish the files and the display."""
        self.display.close()
        self.board.close()
        self.file.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics.jsonl, each with ``step``; a torn last line (kill -9) is left out.

    Args:
        run_dir: the run's folder; without metrics.jsonl the answer is empty.

    Raises:
        ConfigError: a line other than the last is not JSON, naming it.
    """
    path = Path(run_dir) / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # what follows the last newline is torn
    metrics = []
    for number, line in enumerate(lines, 1):
        try:
            metrics.append({"step": 0, **json.loads(line)})
        except (json.JSONDecodeError, TypeError):
            raise ConfigError(f"{path}:{number}: not a line of JSON; remove it to go on") from None
    return metrics


def _line(metrics: dict[str, float]) -> str:
    return json.dumps(metrics) + "\n"
