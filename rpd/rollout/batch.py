"""Rollout batches: teacher fields, indexing and concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor


def take(batch: TensorDict, index: Tensor) -> TensorDict:
    """Return ``batch[index]``; index_select is several times as fast on a CPU, especially for images."""
    return cast("TensorDict", batch.apply(lambda x: x.index_select(0, index), batch_size=[index.shape[0]]))


def joined(batches: Sequence[TensorDict]) -> TensorDict:
    """Concatenate batches with the same fields along their first dimension."""
    return cast("TensorDict", torch.cat(list(batches)))
