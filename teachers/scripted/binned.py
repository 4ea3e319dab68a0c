"""Binned action distributions, like those of a VLA that outputs tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SURE = 0.95
"""Probability of the expert's gripper command; below 1, as for a network."""


def to_bins(mean: Tensor, std: Tensor, edges: Tensor) -> Tensor:
    """Log-probabilities [N, A, B] of bins with `edges` [A, B + 1] under N(mean, std²), both [N, A], at the bin centers."""
    middle = (edges[:, :-1] + edges[:, 1:]) / 2
    return (-0.5 * ((middle - mean[..., None]) / std[..., None]).square()).log_softmax(-1)


def log_prob(bin_logits: Tensor, edges: Tensor, gripper: Tensor, action: Tensor) -> Tensor:
    """Log-density [N, A] of actions [N, A] under the bins (beyond them: the outermost bin); the last dimension uses its sign.

    Args:
        bin_logits: [N, A, B].
        edges: [A, B + 1], evenly spaced.
        gripper: [N] gripper command of the teacher, -1 or 1.
        action: [N, A].
    """
    low, bins = edges[:, 0], bin_logits.shape[-1]
    width = (edges[:, -1] - low) / bins
    index = ((action - low) / width).long().clamp(0, bins - 1)
    density = bin_logits.gather(-1, index[..., None])[..., 0] - width.log()
    agree = (gripper >= 0) == (action[:, -1] >= 0)
    sign = torch.where(agree, math.log(SURE), math.log(1 - SURE))
    return torch.cat([density[:, :-1], sign[:, None]], dim=-1)
