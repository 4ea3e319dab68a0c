"""Tokens to actions and back, un-normalisation and the choice of statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rpd.envs.errors import ConfigError
from rpd.teachers.openvla.actions import ActionBins, ActionStatistics, select

BINS = ActionBins(32000, 256)


def test_tables_of_the_original(golden):
    np.testing.assert_array_equal(BINS.centers, golden.arrays["detok/bin_centers"])
    np.testing.assert_array_equal(BINS.decode(golden.arrays["detok/token_ids"]), golden.arrays["detok/normalized"])
    np.testing.assert_array_equal(BINS.encode(golden.arrays["tok/x"]), golden.arrays["tok/token_ids"])


def test_hand_computed_actions():
    tokens = np.array([31999, 31872, 31745, 31744, 20, 32010])
    np.testing.assert_allclose(BINS.decode(tokens), [-254 / 255, 0, 254 / 255, 254 / 255, 254 / 255, -254 / 255], atol=1e-12)
    assert BINS.encode(np.array([-3.0, -1.0, 0.0, 0.9999, 1.0, 2.0])).tolist() == [31999, 31999, 31872, 31745, 31744, 31744]


def test_every_bin_survives_a_round_trip():
    assert BINS.encode(BINS.centers).tolist() == list(range(31999, 31744, -1))


@pytest.mark.parametrize("key", ["tiny_bridge", "tiny_human:7.0.0"])
def test_actions_of_the_original(golden, checkpoint, key):
    _, statistics = select(checkpoint.statistics, key, "tiny")
    for i in golden.samples:
        normalized = BINS.decode(golden.of(i, "tokens"))
        np.testing.assert_allclose(normalized, golden.of(i, f"normalized[{key}]"), rtol=0, atol=1e-12)
        np.testing.assert_allclose(statistics.unnormalize(normalized), golden.of(i, f"action[{key}]"), rtol=0, atol=1e-12)


def test_unnormalize_by_hand():
    masked = ActionStatistics(q01=[-2.0, 0.0], q99=[4.0, 1.0], mask=[True, False])
    np.testing.assert_allclose(masked.unnormalize(np.array([[-1, -1], [0, 0.25], [1, 1]])), [[-2, -1], [1, 0.25], [4, 1]])
    every = ActionStatistics(q01=[-2.0, 0.0], q99=[4.0, 1.0])
    np.testing.assert_allclose(every.unnormalize(np.array([0.0, 0.0])), [1, 0.5])


def test_only_statistics_need_no_key(checkpoint):
    only = {"mine": checkpoint.statistics["tiny_bridge"]}
    assert select(only, None, "tiny")[0] == "mine"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (None, r"tiny: has action statistics of 2 data sets: add unnorm_key=, one of tiny_bridge, tiny_human:7.0.0"),
        ("tiny_brigde", r"unknown unnorm_key of tiny 'tiny_brigde': did you mean tiny_bridge"),
        ("else", r"unknown unnorm_key of tiny 'else': .*tiny_bridge, tiny_human:7.0.0"),
    ],
)
def test_ambiguous_or_missing_key(checkpoint, key, said):
    with pytest.raises(ConfigError, match=said):
        select(checkpoint.statistics, key, "tiny")


@pytest.mark.parametrize(
    "action",
    [None, [], {"q01": [0.0]}, {"q01": [0.0], "q99": [1.0, 2.0]}, {"q01": [0.0], "q99": [math.nan]}, {"q01": "x", "q99": []}],
)
def test_damaged_statistics(action):
    with pytest.raises(ConfigError, match="the action statistics of 'a'"):
        select({"a": {"action": action}}, "a", "tiny")


@pytest.mark.parametrize(
    ("q01", "said"),
    [
        ([0.0, 2.0], "q99 - q01 of dimension 1 is -1, which would mirror it"),
        ([0.0, 1.0], "q99 - q01 of dimension 1 is 0, which would freeze it: if that is intended, its mask must be false"),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "dataset_statistics.json"])
def test_statistics_that_mirror_an_axis_or_hold_it_still(q01, said, file):
    values = {"a": {"action": {"q01": q01, "q99": [1.0, 1.0], "mask": [True, True]}}}
    with pytest.raises(ConfigError, match=rf"^tiny: {file}: the action statistics of 'a': {said}$"):
        select(values, None, "tiny", values if file == "config.json" else {})
    values["a"]["action"]["mask"] = [True, False]
    assert select(values, None, "tiny")[1].dim == 2
    del values["a"]["action"]["mask"]  # all are normalised
    with pytest.raises(ConfigError, match="of dimension 1"):
        select(values, None, "tiny")


def test_no_statistics():
    with pytest.raises(ConfigError, match=r"tiny: has no action statistics: no norm_stats, and no dataset_statistics.json"):
        select({}, None, "tiny")
