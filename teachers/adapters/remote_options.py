"""Options of a teacher behind a policy server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from rpd.teachers.registry import Options

OPENPI_OPTIONS = ("action_mapping", "images", "state", "prompt", "n_action_steps")


class RemoteOptions(Options):
    """Options after the address. The last five are for openpi's servers, see `rpd.teachers.adapters.openpi`."""

    token_file: Path | None = None
    """File with the server's token; default: the environment variable RPD_SERVE_TOKEN."""
    token: Literal["sent", "withheld"] = "sent"
    """Whether the token is sent; withheld from a server that only a policy's folder names, see
    `rpd.teachers.adapters.student`."""
    timeout: float = Field(60.0, gt=0)
    """Seconds to wait for an answer."""
    retries: int = Field(5, ge=0)
    """Number of retries, over a new connection, before the run stops."""
    rows: int | None = Field(None, ge=1)
    """Several replicas: rows of a request, at most; default: see `rpd.teachers.adapters.replicas.split`."""
    action_mapping: str | None = None
    images: str | None = None
    state: str | None = None
    prompt: str | None = None
    n_action_steps: int | None = Field(None, ge=1)
