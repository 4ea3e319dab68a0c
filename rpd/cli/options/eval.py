"""Options of `rpd eval`."""

from __future__ import annotations

from pydantic import Field

from rpd.config.evaluation import EvalConfig
from rpd.config.launch import LaunchConfig


class EvalOptions(EvalConfig, LaunchConfig):
    """Measure a policy on fixed seeds, or compare two policies on the same episodes."""

    shards: int | None = Field(None, ge=1)
    """With --suite: run the evaluation in this number of processes, and merge their results."""
    results: str | None = None
    """Also copy complete results to RESULTS/NAME of their folder, e.g. s3://bucket/results; see docs/clusters.md."""
    jobs: int | None = Field(None, ge=1)
    """With --shards: processes at a time; default: one per GPU, or per core without a GPU; on a cluster, as many as it has
    room for."""

    def evaluation(self) -> EvalConfig:
        """Return the options of the evaluation itself."""
        return EvalConfig(**{name: getattr(self, name) for name in EvalConfig.model_fields})

    def launching(self) -> list[str]:
        """Names of the options that only shards use, of those that are given."""
        fields = {**LaunchConfig.model_fields, "jobs": EvalOptions.model_fields["jobs"]}
        return [f"--{name.replace('_', '-')}" for name, field in fields.items() if getattr(self, name) != field.default]
