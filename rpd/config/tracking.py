"""Trackers that record a run's metrics, in addition to metrics.jsonl and TensorBoard."""

from __future__ import annotations

from typing import Literal

Track = tuple[Literal["wandb", "mlflow"], ...]
