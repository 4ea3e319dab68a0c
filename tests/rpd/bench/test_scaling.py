"""Simulation of more ranks, by numbers computed by hand."""

import numpy as np
import pytest

from rpd.bench.scaling import FREE, Collective, Network, Recording, expected_maximum, predict

NETWORK = Network("by hand", latency=1e-3, bandwidth=1e6)


def test_all_reduce_of_many_bytes_is_a_ring():
    # 4 ranks, 1 MB: 6 messages of 1 ms, 2 * 3/4 MB at 1 MB/s; a tree takes 4 (1 ms + 1 s).
    assert Collective("all_reduce", 10**6).seconds(4, NETWORK) == pytest.approx(0.006 + 1.5)


def test_all_reduce_of_few_bytes_is_a_tree():
    # 64 ranks, 100 bytes: 12 hops of 1 ms + 0.1 ms; a ring takes 126 ms.
    assert Collective("all_reduce", 100).seconds(64, NETWORK) == pytest.approx(12 * 1.1e-3)


def test_gather_receives_the_lengths_and_the_values_of_all_other_ranks():
    # 8 ranks, 92 bytes and 8 of the length: 2 * 3 hops of 1 ms, 7 * 100 bytes.
    collective = Collective("gather", 92)
    assert collective.seconds(8, NETWORK) == pytest.approx(0.006 + 0.0007)
    assert collective.count == 2 and Collective("all_reduce", 1).count == 1


def test_collectives_of_one_rank_take_no_time():
    assert all(Collective(kind, 1000).seconds(1, NETWORK) == 0 for kind in ("all_reduce", "gather"))


def test_expected_maximum_of_two_draws():
    # Of {1, 3}: 1 with probability 1/4, else 3. Of {5, 5}: 5.
    assert expected_maximum(np.array([[3.0, 5.0], [1.0, 5.0]]), 2) == pytest.approx([2.5, 5])


def test_expected_maximum_of_one_draw_is_the_mean_and_of_many_the_largest():
    samples = np.random.default_rng(0).random((40, 3))
    assert expected_maximum(samples, 1) == pytest.approx(samples.mean(0))
    assert expected_maximum(samples, 10**5) == pytest.approx(samples.max(0))


def test_expected_maximum_equals_resampling():
    generator = np.random.default_rng(1)
    samples = generator.exponential(size=30)
    drawn = generator.choice(samples, (20_000, 8)).max(1)
    assert expected_maximum(samples[:, None], 8)[0] == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 20_000**0.5)


def test_efficiency_counts_the_slowest_rank_between_collectives_and_work_that_grows():
    # Two parts: {1, 3} s and always 2 s. Alone: 2 + 2 + 0.5 s. Two ranks: 2.5 + 2 s, a ring or tree of 2 messages of 1 ms and
    # 1 MB in all, 0.25 s of software, and 1 s of work that has grown.
    recording = Recording(np.array([[1.0, 2.0], [3.0, 2.0]]), [Collective("all_reduce", 10**6)], software=0.25)
    found = predict(recording, 2, NETWORK, 1.0, 0.5)
    assert (found.alone, found.compute, found.communication, found.growing) == pytest.approx((4.5, 4.5, 1.252, 1.0))
    assert found.efficiency == pytest.approx(4.5 / 6.752)
    assert predict(recording, 2, FREE).efficiency == pytest.approx(4 / 4.75)
    assert predict(recording, 1, FREE).efficiency == pytest.approx(1)
