"""Intervals against published values."""

import pytest
import torch

from rpd.core.statistics import format_rate, mcnemar, paired_difference, steps_to, wilson


def pairs(both: int, wins: int, losses: int, neither: int) -> tuple[list[bool], list[bool]]:
    a = [True] * both + [True] * wins + [False] * losses + [False] * neither
    b = [True] * both + [False] * wins + [True] * losses + [False] * neither
    return a, b


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        # Newcombe, 1998, Statistics in Medicine 17:857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_published(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_edges() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 7)[0] == 0.0 and wilson(7, 7)[1] == 1.0
    for k in range(8):  # mirrored
        low, high = wilson(k, 7)
        assert wilson(7 - k, 7) == pytest.approx((1 - high, 1 - low))
    with pytest.raises(ValueError, match="5 successes in 4 trials"):
        wilson(5, 4)


def test_format() -> None:
    assert format_rate(87, 100) == "87/100 (79.0–92.2 %)"
    assert format_rate(0, 10) == "0/10 (0.0–27.8 %)"


def test_paired_published() -> None:
    # Newcombe, 1998, Statistics in Medicine 17:2635, method 10: pairs (36, 12, 2, 0) give 0.0569 to 0.3404
    result = paired_difference(*pairs(36, 12, 2, 0))
    assert result.diff == pytest.approx(0.2)
    assert (result.lo, result.hi) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert (result.n, result.wins, result.losses) == (50, 12, 2)
    assert result.significant


def test_paired_by_hand() -> None:
    # 4 pairs: both, A only, A only, neither. p1 = 3/4, p2 = 1/4, Wilson (0.3006, 0.9544) and (0.0456, 0.6994).
    # phi: 1*1 - 2*0 = 1 <= n/2, so 0. lo = 0.5 - sqrt(0.4494² + 0.4494²), hi = 0.5 + sqrt(0.2044² + 0.2044²)
    result = paired_difference(*pairs(1, 2, 0, 1))
    assert result.diff == 0.5
    assert result.lo == pytest.approx(0.5 - 0.4494 * 2**0.5, abs=1e-4)
    assert result.hi == pytest.approx(0.5 + 0.2044 * 2**0.5, abs=1e-4)
    assert result.p_value == 0.5  # two discordant pairs, both the same way: 2 * (1/2)²
    assert not result.significant


def test_paired_is_antisymmetric_and_takes_tensors() -> None:
    a, b = (torch.tensor(x) for x in pairs(20, 12, 2, 16))
    ab, ba = paired_difference(a, b), paired_difference(b, a)
    assert (ab.lo, ab.hi) == pytest.approx((-ba.hi, -ba.lo))
    assert ab.p_value == ba.p_value
    # agreement between the two (phi > 0) makes the interval narrower than the same rates without it
    shuffled = paired_difference(*pairs(14, 18, 8, 10))
    assert (shuffled.diff, shuffled.n) == pytest.approx((ab.diff, ab.n))
    assert ab.hi - ab.lo < shuffled.hi - shuffled.lo


def test_identical_policies_differ_by_nothing() -> None:
    result = paired_difference([True] * 54, [True] * 54)
    assert result.diff == 0.0 and result.p_value == 1.0
    assert (result.lo, result.hi) == pytest.approx((-0.0664, 0.0664), abs=5e-5)


def test_paired_refuses_different_episodes() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired_difference([True, False], [True, False, True])
    with pytest.raises(ValueError, match="got 0 and 0"):
        paired_difference([], [])


def test_mcnemar() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(12, 2) == pytest.approx(2 * (1 + 14 + 91) / 2**14)


def test_steps_to() -> None:
    steps, rates = [100, 200, 300], [0.1, 0.5, 0.4]
    assert steps_to(0.5, steps, rates) == 200
    assert steps_to(0.6, steps, rates) is None
