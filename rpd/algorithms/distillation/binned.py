"""Divergences between a binned teacher and a Gaussian student, in closed form on a common grid.

A teacher's bins [A, B] cover the range of its training data: narrower or wider than the environment's range (-1 to 1), or a
single point in a dimension that never moved. `blur` maps them, once per observation, onto a grid of `CELLS` equal cells over
[-1, 1]; the student's mass outside the grid counts for the outermost cells, as the environment clips actions. With P_b the
student's mass in cell b and q~_b the teacher's, the terms that depend on both are

    sum_b P_b log q~_b      `expected`         (reverse KL)        sum_b P_b log P_b      `neg_entropy`
    -sum_b q~_b log P_b     `cross_entropy`    (forward KL)

Inside a cell, log P_b is computed from the density. This is exact for a sigma of several cells and keeps a gradient where
Phi(x_{b+1}) - Phi(x_b) underflows to 0; the outermost cells, which absorb the tails, are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.special import log_ndtr, ndtr

from rpd.students.networks.distribution import LOG_2PI

CELLS = 128
"""Number of cells of the grid. A cell is 1/64 wide: no wider than any useful blur or a student's smallest sigma."""
WIDTH = 2 / CELLS
EDGE = 1 - WIDTH
"""Lower edge of the last cell; the first cell ends at -EDGE."""
TAIL = 0.5
"""Standard deviation of the broad Gaussian that `blur` mixes in: a quarter of the range."""
TINY = 1e-30
"""Lower bound of a mass in a logarithm."""


def blur_operator(bin_edges: Tensor, std: float) -> Tensor:
    """K [A, B, CELLS]: mass in each cell of N(c, std²), c the center of a teacher's bin. Rows sum to 1.

    Args:
        bin_edges: [A, B + 1] ascending, in the environment's normalized action space.
        std: standard deviation of the blur, in the same units.
    """
    middle = (bin_edges[:, :-1] + bin_edges[:, 1:]) / 2
    below = ndtr((_edges(bin_edges) - middle[..., None]) / std)  # [A, B, CELLS - 1]
    return torch.cat([below[..., :1], below.diff(dim=-1), 1 - below[..., -1:]], dim=-1)


def blur(bin_logits: Tensor, operator: Tensor, floor: float) -> Tensor:
    """Log q~, q~ = (1 - floor) q K + floor N(mean of q, TAIL²): the teacher's mass in each cell, nowhere zero.

    Far from the teacher's actions, log q is arbitrarily low and would dominate the reverse KL; the second term bounds it. A
    uniform mix, the usual choice, has no gradient there: a student that starts a few sigma away from a peaked teacher would
    not move.

    Args:
        bin_logits: [N, A, B] log-probabilities.
        operator: K, from `blur_operator`.
        floor: weight of the broad Gaussian, in (0, 1).

    Returns:
        [N, A, CELLS].
    """
    return floored(torch.einsum("nab,abc->nac", bin_logits.exp(), operator), floor)


def floored(mass: Tensor, floor: float) -> Tensor:
    """Log of (1 - floor) mass + floor N(mean of mass, TAIL²) [N, A, CELLS], for `blur`."""
    x = _centres(mass)
    tail = (-0.5 * ((x - (mass @ x)[..., None]) / TAIL).square()).softmax(-1)
    return ((1 - floor) * mass + floor * tail).clamp_min(TINY).log()


def student_mass(mean: Tensor, std: Tensor) -> Tensor:
    """P_b [N, A, CELLS] of N(mean, std²), each [N, A]; the outermost cells absorb the tails. Rows sum to 1."""
    below = ndtr((_edges(mean) - mean[..., None]) / std[..., None])
    return torch.cat([below[..., :1], below.diff(dim=-1), 1 - below[..., -1:]], dim=-1)


def log_density(log_mass: Tensor, action: Tensor) -> Tensor:
    """Log-density of q~ at actions [..., N, A]; outside the grid, that of the outermost cell. Returns [..., N, A].

    Args:
        log_mass: [N, A, CELLS], from `blur`.
        action: [..., N, A].
    """
    cell = ((action + 1) / WIDTH).long().clamp(0, CELLS - 1)
    return log_mass.expand(*action.shape, -1).gather(-1, cell[..., None])[..., 0] - math.log(WIDTH)


