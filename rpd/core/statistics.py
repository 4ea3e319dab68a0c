"""Success rates with Wilson intervals, and comparisons paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal."""


def wilson(k: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, 1927, JASA 22:209); valid at 0/n and n/n too.

    Args:
        k: successes.
        n: trials.
        z: normal quantile of the confidence level.

    Returns:
        Lower and upper bound in [0, 1]; (0, 1) where n is 0.

    Raises:
        ValueError: not 0 <= k <= n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} successes in {n} trials")
    if n == 0:
        return 0.0, 1.0
    p = k / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    # half = z / (1 + z²/n) · sqrt( p(1-p)/n + z²/(4n²) )
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At 0/n and n/n the bound is exactly 0 or 1; rounding would leave 1e-17.
    return (0.0 if k == 0 else center - half), (1.0 if k == n else center + half)


def format_rate(k: int, n: int) -> str:
    """Format successes and the 95 % Wilson interval, e.g. ``"87/100 (79.0–92.2 %)"``."""
    low, high = wilson(k, n)
    return f"{k}/{n} ({100 * low:.1f}–{100 * high:.1f} %)"


@dataclass(frozen=True)
class PairedResult:
    """Difference of the success rates of policies A and B on the same n episodes."""

    n: int
    """Episodes."""
    diff: float
    """Success rate of A minus that of B."""
    lo: float
    """Lower bound of the 95 % interval of `diff`."""
    hi: float
    """Upper bound."""
    wins: int
    """Episodes that only A solved."""
    losses: int
    """Episodes that only B solved."""
    p_value: float
    """Exact two-sided McNemar test of "no difference"."""

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.lo > 0 or self.hi < 0

    def __str__(self) -> str:
        return (
            f"{100 * self.diff:+.1f} points ({100 * self.lo:+.1f} to {100 * self.hi:+.1f}, 95 %; n={self.n}, "
            f"wins {self.wins}, losses {self.losses}, p={self.p_value:.2g})"
        )


def paired_difference(a: Iterable[bool], b: Iterable[bool]) -> PairedResult:
    """Compare two policies that were run on the same episodes.

    The interval is method 10 of Newcombe (1998, Statistics in Medicine 17:2635): the Wilson limits of the two rates,
    combined with the (continuity-corrected) correlation phi of the pairs.

    Args:
        a: success of A per episode, n booleans.
        b: success of B on the same episodes in the same order, n booleans.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    first, second = [bool(x) for x in a], [bool(x) for x in b]
    if len(first) != len(second) or not first:
        raise ValueError(f"a paired comparison needs the same episodes on both sides, got {len(first)} and {len(second)}")
    n = len(first)
    both = sum(x and y for x, y in zip(first, second, strict=True))
    wins = sum(first) - both
    losses = sum(second) - both
    neither = n - both - wins - losses

    p1, p2 = (both + wins) / n, (both + losses) / n
    (l1, u1), (l2, u2) = wilson(both + wins, n), wilson(both + losses, n)
    phi = _phi(both, wins, losses, neither)
    # lo = d - sqrt( (p1-l1)² - 2 phi (p1-l1)(u2-p2) + (u2-p2)² ), and hi mirrored
    diff = p1 - p2
    lo = diff - math.sqrt(max(0.0, (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2))
    hi = diff + math.sqrt(max(0.0, (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2))
    return PairedResult(n=n, diff=diff, lo=lo, hi=hi, wins=wins, losses=losses, p_value=mcnemar(wins, losses))


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided McNemar p-value: probability that a fair coin splits the discordant pairs at least this unevenly."""
    n = wins + losses
    tail = sum(math.comb(n, i) for i in range(min(wins, losses) + 1)) / 2**n
    return min(1.0, 2 * tail)


def steps_to(threshold: float, steps: Sequence[int], rates: Sequence[float]) -> int | None:
    """Return the first of `steps` at which the rate reaches the threshold, or None if it never does.

    Args:
        threshold: success rate in [0, 1].
        steps: environment steps of each evaluation, ascending.
        rates: success rate at each, as many.
    """
    return next((step for step, rate in zip(steps, rates, strict=True) if rate >= threshold), None)


def _phi(both: int, wins: int, losses: int, neither: int) -> float:
    """Correlation of the 2x2 table, shrunk by n/2 towards zero where positive; 0 where a margin is empty."""
    margins = (both + wins) * (losses + neither) * (both + losses) * (wins + neither)
    if margins == 0:
        return 0.0
    cross: float = both * neither - wins * losses
    if cross > 0:
        cross = max(cross - (both + wins + losses + neither) / 2, 0)
    return cross / math.sqrt(margins)
