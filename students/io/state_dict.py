"""Combine several state dicts into one flat dict for safetensors: ``<part>.<name>``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def join(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Combine parts; their names have no dots."""
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Extract one part from a combined dict; empty if missing."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
