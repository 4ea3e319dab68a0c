"""Options of the launchers: where the processes of a sweep or of a sharded evaluation run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SlurmConfig(BaseModel):
    """Options of SLURM's jobs."""

    model_config = ConfigDict(extra="forbid")

    executor: Literal["slurm", "local"] = "slurm"
    """slurm, or local: submitit's processes on this machine, to try a sweep without a scheduler."""
    partition: str | None = None
    """Partition; default: the cluster's."""
    account: str | None = None
    """Account; default: the cluster's."""
    time: int = Field(240, ge=1)
    """Limit of each job, minutes. A run that needs longer saves a checkpoint and is queued again."""
    memory: float | None = Field(None, gt=0)
    """Memory of each job, GB; default: the cluster's."""


class LaunchConfig(BaseModel):
    """Launcher of processes, and the resources of each process."""

    model_config = ConfigDict(extra="forbid")

    launcher: Literal["local", "ray", "slurm"] = "local"
    """Place of the processes: this machine, a Ray cluster (extra cluster), or SLURM (extra slurm); see docs/clusters.md."""
    launcher_address: str | None = None
    """Ray: auto (the cluster of this machine, or of RAY_ADDRESS), host:port, or ray://host:port. Default: auto."""
    cpus_per_run: int = Field(1, ge=1)
    """CPU cores of each process."""
    gpus_per_run: float | None = Field(None, ge=0)
    """GPUs of each process, possibly a fraction. Default: one on this machine if it has any; none on a cluster."""
    retries: int | None = Field(None, ge=0)
    """Ray, SLURM: tries again of a process whose node is lost. Default: 3."""
    slurm: SlurmConfig = SlurmConfig()
    """SLURM."""
