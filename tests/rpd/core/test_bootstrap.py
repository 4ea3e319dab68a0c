"""Intervals over training seeds and episodes: hand-computed values, limits, and simulated coverage."""

import math

import numpy as np
import pytest

from rpd.core.bootstrap import pooled_rate, probability_of_improvement, rate_difference, resampled_rates, steps_to_rate
from rpd.core.iqm import interquartile_interval, interquartile_mean
from rpd.core.statistics import wilson


def test_a_single_run_has_its_wilson_interval():
    assert pooled_rate([[(87, 100)]]) == (0.87, *wilson(87, 100))


def test_perfect_runs_have_no_empty_interval():
    rate, low, high = pooled_rate([[(200, 200)] * 3])
    assert rate == high == 1.0 and low < wilson(600, 600)[0] + 1e-12


def test_runs_that_differ_widen_the_interval():
    even, uneven = pooled_rate([[(100, 200)] * 3]), pooled_rate([[(20, 200), (100, 200), (180, 200)]])
    assert even.value == uneven.value == 0.5
    assert uneven.high - uneven.low > 5 * (even.high - even.low)
    assert uneven.low == pytest.approx(0.1, abs=0.05), "all three draws are the lowest run in 1 of 27 samples"


def test_runs_weigh_by_their_episodes():
    assert pooled_rate([[(10, 10), (0, 30)]]).value == 0.25


def test_tasks_are_drawn_apart():
    apart, mixed = pooled_rate([[(0, 200)] * 2, [(200, 200)] * 2]), pooled_rate([[(0, 200)] * 2 + [(200, 200)] * 2])
    assert apart.high - apart.low < 0.2 < mixed.high - mixed.low


def test_drawn_rates_have_the_mean_and_variance_of_their_beta():
    rates, episodes = resampled_rates([(30, 40)], 20_000, np.random.default_rng(0))
    a, b = 30.5, 10.5
    assert rates.mean() == pytest.approx(a / (a + b), abs=2e-3) and (episodes == 40).all()
    assert rates.var() == pytest.approx(a * b / ((a + b) ** 2 * (a + b + 1)), rel=0.05)


@pytest.mark.parametrize("runs", [[], [(3, 2)], [(0, 0)]])
def test_impossible_runs_are_rejected(runs):
    with pytest.raises(ValueError, match="successes <= episodes"):
        pooled_rate([runs])


def test_difference_of_single_runs_is_newcombes():
    # Newcombe (1998), table II, case (a): 56/70 - 48/80, method 10.
    assert rate_difference([[(56, 70)]], [[(48, 80)]]) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_probability_of_improvement_counts_pairs():
    a, b = [[(90, 100), (50, 100)]], [[(50, 100), (10, 100)]]
    estimate = probability_of_improvement(a, b)
    assert estimate.value == (1 + 1 + 0.5 + 1) / 4 and estimate.low < estimate.value < estimate.high <= 1
    assert probability_of_improvement(a + b, b + a).value == 0.5
    with pytest.raises(ValueError, match="1 and 2 tasks"):
        probability_of_improvement(a, a + b)


def test_steps_to_a_rate_count_never_as_latest():
    early = [(100, 0, 100), (200, 99, 100), (300, 99, 100)]
    never = [(100, 0, 100), (200, 0, 100), (300, 1, 100)]
    assert steps_to_rate([early] * 3, 0.5) == (200, 200, 200, 300)
    value, low, high, within = steps_to_rate([early, never, never[:2]], 0.5)
    assert math.isinf(value) and low == 200 and math.isinf(high) and within == 200
    value, low, high, _ = steps_to_rate([early, early, never], 0.5)
    assert (value, low) == (200, 200) and math.isinf(high), "two of three draws are the third run in 7 of 27 samples"


def test_steps_hang_on_the_episodes_of_an_evaluation():
    value, low, high, _ = steps_to_rate([[(100, 49, 100), (200, 51, 100), (300, 100, 100)]], 0.5)
    assert (value, low, high) == (200, 100, 300)


def test_interquartile_interval_has_episodes_of_equal_runs():
    runs = [(50, 100)] * 4
    low, high = interquartile_interval([runs])
    assert low < interquartile_mean([0.5] * 4) < high
    assert interquartile_interval([runs[:1]]) is None


def test_coverage():
    """With five runs of true rates 60 % +- 7 points the pooled Wilson interval holds the rate far too seldom."""
    rng, trials = np.random.default_rng(1), 200
    held = np.zeros((2, trials), bool)
    for i in range(trials):
        k = rng.binomial(200, rng.beta(30, 20, 5))
        intervals = (pooled_rate([[(int(x), 200) for x in k]], resamples=400)[1:], wilson(int(k.sum()), 1000))
        held[:, i] = [low <= 0.6 <= high for low, high in intervals]
    assert held[0].mean() > 0.85 and held[1].mean() < 0.75
