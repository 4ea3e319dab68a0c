"""Options of `rpd log`."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import BaseModel, ConfigDict


class LogOptions(BaseModel):
    """Show a recording of `rpd deploy`; with a policy, compare its actions with the recorded ones."""

    model_config = ConfigDict(extra="forbid")

    record: tyro.conf.Positional[Path]
    """Recording of `rpd deploy`; may be truncated at any byte."""
    policy: str | None = None
    """Policy to query on every recorded observation, as for `rpd deploy`, e.g. the recorded one after an export."""
    rerun: Path | None = None
    """Write the recording to this file for the Rerun viewer (.rrd)."""
