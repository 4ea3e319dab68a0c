"""Random numbers as functions of a seed: uniform, independent, and the same in any batch."""

from __future__ import annotations

import numpy as np

from rpd.envs.seeding import in_32_bits, next_seed, uniforms

SEEDS = np.arange(4000)


def test_uniforms_are_uniform_and_streams_independent():
    u = uniforms(SEEDS, 8, stream=0)
    assert u.shape == (4000, 8) and (u >= 0).all() and (u < 1).all()
    # Mean and variance of U(0, 1), 5 standard errors wide; neighbouring seeds and columns share nothing.
    np.testing.assert_allclose(u.mean(axis=0), 0.5, atol=5 * (1 / 12 / 4000) ** 0.5)
    np.testing.assert_allclose(u.var(axis=0), 1 / 12, atol=0.006)
    other = uniforms(SEEDS, 8, stream=1)
    columns = np.corrcoef(np.concatenate([u, other], axis=1).T)
    assert np.abs(columns - np.eye(16)).max() < 5 / 4000**0.5
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 5 / 4000**0.5


def test_uniforms_depend_on_the_seed_alone():
    one = uniforms(np.array([7]), 5, stream=2)
    np.testing.assert_array_equal(uniforms(np.array([3, 7]), 5, stream=2)[1:], one)
    np.testing.assert_array_equal(uniforms(np.array([7]), 9, stream=2)[:, :5], one)
    np.testing.assert_array_equal(uniforms(np.array([7, 7]), 5, stream=np.array([1, 2]))[1:], one)


def test_next_seeds_are_distinct():
    seeds = [SEEDS]
    for _ in range(5):
        seeds.append(next_seed(seeds[-1]))
    every = np.concatenate(seeds)
    assert len(np.unique(every)) == len(every)
    assert (every >= 0).all() and every.dtype == np.int64


def test_no_seed_of_training_becomes_one_of_an_evaluation():
    assert [in_32_bits(seed) for seed in (0, 2_000_199, 2**31 - 1)] == [0, 2_000_199, 2**31 - 1]
    folded = [in_32_bits(seed) for seed in (2**31, 2**32 + 2_000_000, 2**62 - 1)]
    assert folded == [2**31, 2**31 + 2_000_000, 2**32 - 1]
