"""Attention masks: block-wise causal attention over time steps."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor


class TokenLayout(NamedTuple):
    """Order of tokens: a prefix, then the same groups for each time step."""

    prefix: int
    """Number of task tokens, before all time steps."""
    step: tuple[tuple[str, int], ...]
    """Name and number of tokens of each group of a step."""
    window: int
    """Time steps, W."""
    readouts: frozenset[str]
    """Groups of a step that only attend to, and are attended by, themselves (plus earlier tokens)."""


@functools.lru_cache(maxsize=16)
def allowed(layout: TokenLayout, device: torch.device) -> Tensor:
    """Mask [N, N] bool of allowed query-key pairs if all keys are valid; cached.

    A token attends to the prefix and to all steps up to its own, but not to readouts; readouts also attend to their own group.
    """
    per_step = sum(size for _, size in layout.step)
    time = torch.arange(layout.window).repeat_interleave(per_step)
    time = torch.cat([torch.full((layout.prefix,), -1), time])
    kinds = [i if name in layout.readouts else -1 for i, (name, size) in enumerate(layout.step) for _ in range(size)]
    kind = torch.tensor([-1] * layout.prefix + kinds * layout.window)
    past = time <= time[:, None]
    return (past & ((kind < 0) | (kind == kind[:, None]))).to(device)


def attention_mask(layout: TokenLayout, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask for attention scores: [B, 1, N, N], or [1, 1, N, N] if all rows are equal.

    Masked scores get the smallest finite number, not minus infinity: a query without any key (the prefix without a task) then
    attends evenly, and no other token attends to it; a NaN would spread through 0 * NaN.

    Args:
        layout: layout of the N tokens.
        valid: [B, N] bool.
        dtype: dtype of the scores.
    """
    if bool((valid == valid[:1]).all()):
        valid = valid[:1]
    open_ = allowed(layout, valid.device) & valid[:, None, :]
    mask = torch.zeros(open_.shape, dtype=dtype, device=valid.device)
    return mask.masked_fill(~open_, torch.finfo(dtype).min)[:, None]
