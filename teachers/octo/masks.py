"""Who may look at whom: block-wise attention over time steps."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """The order of tokens: a prefix, and then for each time step the same groups."""

    prefix: int
    """Tokens of the task, before all time steps."""
    step: tuple[tuple[str, int], ...]
    """Name and number of tokens of each group of a step."""
    window: int
    """Time steps, W."""
    readouts: frozenset[str]
    """Groups of a step that only they themselves see."""


@functools.lru_cache(maxsize=16)
def allowed(layout: Layout, device: torch.device) -> Tensor:
    """Which query may look at which key [N, N] bool, all keys being valid; built once.

    A token sees the prefix and all steps up to its own, but no readout: only a readout sees readouts, those of its own name.
    """
    per_step = sum(size for _, size in layout.step)
    time = torch.arange(layout.window).repeat_interleave(per_step)
    time = torch.cat([torch.full((layout.prefix,), -1), time])
    kinds = [i if name in layout.readouts else -1 for i, (name, size) in enumerate(layout.step) for _ in range(size)]
    kind = torch.tensor([-1] * layout.prefix + kinds * layout.window)
    past = time <= time[:, None]
    return (past & ((kind < 0) | (kind == kind[:, None]))).to(device)


def attention_mask(layout: Layout, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: [B, 1, N, N], or [1, 1, N, N] where all rows are alike.

    Forbidden scores become the smallest number, not minus infinity: a query that sees nothing (the prefix without a task)
    then attends evenly, and nobody looks at it; NaN would spread through 0 * NaN.

    Args:
        layout: of the N tokens.
        valid: [B, N] bool.
        dtype: of the scores.
    """
    if bool((valid == valid[:1]).all()):
        valid = valid[:1]
    open_ = allowed(layout, valid.device) & valid[:, None, :]
    mask = torch.zeros(open_.shape, dtype=dtype, device=valid.device)
    return mask.masked_fill(~open_, torch.finfo(dtype).min)[:, None]
