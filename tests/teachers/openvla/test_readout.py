"""Distributions over tokens to a teacher's answer: hand-computed bins, signs, densities; invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rpd.teachers.openvla.action_decoder import FLAT, ActionDecoder
from rpd.teachers.openvla.actions import ActionBins, ActionStatistics
from rpd.teachers.vla.action_mapping import ActionMap

V, BINS = 100, 5
"""Five action tokens, 95 .. 99: four bins of width 0.5, centres -0.75, -0.25, 0.25, 0.75; 99 is the lowest."""
CPU = torch.device("cpu")


def readout(q01, q99, gain, offset, discrete, mask=None, bins=BINS, vocab=V):
    statistics = ActionStatistics(q01=q01, q99=q99, mask=mask)
    return ActionDecoder(ActionBins(vocab, bins), statistics, ActionMap(np.array(gain), np.array(offset)), discrete, CPU)


@pytest.fixture
def arm():
    """x: +-0.1 at 5 per unit; y: 0 .. 0.2, and the environment turns the other way; gripper of 0 and 1, not normalised."""
    return readout(
        [-0.1, 0.0, 0.0], [0.1, 0.2, 1.0], [5.0, -2.0, 2.0], [0.0, 0.0, -1.0], (False, False, True), [True, True, False]
    )


def one_hot(*columns, bins=BINS):
    """Logits [1, A, bins] that leave no doubt."""
    return 40 * torch.nn.functional.one_hot(torch.tensor([columns]), bins).float()


def test_bins_by_hand(arm):
    assert arm.edges[0].tolist() == pytest.approx([-0.5, -0.25, 0, 0.25, 0.5])
    assert arm.edges[1].tolist() == pytest.approx([-0.4, -0.3, -0.2, -0.1, 0])  # ascending, though tokens descend
    assert arm.edges[2].tolist() == pytest.approx([-3, -2, -1, 0, 1])
    assert arm.centers[1].tolist() == pytest.approx([-0.05, -0.15, -0.25, -0.35])


def test_greedy_action_by_hand(arm):
    """Token 99 - k is column k; the last two columns share a value; ids that are no action tokens go to the ends."""
    tokens = torch.tensor([[99, 98, 97], [97, 96, 96], [95, 95, 95], [3, 110, 98]])
    expected = [[-0.375, -0.15, -1], [0.125, -0.35, 1], [0.375, -0.35, 1], [0.375, -0.05, -1]]
    torch.testing.assert_close(arm.greedy(tokens), torch.tensor(expected))


def test_bins_beyond_the_action_range_are_clipped():
    wide = readout([-1.0], [1.0], [4.0], [0.0], (False,))
    assert wide.edges[0].tolist() == [-4, -2, 0, 2, 4]
    assert wide.greedy(torch.tensor([[99], [96]])).tolist() == [[-1], [1]]
    assert wide.std(wide.columns(one_hot(3))).item() == pytest.approx(0, abs=1e-6)  # 2 .. 4 is all 1
    assert wide.std(wide.columns(one_hot(2))).item() == pytest.approx(1 / math.sqrt(12))  # 0 .. 2 is 0 .. 1


def test_columns_take_the_two_highest_tokens_together(arm):
    logits = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15]).log().expand(1, 3, 5) + 7  # any constant
    torch.testing.assert_close(arm.columns(logits).exp()[0, 0], torch.tensor([0.1, 0.2, 0.3, 0.4]))
    bins = arm.bin_logits(arm.columns(logits)).exp()[0]
    torch.testing.assert_close(bins[0], torch.tensor([0.1, 0.2, 0.3, 0.4]))
    torch.testing.assert_close(bins[1], torch.tensor([0.4, 0.3, 0.2, 0.1]))  # as its edges ascend


def test_gripper_by_hand(arm):
    """Centres -0.75, -0.25, 0.25, 0.75 of a gripper that opens above a half: only the last opens."""
    logits = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15]).log().expand(1, 3, 5)
    columns = arm.columns(logits)
    yes, no = arm.opening(columns)
    assert yes[0, 2].exp().item() == pytest.approx(0.4) and no[0, 2].exp().item() == pytest.approx(0.6)
    assert arm.mean(torch.tensor([[99, 99, 99]]), columns)[0, 2].item() == pytest.approx(2 * 0.4 - 1)


def test_std_by_hand(arm):
    """x: half at -0.375, half at 0.375 (bins 0 and 3), each evenly filled over 0.25."""
    columns = torch.tensor([0.5, 1e-30, 1e-30, 0.5]).log().expand(1, 3, 4)
    assert arm.std(columns)[0, 0].item() == pytest.approx(math.sqrt(0.375**2 + 0.25**2 / 12), rel=1e-6)


def test_log_prob_by_hand(arm):
    columns = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(2, 3, 4)
    action = torch.tensor([[0.3, -0.05, -1.0], [-0.9, -0.31, 1.0]])
    # x in (0.25, 0.5) of width 0.25; y = -0.05 in the lowest column of width 0.1; closing is 0.6
    first = [0.4 / 0.25, 0.1 / 0.1, 0.6]
    second = [0.1 / 0.25, 0.4 / 0.1, 0.4]  # beyond the range counts as its end
    torch.testing.assert_close(arm.log_prob(columns, action), torch.tensor([first, second]).log())


def test_density_integrates_to_one(arm):
    """Over x in its range, and both signs of the gripper."""
    columns = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    grid = torch.linspace(-0.5, 0.5, 1001)[:-1] + 0.0005
    total = 0.0
    for sign in (-1.0, 1.0):
        action = torch.stack([grid, torch.full_like(grid, -0.25), torch.full_like(grid, sign)], 1)
        total += arm.log_prob(columns.expand(1000, -1, -1), action).sum(-1).exp().sum().item() / 1000
    y = columns[0, 1, 2].exp().item() / 0.1
    assert total == pytest.approx(y, rel=1e-4)


def test_tokens_of_actions(arm):
    """What training would have written: x = 0.5 is the end, and only that is the highest token; closed is 0, not -1."""
    action = torch.tensor([[0.5, 0.0, 1.0], [0.49, -0.4, -1.0], [-7.0, -0.15, -0.2], [0.0, 5.0, 0.3]])
    assert arm.tokens(action).tolist() == [[95, 99, 95], [96, 95, 97], [99, 98, 97], [97, 99, 95]]


def test_actions_survive_a_round_trip():
    flipped = readout([-0.3, 0.1], [0.2, 0.4], [3.0, -1.5], [0.1, 0.2], (False, False), bins=256, vocab=32000)
    tokens = torch.arange(31745, 32000)[:, None].expand(-1, 2)
    assert torch.equal(flipped.tokens(flipped.centers.T.flip(0)), tokens)


def test_most_likely_bin_holds_the_greedy_action():
    dims = readout([-0.3, 0.1], [0.2, 0.4], [3.0, -1.5], [0.1, 0.2], (False, False), bins=256, vocab=32000)
    for k in (0, 17, 200, 254, 255):
        columns = dims.columns(one_hot(k, k, bins=256))
        best = dims.bin_logits(columns)[0].argmax(-1)
        action = dims.greedy(torch.full((1, 2), 31999 - k))[0]
        low, high = dims.edges[torch.arange(2), best], dims.edges[torch.arange(2), best + 1]
        assert (low < action).all() and (action < high).all()
        torch.testing.assert_close(dims.log_prob(columns, action[None]), -(high - low).log()[None])


def test_dimension_that_the_robot_never_moved():
    """Bins as fine as the action space, all mass where the action is; a student's action is scored by a narrow Gaussian."""
    still = readout([0.2, -1.0], [0.2, 1.0], [2.0, 1.0], [0.0, 0.0], (False, False))
    assert (still.edges.diff(dim=-1) > 0).all() and still.edges[0].tolist() == [-1, -0.5, 0, 0.5, 1]
    columns = still.columns(torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0)))
    bins = still.bin_logits(columns)
    torch.testing.assert_close(bins[:, 0].exp(), torch.tensor([[0.0, 0, 1, 0]]).expand(2, -1), atol=1e-6, rtol=0)
    assert bins.isfinite().all() and still.std(columns)[:, 0].tolist() == [0, 0]
    assert still.greedy(torch.tensor([[99, 99]]))[0, 0].item() == pytest.approx(0.4)
    there, elsewhere = (still.log_prob(columns, torch.tensor([[x, 0.3]] * 2)) for x in (0.4, -0.9))
    assert torch.allclose(there - elsewhere, torch.tensor([0.5 * (1.3 / 0.03) ** 2, 0.0]))
    assert still.tokens(torch.tensor([[0.7, 0.3]]))[0, 0] == 97  # its middle, as in training
    assert not readout([0.0], [4 * FLAT], [1.0], [0.0], (False,)).flat.any()


def test_bins_are_normalised_and_finite(arm):
    columns = arm.columns(50 * torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0)))
    bins = arm.bin_logits(columns)
    torch.testing.assert_close(bins.logsumexp(-1), torch.zeros(8, 3), atol=1e-5, rtol=0)
    assert (arm.edges.diff(dim=-1) > 0).all()
    assert arm.log_prob(columns, torch.zeros(8, 3)).isfinite().all()
