"""Build the action head of a configuration."""

from __future__ import annotations

from typing import cast

from rpd.teachers.octo.config import ContinuousHead, DiffusionHead, DiscreteHead, Head
from rpd.teachers.octo.diffusion import DiffusionActionHead
from rpd.teachers.octo.heads import ActionHead, ContinuousActionHead, DiscreteActionHead


def build_head(config: Head, width: int) -> ActionHead:
    """Build the head of a configuration with random weights."""
    if isinstance(config, DiffusionHead):
        return DiffusionActionHead(config, width)
    if isinstance(config, DiscreteHead):
        return DiscreteActionHead(config, width)
    return ContinuousActionHead(cast("ContinuousHead", config), width)