def overshoot(x: Tensor, low: Tensor | float, high: Tensor | float, std: float) -> Tensor:
    """1/2 (distance of x to [low, high] / std)²: Gaussian tail beyond the outermost bins, which are flat without it."""
    return 0.5 * ((x - high).clamp_min(0) + (low - x).clamp_min(0)).square() / std**2


def tailed_log_density(log_mass: Tensor, action: Tensor, std: float) -> Tensor:
    """`log_density` with a Gaussian tail of scale `std` beyond [-1, 1], see `overshoot`."""
    return log_density(log_mass, action) - overshoot(action, -1, 1, std)


def steps(log_mass: Tensor) -> dict[str, Tensor]:
    """Precompute for `expected`, from log q~ [N, A, CELLS]: mean of the two end cells, and differences between cells."""
    return {"ends": (log_mass[..., 0] + log_mass[..., -1]) / 2, "steps": log_mass.diff(dim=-1)}


def expected(steps: Mapping[str, Tensor], mean: Tensor, std: Tensor) -> Tensor:
    """sum_b P_b log q~_b [N, A], summed by parts: ends + 1/2 sum_e step_e erf((mean - x_e) / (std sqrt 2)).

    The sum is over the edges x_e between cells: one erf per edge, no cancellation, and finite gradients everywhere.

    Args:
        steps: from `steps`.
        mean: [N, A].
        std: [N, A].
    """
    above = torch.erf((mean[..., None] - _edges(mean)) * (math.sqrt(0.5) / std)[..., None])
    return steps["ends"] + 0.5 * (steps["steps"] * above).sum(-1)


def neg_entropy(mean: Tensor, std: Tensor) -> Tensor:
    """sum_b P_b log P_b [N, A]: between l = -EDGE and u = EDGE, the integral of p log(p w), w the width of a cell.

    The integral is (log w - log std - 1/2 log 2 pi - 1/2) P(l < x < u) + 1/2 (z_u phi(z_u) - z_l phi(z_l)), z standardized.
    """
    low, high = (-EDGE - mean) / std, (EDGE - mean) / std
    first, last = ndtr(low), ndtr(-high)
    moment = (high * (-0.5 * high.square()).exp() - low * (-0.5 * low.square()).exp()) * math.exp(-0.5 * LOG_2PI)
    between = (math.log(WIDTH) - std.log() - 0.5 * LOG_2PI - 0.5) * (1 - first - last) + 0.5 * moment
    return between + sum(p * p.clamp_min(TINY).log() for p in (first, last))


def moments(log_mass: Tensor) -> dict[str, Tensor]:
    """Precompute for `cross_entropy`, from log q~ [N, A, CELLS]; each entry is [N, A].

    Mass of the first and of the last cell, mean and variance of the mass between them, and sum_b q~_b log q~_b.
    """
    mass = log_mass.exp()
    between, x = mass[..., 1:-1], _centres(mass)[1:-1]
    total = between.sum(-1)
    mean = between @ x / total
    variance = (between * (x - mean[..., None]).square()).sum(-1) / total
    negative = (mass * log_mass).sum(-1)
    return {
        "first": mass[..., 0],
        "last": mass[..., -1],
        "mean_between": mean,
        "var_between": variance,
        "neg_entropy": negative,
    }


def cross_entropy(moments: Mapping[str, Tensor], mean: Tensor, std: Tensor) -> Tensor:
    """-sum_b q~_b log P_b [N, A]; between the outermost cells, P_b = w p(center).

    Args:
        moments: from `moments`.
        mean: [N, A].
        std: [N, A].
    """
    first, last = moments["first"], moments["last"]
    square = (moments["var_between"] + (moments["mean_between"] - mean).square()) / std.square()
    between = (1 - first - last) * (std.log() + 0.5 * LOG_2PI + 0.5 * square - math.log(WIDTH))
    return between - first * log_ndtr((-EDGE - mean) / std) - last * log_ndtr((mean - EDGE) / std)


def _edges(like: Tensor) -> Tensor:
    """Edges between cells [CELLS - 1], on the device of `like`."""
    return torch.linspace(-EDGE, EDGE, CELLS - 1, device=like.device)


def _centres(like: Tensor) -> Tensor:
    """Centers of the cells [CELLS], on the device of `like`."""
    return torch.linspace(-1 + WIDTH / 2, 1 - WIDTH / 2, CELLS, device=like.device)
