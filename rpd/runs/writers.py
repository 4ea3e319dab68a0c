"""Writers of a run's metrics: TensorBoard always; Weights & Biases and MLflow on request.

Servers, credentials and offline modes are those of the libraries: their environment variables apply, e.g.
``WANDB_MODE=offline`` or ``MLFLOW_TRACKING_URI``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rpd.core.files import write_text
from rpd.envs.errors import ConfigError, missing_package

LOG = logging.getLogger(__name__)
PROJECT = "rpd"
"""Project at Weights & Biases, experiment of MLflow, unless their environment variables name another."""
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}


class Writer(ABC):
    """Receives the metrics of one run."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record finite numbers, by ``group/name``, at an environment step."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """End the record, which a resumed run continues.

        Args:
            failed: the run has ended by an error.
        """


class TensorBoard(Writer):
    """Event files in the run's folder.

    Args:
        run_dir: the run's folder.
        resume_step: steps of the checkpoint to continue from; events after it are dropped. None: a new record.
    """

    def __init__(self, run_dir: Path, resume_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        purged = None if resume_step is None else resume_step + 1
        self.board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purged)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Writer.log`."""
        for name, value in metrics.items():
            self.board.add_scalar(name, value, step)

    def close(self, failed: bool) -> None:
        """See `Writer.close`."""
        self.board.close()


class WeightsAndBiases(Writer):
    """A run at Weights & Biases, with the folder's name and configuration; ``step`` is the axis of its charts.

    Its files are in ``wandb/`` of the run's folder. After a kill, the steps since the checkpoint are recorded twice.

    Args:
        run_dir: the run's folder.
        config: the run's configuration.
        resume_step: None: a new record.

    Raises:
        ConfigError: the service refuses the run, e.g. without an API key.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        import wandb

        file = run_dir / "wandb-run-id.txt"
        run_id = file.read_text().strip() if resume_step is not None and file.exists() else None
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=run_dir.resolve().name,
                id=run_id,
                dir=run_dir,
                config=dict(config),
                resume="allow",
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            raise ConfigError(f"--track wandb: {' '.join(str(error).split())}") from None
        write_text(file, f"{self.run.id}\n")
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Writer.log`."""
        self.run.log({"step": step, **metrics})

    def close(self, failed: bool) -> None:
        """See `Writer.close`."""
        self.run.finish(exit_code=int(failed))


class MLflow(Writer):
    """A run of MLflow, with the folder's name and configuration.

    After a kill, the steps since the checkpoint are recorded twice.

    Args:
        run_dir: the run's folder.
        config: the run's configuration; its options are the parameters of the run.
        resume_step: None: a new record.

    Raises:
        ConfigError: the tracking server refuses the run or does not answer.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        file = run_dir / "mlflow-run-id.txt"
        self.client = MlflowClient()
        try:
            if resume_step is not None and file.exists():
                self.run_id = file.read_text().strip()
                self.client.update_run(self.run_id, status="RUNNING")
                return
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self.client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self.client.create_experiment(name)
            self.run_id = self.client.create_run(experiment, run_name=run_dir.resolve().name).info.run_id
            for option, value in config.items():
                self.client.log_param(self.run_id, option, value)
        except MlflowException as error:
            raise ConfigError(f"--track mlflow: {' '.join(str(error).split())}") from None
        write_text(file, f"{self.run_id}\n")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Writer.log`."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = int(1000 * time.time())
        try:
            self.client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])
        except MlflowException as error:  # a lost server does not stop the training: metrics.jsonl has the numbers
            LOG.warning(f"mlflow: step {step:,} is not recorded: {' '.join(str(error).split())}")

    def close(self, failed: bool) -> None:
        """See `Writer.close`."""
        self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


WRITERS: dict[str, Callable[[Path, Mapping[str, Any], int | None], Writer]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}
"""Writers on request, by the names of ``--track``."""


def check_installed(track: Sequence[str]) -> None:
    """Check that the packages of writers are installed.

    Raises:
        ConfigError: one is not; names the command that installs it.
    """
    for name in track:
        if importlib.util.find_spec(name) is None:
            raise missing_package(f"--track {name}", PACKAGES[name], name)
