"""Configuration of `rpd serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field


class ServeConfig(BaseModel):
    """Serve a policy over a websocket to rpd's `remote:` teacher, to openpi's client, or to a robot."""

    model_config = ConfigDict(extra="forbid")

    policy: tyro.conf.Positional[str]
    """Policy reference: a run, a checkpoint or a policy folder; or a teacher, e.g. scripted:noisy, see `rpd list`."""
    task: str | None = None
    """Task, for a teacher. A trained policy uses its own task and observations."""
    robot: str | None = None
    """Robot, for a teacher; default: the task's."""
    obs_mode: Literal["state", "rgb"] | None = None
    """Observations of a teacher; default: state."""
    cameras: tuple[str, ...] | None = None
    """Names of the cameras, with obs_mode=rgb."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Height and width of an image, pixels."""
    control_mode: str | None = None
    """ManiSkill: controller."""
    host: str = "127.0.0.1"
    """Address to listen on. Any address but this machine's own (0.0.0.0: all) requires a token."""
    port: int = Field(8000, ge=0, le=65535)
    """Port; 0: any free one."""
    replicas: int = Field(1, ge=1, le=256)
    """Number of servers, each a process with a port of its own (PORT, PORT + 1, ...); several GPUs are used in turn."""
    token_file: Path | None = None
    """File with the token that clients must send; default: the environment variable RPD_SERVE_TOKEN, else none."""
    max_message_mb: int = Field(64, ge=1, le=1024)
    """Largest message, MiB."""
    max_rows: int = Field(1024, ge=1)
    """Maximum observations per request; for a stateful policy also environments per client."""
    max_total_rows: int | None = Field(None, ge=1)
    """Maximum environments of all clients of a stateful policy; default: 4 times max_rows."""
    max_rate: float = Field(1000.0, gt=0)
    """Maximum requests per second and client; further requests are delayed."""
    max_clients: int = Field(32, ge=1)
    """Maximum number of connections."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads of the policy."""
