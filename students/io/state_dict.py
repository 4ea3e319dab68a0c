"""Several state dicts as one, as a safetensors file needs them: ``<part>.<name>``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def join(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Put parts together, each under its name, which has no dot."""
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Take one part of what `join` made; one that is not there is empty."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
