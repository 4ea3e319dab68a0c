"""Action heads without denoising: a single action, or a distribution over bins per number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpd.envs.finite import nan_unless_distribution, nan_where_invalid
from rpd.teachers.octo.config import ContinuousHead, DiffusionHead, DiscreteHead, Head
from rpd.teachers.octo.transformer import Pool

EDGE = 1e-6
"""Margin of the outermost bins to the end of their range, and of quantiles to 0 and 1."""


class ActionHead(nn.Module, ABC):
    """Maps readout tokens [..., n, D] to a chunk of actions [..., H, A], normalized as in the training data."""

    config: Head
    is_random: bool
    """Whether samples differ from each other."""

    @abstractmethod
    def sample(self, tokens: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw chunks from readout tokens [N, n, D] of the last time step: float32 [*shape, N, H, A]."""

    @abstractmethod
    def loss(self, tokens: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Training loss of the original, a scalar.

        Args:
            tokens: [B, W, n, D] readout tokens.
            actions: [B, W, H, A] labels.
            mask: [B, W, H, A] bool: labels to include.
            generator: random numbers in training.
        """


class PooledHead(ActionHead):
    """A head on one embedding: the mean of the readout tokens, or an attention pool."""

    def __init__(self, config: ContinuousHead | DiffusionHead, width: int) -> None:
        super().__init__()
        self.config = config
        self.pool = Pool(width, 1) if config.use_map else None

    def embedding(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """[..., n, D] -> [..., D]; the attention pool uses the `valid` tokens [..., n], the mean uses all."""
        return tokens.mean(-2) if self.pool is None else self.pool(tokens, valid)[..., 0, :]


class ContinuousActionHead(PooledHead):
    """Also MSEActionHead and L1ActionHead: one deterministic action."""

    config: ContinuousHead
    is_random = False

    def __init__(self, config: ContinuousHead, width: int) -> None:
        super().__init__(config, width)
        self.mean = nn.Linear(width, config.action_horizon * config.action_dim)

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """[..., n, D] -> [..., H, A]."""
        y = self.mean(self.embedding(tokens, valid)).unflatten(-1, (self.config.action_horizon, self.config.action_dim))
        return self.config.max_action * torch.tanh(nan_where_invalid(y) / self.config.max_action)

    def sample(self, tokens: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `ActionHead`."""
        return self(tokens).expand(*shape, *[-1] * (tokens.ndim))

    def loss(self, tokens: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """See `ActionHead`."""
        return error(self(tokens), actions, mask, self.config.loss_type) * self.config.action_dim


class DiscreteActionHead(ActionHead):
    """Also TokenPerDimActionHead: logits over bins, with one readout token per number, per action or per chunk."""

    config: DiscreteHead
    is_random = True

    def __init__(self, config: DiscreteHead, width: int) -> None:
        super().__init__()
        self.config = config
        self.pool = Pool(width, config.num_tokens) if config.use_map else None
        numbers = config.action_horizon * config.action_dim
        self.vocab = nn.Linear(width, numbers * config.vocab_size // config.num_tokens)

    @property
    def edges(self) -> Tensor:
        """Edges of the bins [bins + 1]."""
        return bin_edges(self.config).to(self.vocab.weight.device)

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """[..., n, D] -> logits [..., H, A, bins]."""
        if self.pool is not None:
            tokens = self.pool(tokens, valid)
        shape = (self.config.action_horizon, self.config.action_dim, self.config.vocab_size)
        return self.vocab(tokens).flatten(-2).unflatten(-1, shape)

    def sample(self, tokens: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `ActionHead`; at temperature 1."""
        logits = self(tokens)
        bins = draw(logits, exponential((*shape, *logits.shape), generator).log().neg())
        return nan_unless_distribution(self.decode(bins), logits)

    def loss(self, tokens: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """See `ActionHead`."""
        nll = F.cross_entropy(self(tokens).flatten(0, -2), self.encode(actions).flatten(), reduction="none")
        return masked_mean(nll.view_as(actions), mask)

    def encode(self, actions: Tensor) -> Tensor:
        """Bins [...] of actions [...]; actions outside of all bins get the first one, as in the original."""
        if self.config.normalization_type == "uniform":
            actions = actions.clamp(EDGE, 1 - EDGE)
        bins = torch.searchsorted(self.edges, actions.contiguous(), right=True) - 1
        return torch.where((bins < 0) | (bins >= self.config.vocab_size), 0, bins)

    def decode(self, bins: Tensor) -> Tensor:
        """Centers [...] of bins [...]."""
        edges = self.edges
        return ((edges[1:] + edges[:-1]) / 2)[bins]


def bin_edges(config: DiscreteHead) -> Tensor:
    """Bin edges [bins + 1] float32: evenly spaced in [0, 1], or with equal mass under a standard normal."""
    if config.normalization_type == "uniform":
        return torch.linspace(0, 1, config.vocab_size + 1)
    quantiles = torch.linspace(EDGE, 1 - EDGE, config.vocab_size + 1)  # 1 - EDGE rounded to float32, as in the original
    return torch.special.ndtri(quantiles.double()).float()


def action_range(config: Head) -> tuple[float, float]:
    """Smallest and largest normalized action of a head: its clipping limits, or the centers of its outermost bins."""
    if isinstance(config, DiscreteHead):
        edges = bin_edges(config).tolist()
        return (edges[0] + edges[1]) / 2, (edges[-2] + edges[-1]) / 2
    limit = cast("ContinuousHead | DiffusionHead", config).max_action
    return -limit, limit


def draw(logits: Tensor, gumbel: Tensor, temperature: float = 1.0) -> Tensor:
    """Sample categories by the Gumbel-max trick, from logits [..., bins] and noise of that shape or with leading dimensions."""
    return (logits / temperature + gumbel).argmax(-1)


def exponential(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard exponential noise; its negative logarithm is Gumbel noise."""
    return torch.empty(shape, device=generator.device).exponential_(generator=generator)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked values (with a mask mean of at least 1e-5)."""
    keep = mask.expand_as(values).float()
    return (values * keep).mean() / keep.mean().clamp_min(1e-5)


def error(predicted: Tensor, target: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Masked mean squared or absolute error."""
    difference = predicted - target
    return masked_mean(difference.square() if kind == "mse" else difference.abs(), mask)
