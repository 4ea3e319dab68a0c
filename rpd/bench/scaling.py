"""Simulation of data-parallel training on more ranks than were measured: recorded compute times, a network on paper.

The ranks compute between collectives and meet at each of them, so that the slowest rank determines when it begins. The times of
a rank are drawn from the recorded ones, independently for each rank and each part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["all_reduce", "gather"]
LENGTH_BYTES = 8
"""Bytes of the length of a gathered value."""


@dataclass(frozen=True)
class Network:
    """A network on paper, with one rank per link."""

    name: str
    latency: float
    """Seconds per message."""
    bandwidth: float
    """Bytes per second of a link, in each direction."""


FREE = Network("no network cost", 0.0, math.inf)
NETWORKS = (
    Network("1 GbE", 50e-6, 0.125e9),
    Network("10 GbE", 30e-6, 1.25e9),
    Network("100 Gb InfiniBand", 5e-6, 12.5e9),
)
"""Latencies and bandwidths are assumptions, not measurements."""


@dataclass(frozen=True)
class Collective:
    """A point where all ranks meet."""

    kind: Kind
    """all_reduce: `World.sum` and gradients; gather: `World.gather`, two all-gathers, of lengths and of values."""
    size: int
    """Bytes of a rank's tensor or value."""

    @property
    def count(self) -> int:
        """Number of collectives of torch.distributed."""
        return 2 if self.kind == "gather" else 1

    def seconds(self, ranks: int, network: Network) -> float:
        """Time over a network: the faster one of a ring and a tree."""
        steps, hops, transfer = ranks - 1, math.ceil(math.log2(ranks)), self.size / network.bandwidth
        if self.kind == "gather":
            return 2 * hops * network.latency + steps * (transfer + LENGTH_BYTES / network.bandwidth)
        ring = 2 * steps * network.latency + 2 * steps / ranks * transfer
        return min(ring, 2 * hops * (network.latency + transfer))


@dataclass(frozen=True)
class Recording:
    """Measured parts of an iteration."""

    seconds: NDArray[np.float64]
    """[S, K + 1] compute time of S iterations before each of K collectives, and after the last one."""
    collectives: Sequence[Collective]
    software: float = 0.0
    """CPU seconds of an iteration inside the collectives: copies, and the kernel's sockets."""

    def compute(self, ranks: int) -> float:
        """Compute time of an iteration: the slowest one of `ranks` ranks in each part, seconds."""
        return float(expected_maximum(self.seconds, ranks).sum())

    def communication(self, ranks: int, network: Network) -> float:
        """Time of the collectives of an iteration, seconds."""
        return self.software + sum(collective.seconds(ranks, network) for collective in self.collectives) if ranks > 1 else 0.0


def expected_maximum(samples: NDArray[np.float64], draws: int) -> NDArray[np.float64]:
    """Return the expected maximum of `draws` draws with replacement from each column.

    This is the mean of a bootstrap over infinitely many repetitions: the i-th smallest of S samples is the maximum with
    probability (i / S)^draws - ((i - 1) / S)^draws.

    Args:
        samples: [S, P].
        draws: number of draws.

    Returns:
        [P].
    """
    edges = (np.arange(len(samples) + 1) / len(samples)) ** draws
    return np.asarray(np.diff(edges) @ np.sort(samples, axis=0))


@dataclass(frozen=True)
class Prediction:
    """Seconds of an iteration on a number of ranks."""

    alone: float
    """Of a rank that is alone."""
    compute: float
    """Of the slowest rank of each part."""
    communication: float
    growing: float
    """Of the work that grows with the number of ranks."""

    @property
    def efficiency(self) -> float:
        """Throughput per rank, relative to a rank that is alone; the work per rank is the same (weak scaling)."""
        return self.alone / (self.compute + self.communication + self.growing)


def predict(recording: Recording, ranks: int, network: Network, growing: float = 0.0, growing_alone: float = 0.0) -> Prediction:
    """Return the parts of an iteration on a number of ranks.

    Args:
        recording: compute times, without work that grows with the number of ranks.
        ranks: number of ranks.
        network: the network between them.
        growing: seconds per iteration of the work that grows with the number of ranks, with this number.
        growing_alone: the same for one rank.
    """
    alone = float(recording.seconds.mean(0).sum()) + growing_alone
    return Prediction(alone, recording.compute(ranks), recording.communication(ranks, network), growing)
