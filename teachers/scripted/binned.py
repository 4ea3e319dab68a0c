"""An action distribution in bins: what a VLA that speaks in tokens would answer in the expert's place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SURE = 0.95
"""Probability of the gripper command that it says; a network is never certain."""


def to_bins(mean: Tensor, std: Tensor, edges: Tensor) -> Tensor:
    """Log-probabilities [N, A, B] of bins with `edges` [A, B + 1] under N(mean, std²), both [N, A], by the bins' middles."""
    middle = (edges[:, :-1] + edges[:, 1:]) / 2
    return (-0.5 * ((middle - mean[..., None]) / std[..., None]).square()).log_softmax(-1)


def log_prob(bin_logits: Tensor, edges: Tensor, gripper: Tensor, action: Tensor) -> Tensor:
    """Log-density [N] of actions [N, A] under the bins, the outermost if beyond; the last dimension by its sign.

    Args:
        bin_logits: [N, A, B].
        edges: [A, B + 1], evenly spaced.
        gripper: [N] the command that the teacher says, -1 or 1.
        action: [N, A].
    """
    low, bins = edges[:, 0], bin_logits.shape[-1]
    width = (edges[:, -1] - low) / bins
    index = ((action - low) / width).long().clamp(0, bins - 1)
    density = bin_logits.gather(-1, index[..., None])[..., 0] - width.log()
    agree = (gripper >= 0) == (action[:, -1] >= 0)
    return density[:, :-1].sum(-1) + torch.where(agree, math.log(SURE), math.log(1 - SURE))
