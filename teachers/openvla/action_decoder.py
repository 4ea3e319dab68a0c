"""Convert between a model's action tokens and actions of an environment, including distributions over tokens."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rpd.envs.finite import nan_unless_distribution
from rpd.students.networks.distribution import executed
from rpd.teachers.openvla.actions import ActionBins, ActionStatistics
from rpd.teachers.vla.action_mapping import ActionMap
from rpd.teachers.vla.action_table import FLAT

FLAT_STD = 0.03
"""Standard deviation, environment units, of a dimension without range in `ActionDecoder.log_prob`: similar to
`bin_smoothing_std`."""
NEVER = -30.0
"""Log-probability of values excluded by a point mass: finite, because losses multiply it."""


class ActionDecoder:
    """Precomputed tables for A dimensions.

    A dimension without range in the statistics (`FLAT`: the robot never moved it) has one action for all tokens. Its bins
    divide [-1, 1] evenly, all mass is in the bin of that action, and `log_prob` uses a narrow Gaussian around it: a student
    rewarded with log p_T - log p_S would otherwise learn arbitrary actions there.

    Args:
        bins: the model's action tokens.
        statistics: statistics of its data set.
        action_map: map from the units of that data set to the environment.
        discrete: dimensions of the environment that use the sign only.
        device: device of the tables.

    Attributes:
        centers: [A, B] action of each column, B = bins - 1, starting with the lowest token's action.
        edges: [A, B + 1] ascending bin edges in the environment's normalized action space. They may exceed [-1, 1] if the
            teacher's range is larger than the environment's.
    """

    def __init__(
        self,
        bins: ActionBins,
        statistics: ActionStatistics,
        action_map: ActionMap,
        discrete: tuple[bool, ...],
        device: torch.device,
    ) -> None:
        self.bins = bins

        def to_env(values: np.ndarray) -> np.ndarray:
            """Convert the same normalized values [K] in every dimension: [A, K]."""
            every = np.repeat(values[:, None], statistics.dim, 1)
            return action_map.to_env(statistics.unnormalize(every)).T

        low, high = to_env(np.array([-1.0, 1.0])).T
        flat = np.abs(high - low) / 2 < FLAT
        edges = np.where(flat[:, None], bins.edges, to_env(bins.edges))
        centers = to_env(bins.centers)
        flipped = (high < low) & ~flat

        def tensor(values: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(values), dtype=dtype, device=device)

        self.centers, self.edges = tensor(centers), tensor(np.where(flipped[:, None], edges[:, ::-1], edges))
        self.discrete, self.flat, self.flipped = (tensor(v, torch.bool) for v in (np.array(discrete), flat, flipped))
        self._low, self._range = tensor(low, torch.float64), tensor(np.where(flat, 1, high - low), torch.float64)
        self._bin_edges = tensor(bins.edges, torch.float64)
        executed = np.where(flat[:, None], centers[:, :1], to_env(bins.edges)).clip(-1, 1)  # edges [A, B + 1], clipped
        self._executed = tensor((executed[:, :-1] + executed[:, 1:]) / 2)
        self._variance = tensor(np.diff(executed) ** 2 / 12)  # of a uniform distribution within a bin
        column = np.digitize(centers[:, 0].clip(-1, 1), bins.edges[1:-1])
        self._point = torch.nn.functional.one_hot(tensor(column, torch.long), len(bins.centers))

    def greedy(self, tokens: Tensor) -> Tensor:
        """Actions [N, A] of chosen tokens [N, A], as executed by the environment: clipped, discrete dimensions by sign."""
        column = (self.bins.vocab - 1 - tokens).clamp(0, self.bins.bins - 2)
        action = self.centers.expand(len(tokens), -1, -1).gather(2, column[:, :, None])[:, :, 0]
        return executed(action, self.discrete)

    def columns(self, logits: Tensor) -> Tensor:
        """Log-probabilities [N, A, B] of the actions `centers`, from logits [N, A, bins] of the action tokens.

        Renormalized over the action tokens; the two tokens of the same value are merged.
        """
        log_p = logits.log_softmax(-1)
        return torch.cat([log_p[..., :-2], log_p[..., -2:].logsumexp(-1, keepdim=True)], -1)

    def std(self, columns: Tensor) -> Tensor:
        """Standard deviation [N, A] of the executed actions, assuming uniform distributions within bins."""
        p = columns.exp()
        mean = (p * self._executed).sum(-1, keepdim=True)
        return (p * ((self._executed - mean).square() + self._variance)).sum(-1).sqrt()

    def opening(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of +1 and of -1 [N, A] in the discrete dimensions."""
        plus = self.centers >= 0
        yes, no = (columns.masked_fill(~side, NEVER).logsumexp(-1) for side in (plus, ~plus))
        return yes.clamp_max(0), no.clamp_max(0)

    def mean(self, tokens: Tensor, columns: Tensor) -> Tensor:
        """Mean of a label [N, A]: the greedy action; in discrete dimensions 2p - 1, with p the probability of opening."""
        chosen = nan_unless_distribution(self.greedy(tokens), columns)
        return torch.where(self.discrete, 2 * self.opening(columns)[0].exp() - 1, chosen)

    def bin_logits(self, columns: Tensor) -> Tensor:
        """Log-probabilities [N, A, B] of the bins between `edges`."""
        ordered = torch.where(self.flipped[:, None], columns.flip(-1), columns)
        point = (self._point.log().clamp_min(NEVER)).log_softmax(-1)
        return torch.where(self.flat[:, None], point, ordered)

    def tokens(self, action: Tensor) -> Tensor:
        """Tokens [N, A] of the environment's actions [N, A], clamped to the teacher's range."""
        return self.bins.vocab - 1 - self._column(action)

    def log_prob(self, columns: Tensor, action: Tensor) -> Tensor:
        """Log-density [N, A] of actions [N, A] under columns [N, A, B]; discrete dimensions use the probability of the sign."""
        column = self._column(action).clamp_max(self.centers.shape[1] - 1)
        width = self.edges[:, 1] - self.edges[:, 0]
        density = columns.gather(2, column[:, :, None])[:, :, 0] - width.log()
        yes, no = self.opening(columns)
        gap = (action - self.centers[:, 0]) / FLAT_STD
        around = -0.5 * gap.square() - math.log(FLAT_STD * math.sqrt(2 * math.pi))
        return torch.where(self.discrete, torch.where(action >= 0, yes, no), torch.where(self.flat, around, density))

    def _column(self, action: Tensor) -> Tensor:
        """Column [N, A] in 0 .. bins - 1 of each action; as in training, only the end of the range is the highest column."""
        discrete = torch.where(action >= 0, 1.0, -1.0)
        value = torch.where(self.discrete, discrete, action).double()
        normalized = (2 * (value - self._low) / self._range - 1).masked_fill(self.flat, 0.0)
        return torch.bucketize(normalized.clamp(-1, 1), self._bin_edges, right=True) - 1
